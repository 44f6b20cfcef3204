"""./cars: makes .venv once, whole or not at all, and then is the command line.

All but the last test use a small stand-in project beside the real launcher: no dependencies, and a build backend of its
own, so that pip needs no network.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT, wait_until

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "car-classifier"
version = "0.1.0"

[project.optional-dependencies]
cpu = []
tables = []
"""

BACKEND = """
import os, zipfile
from pathlib import Path

def build_editable(folder, config_settings=None, metadata_directory=None):
    if Path("broken").exists():
        raise SystemExit("the stand-in does not build")
    name, root = "car_classifier-0.1.0-py3-none-any.whl", os.getcwd()
    metadata = "Metadata-Version: 2.1\\nName: car-classifier\\nVersion: 0.1.0\\n"
    metadata += "Provides-Extra: cpu\\nProvides-Extra: tables\\n"
    files = {
        "car_classifier.pth": root + "\\n",
        "car_classifier-0.1.0.dist-info/METADATA": metadata,
        "car_classifier-0.1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "car_classifier-0.1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    with open("builds", "a") as log:
        log.write("built\\n")
    return name
"""

CLI = """
import os, sys
print(sys.prefix, os.getcwd(), *sys.argv[1:], sep="|")
sys.exit(7 if "fail" in sys.argv else 0)
"""


def make_checkout(root: Path) -> Path:
    (root / "jobs" / "cli").mkdir(parents=True)
    shutil.copytree(CHECKOUT / "tools", root / "tools")
    shutil.copy(CHECKOUT / "cars", root / "cars")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "constraints.txt").write_text("")
    (root / "jobs" / "__init__.py").touch()
    (root / "jobs" / "cli" / "__init__.py").touch()
    (root / "jobs" / "cli" / "__main__.py").write_text(CLI)
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout in which nothing has been run yet."""
    return make_checkout(tmp_path / "a checkout")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a checkout in which the launcher has run once, and its output."""
    root = make_checkout(tmp_path_factory.mktemp("launcher") / "a checkout")
    return root, launch(root / "cars", "status", "a b")


@pytest.fixture
def made(first: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """Return a checkout whose environment exists."""
    return first[0]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return {**kept, **changes}


def launch(command: Path, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(command), *args],
        cwd=cwd or command.parent,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def builds(checkout: Path) -> int:
    log = checkout / "builds"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_first_run_makes_the_environment(first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    checkout, done = first
    assert (done.returncode, done.stdout) == (0, f"{checkout / '.venv'}|{checkout}|status|a b\n")
    assert "making" in done.stderr


def test_later_runs_only_use_it(made: Path) -> None:
    before = builds(made)
    done = launch(made / "cars", "fail")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{made / '.venv'}|{made}|fail\n", "")
    assert builds(made) == before


def test_works_through_a_link_and_from_another_folder_with_modules_of_the_same_name(made: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "jobs").mkdir(parents=True)
    (elsewhere / "jobs" / "__init__.py").write_text("raise SystemExit('the folder of the user was imported')")
    link = tmp_path / "bin" / "cars"
    link.parent.mkdir()
    link.symlink_to(made / "cars")
    done = launch(link, cwd=elsewhere)
    assert (done.returncode, done.stdout) == (0, f"{made / '.venv'}|{elsewhere}\n")


@pytest.mark.parametrize("change", ["pyproject.toml", "constraints.txt", "extras"])
def test_what_it_is_made_from_changes(made: Path, change: str) -> None:
    launch(made / "cars")
    before = builds(made)
    extras = "tables" if change == "extras" else ""
    if not extras:
        with (made / change).open("a") as file:
            file.write("\n# changed\n")
    for _ in range(2):
        done = launch(made / "cars", "ok", CARS_EXTRAS=extras) if extras else launch(made / "cars", "ok")
        assert done.returncode == 0, done.stderr
    assert builds(made) == before + 1


def test_two_at_once_make_it_once(checkout: Path) -> None:
    both = [
        subprocess.Popen(
            [str(checkout / "cars")],
            cwd=checkout,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {stdout for stdout, _ in outputs} == {f"{checkout / '.venv'}|{checkout}\n"}
    assert builds(checkout) == 1


def test_killed_while_making_it_then_made_anew(checkout: Path) -> None:
    process = subprocess.Popen(
        [str(checkout / "cars")], cwd=checkout, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until((checkout / ".venv" / "bin" / "python").exists, message="a half-made .venv")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (checkout / ".venv" / "left-over").touch()
    done = launch(checkout / "cars")
    assert done.returncode == 0, done.stderr
    assert not (checkout / ".venv" / "left-over").exists()


def test_a_failed_installation_says_why_and_the_next_try_works(checkout: Path) -> None:
    (checkout / "broken").touch()
    failed = launch(checkout / "cars")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "the stand-in does not build" in failed.stderr
    assert "could not be installed" in failed.stderr
    (checkout / "broken").unlink()
    assert launch(checkout / "cars").returncode == 0


def test_a_moved_checkout_gets_an_environment_of_its_own(checkout: Path) -> None:
    launch(checkout / "cars")
    moved = checkout.rename(checkout.with_name("moved"))
    done = launch(moved / "cars")
    assert (done.returncode, done.stdout) == (0, f"{moved / '.venv'}|{moved}\n")


def test_an_unknown_extra_is_an_error(checkout: Path) -> None:
    done = launch(checkout / "cars", CARS_EXTRAS="cpu,tabels")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tabels" in done.stderr


def tools_on_path(folder: Path, **pythons: str) -> str:
    """Return a PATH with the shell's tools and only these Pythons (name and script)."""
    folder.mkdir()
    for tool in ("bash", "env", "dirname", "readlink", "cat", "head", "mkdir", "rm", "sh"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, script in pythons.items():
        program = folder / name.replace("_", ".")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return str(folder)


def test_no_python_is_an_error(checkout: Path, tmp_path: Path) -> None:
    old = tools_on_path(tmp_path / "bin", python3="exit 1", python3_12="echo not active >&2; exit 127")
    done = launch(checkout / "cars", PATH=old)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Python 3.11 or newer" in done.stderr


def test_a_python_without_venv_is_an_error_that_names_the_package(checkout: Path, tmp_path: Path) -> None:
    bare = tools_on_path(tmp_path / "bin", python3='case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    done = launch(checkout / "cars", PATH=bare)
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3-venv" in done.stderr


def test_a_python_that_does_not_run_is_passed_over(checkout: Path, tmp_path: Path) -> None:
    shim = tools_on_path(tmp_path / "bin", python3_12="exit 127")
    done = launch(checkout / "cars", PATH=f"{shim}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_clean_clone_classifies_a_folder(tmp_path: Path, photos: Callable[..., Path]) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("cars", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(CHECKOUT / name, clone / name)
    for name in ("tools", "jobs", "model", "workers", "migrations"):
        shutil.copytree(CHECKOUT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = launch(
        clone / "cars", "classify", str(photos(3)), "--format", "csv", cwd=tmp_path, HOME=str(tmp_path / "empty")
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 3
    assert sys.prefix not in done.stdout
    script = ". .venv/bin/activate; cars --version; cd /; python -c 'import jobs; print(jobs.__file__)'"
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=clone,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == str(clone / "jobs" / "__init__.py")
