"""Every command and every example of the README does what it says.

Commands run as they stand, in one shell a block, but for the placeholders in `stand_ins`: a folder of generated photos
for `FOLDER` and `/photos`, the test servers for the two on localhost, `cars` of this environment for `./cars` (the
launcher has tests of its own), and a dry run for `make test`, which is what is running.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pages import blocks, cars_on_path, run
from tests.support.processes import CHECKOUT, WorkerProcess, environment

README = (CHECKOUT / "README.md").read_text()


def activate_script(folder: Path) -> Path:
    """Write a stand-in for the script of the environment that `./cars` makes (test_launcher uses the real one)."""
    script = folder / "activate"
    script.write_text(f"PATH={cars_on_path(folder)}:{Path(sys.executable).parent}:$PATH\n")
    return script


def test_first_screen_has_the_two_commands() -> None:
    first_screen = README.splitlines()[:20]
    assert any(line.startswith("./cars classify FOLDER") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)


def test_shell_blocks_run(
    tmp_path: Path,
    home: Path,
    pg_url: str,
    broker_url: str,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
) -> None:
    folder = photos(3)
    photos(2, folder=folder / "a1")
    stand_ins = {
        "./cars": "cars",
        "FOLDER": str(folder),
        "/photos": str(folder),
        ".venv/bin/activate": str(activate_script(tmp_path)),
        "make test": f"make --dry-run --directory={CHECKOUT} test",
        "postgresql://cars@localhost/cars": pg_url,
        "redis://localhost:6379/0": broker_url,
    }
    written = re.compile("|".join(map(re.escape, stand_ins)))
    first, activated, production, listings = (
        written.sub(lambda match: stand_ins[match[0]], script) for script in blocks(README, "sh")
    )

    shown = run(first, folder=tmp_path, env={"CARS_HOME": str(home)})
    rows = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    images = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(row["path"] for row in rows) == sorted(str(path.relative_to(folder)) for path in images)
    assert {row["status"] for row in rows} == {"ok"}
    assert "pytest" in shown  # of make's dry run

    assert '"check"' in run(activated, folder=tmp_path, env={"CARS_HOME": str(home)}, path=os.environ["PATH"])
    run(production, folder=tmp_path, env={"CARS_HOME": str(home)})
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(images)
    database = f"sqlite:///{home / 'cars.db'}"
    worker({"CARS_HOME": str(home), "CARS_DATABASE_URL": database, "CARS_BROKER_URL": "memory://"})
    run(listings, folder=tmp_path, env={"CARS_HOME": str(home)})
    [_, tags] = (tmp_path / "tags.csv").read_text().splitlines()
    assert ",a1," in tags


def test_python_blocks_and_the_example_run(
    tmp_path: Path, home: Path, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    photos(3, folder=tmp_path / "photos")
    env = {
        "CARS_HOME": str(home),
        "CARS_DATABASE_URL": f"sqlite:///{home / 'cars.db'}",
        "CARS_BROKER_URL": "memory://",
    }
    worker(env)
    programs = [["-c", code] for code in blocks(README, "python")] + [
        [str(CHECKOUT / "examples" / "submit.py"), "photos/"]
    ]
    assert len(programs) == 2
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-P", *program], cwd=tmp_path, env=environment(env), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_row_has_the_fields_of_a_result() -> None:
    from jobs import Result

    [shown] = blocks(README, "json")
    assert list(json.loads(shown)) == list(Result.__slots__)


def test_accuracy_is_that_of_the_bundled_card() -> None:
    metrics = json.loads((CHECKOUT / "model" / "bundled" / "card.json").read_text())["metrics"]
    sentence = re.search(r"^The bundled model is .*?\.$", README, re.MULTILINE | re.DOTALL)
    assert sentence, "the README does not say how good the bundled model is"
    figures = [f"{100 * metrics[name]:.1f}" for name in ("top1", "top5", "make", "coverage")]
    assert re.findall(r"(\d+\.\d)(?:\*\*)? ?%", sentence[0]) == figures


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (CHECKOUT / target).exists()
