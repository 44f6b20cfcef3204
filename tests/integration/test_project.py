"""What the packaging promises: a light client, honest versions, a wheel that has everything it needs."""

import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import jobs
from tests.support.processes import CHECKOUT, environment

HEAVY = ["torch", "torchvision", "onnxruntime", "onnx", "fastai", "PIL", "pandas", "pyarrow", "model", "workers"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = f"import sys, jobs; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, jobs.cli.app; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_public_names_are_those_in_all() -> None:
    code = "import jobs; print(*dir(jobs)); [getattr(jobs, name) for name in dir(jobs)]"
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(jobs.__all__)
    assert {"Client", "Job", "Results", "Result"} <= set(jobs.__all__)


def test_version_is_the_newest_of_the_changelog() -> None:
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == declared


def test_every_requirement_is_pinned_in_the_constraints() -> None:
    pinned = re.findall(r"^([\w.-]+)==\S+$", (CHECKOUT / "constraints.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in needed} - {project["name"]}
    # A name is the same with either sign; pip freezes it as its author wrote it.
    assert {name.replace("_", "-") for name in names} - {name.lower().replace("_", "-") for name in pinned} == set()


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [CHECKOUT / name for name in ("jobs", "model", "workers", "migrations")]
    files = [path for package in packages for path in package.rglob("*") if path.is_file()]
    wanted = {path.relative_to(CHECKOUT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert wanted - names == set()
    assert {"jobs/cli/__main__.py", "migrations/env.py", "migrations/script.py.mako"} <= names
    assert [name for name in names if name.startswith(("tests/", "benchmarks/", "tools/"))] == []


def test_installed_wheel_migrates_a_database(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    env = environment({"CARS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(site)})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.cli", "migrate"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "cars.db").exists()
    assert (site / "bin" / "cars").exists()
