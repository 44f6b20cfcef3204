"""The worker that `cars classify` brings along, as a process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli.local_worker import WorkerProcess
from jobs.errors import WorkerFailed
from jobs.requirements import require_model_packages
from tests.support.processes import wait_until


@pytest.mark.parametrize(
    ("engine", "installed", "missing"),
    [
        ("auto", {"PIL", "torch"}, None),
        ("auto", {"PIL", "onnxruntime"}, None),
        ("auto", {"PIL"}, "onnxruntime"),
        ("auto", set(), "Pillow and onnxruntime"),
        ("mine:Engine", {"PIL"}, None),
    ],
)
def test_a_client_only_installation_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, engine: str, installed: set[str], missing: str | None
) -> None:
    monkeypatch.setenv("CARS_ENGINE", engine)
    find = {name: name for name in installed}.get
    if missing is None:
        require_model_packages(find)
    else:
        with pytest.raises(WorkerFailed, match=rf"{missing} missing.*car-classifier\[cpu\]"):
            require_model_packages(find)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], WorkerProcess]:
    """Makes a WorkerProcess whose program is the given source."""

    def make(source: str) -> WorkerProcess:
        package = tmp_path / "workers"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("CARS_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("CARS_ENGINE", "mine:Engine")
        return WorkerProcess()

    return make


def test_a_worker_that_dies_leaves_its_last_words(stand_in: Callable[[str], WorkerProcess], tmp_path: Path) -> None:
    worker = stand_in("import sys\nprint('no model file')\nsys.exit(4)")
    assert worker.running() is False
    worker.start()

    def words() -> str:
        try:
            worker.running()
        except WorkerFailed as exc:
            return str(exc)
        return ""

    wait_until(lambda: bool(words()))
    assert "exit code 4" in words()
    assert "no model file" in words()
    assert str(tmp_path / "home" / "worker.log") in words()
    worker.stop(patience=0)


def test_a_worker_that_will_not_end_is_killed_with_its_children(
    stand_in: Callable[[str], WorkerProcess], tmp_path: Path
) -> None:
    stubborn = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        f"if child: pathlib.Path({str(tmp_path / 'child')!r}).write_text(f'{{child}}\\n')\n"
        "time.sleep(60)\n"
    )
    worker = stand_in(stubborn)
    worker.start()
    note = tmp_path / "child"
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
    assert worker.running()
    worker.stop(patience=0.1)
    child = int(note.read_text())
    wait_until(lambda: not alive(child))
    worker.stop(patience=0)  # once more does no harm


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
