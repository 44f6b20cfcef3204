"""The command line as a user meets it: real processes, real database, an engine that needs no weights."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from jobs import Client
from jobs.cli.app import app
from tests.support.backends import Backend
from tests.support.processes import RunCars, WorkerProcess, environment, wait_until

CARS = [sys.executable, "-P", "-m", "jobs.cli"]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that holds the engine up for as long as it exists; it does not exist yet."""
    monkeypatch.setenv("CARS_ENGINE", "tests.support.gated_engine:GatedEngine")
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


@pytest.fixture
def folder(photos: Callable[..., Path]) -> Path:
    """Twelve photos and one file that is none."""
    folder = photos(12)
    (folder / "broken.jpg").write_bytes(b"this is not a photo")
    return folder


def started(*arguments: str, preexec_fn: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CARS, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def workers_of(home: Path) -> list[psutil.Process]:
    """The worker processes that have this CARS_HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            command, env = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if "workers" in command and env.get("CARS_HOME") == str(home):
            found.append(process)
    return found


def test_classify_is_the_only_command_needed(home: Path, gate: Path, folder: Path, run_cars: RunCars) -> None:
    done = run_cars("classify", folder)
    assert done.returncode == 0, done.stderr
    rows = {row["path"]: row for row in lines(done.stdout)}
    assert len(rows) == 13
    assert rows["broken.jpg"]["error"]["code"] == "undecodable"
    assert sorted({row["status"] for row in rows.values()}) == ["failed", "ok"]
    assert "12 of 13 images classified" in done.stderr
    assert workers_of(home) == []

    again = run_cars("classify", folder, "--strict", "--format", "csv")
    assert again.returncode == 3
    assert len(list(csv.DictReader(io.StringIO(again.stdout)))) == 13
    assert "12 of them known before" in again.stderr


def test_a_terminal_gets_a_progress_bar_on_stderr(home: Path, gate: Path, folder: Path) -> None:
    terminal, inside = os.openpty()
    process = subprocess.Popen(
        [*CARS, "classify", str(folder)],
        env=environment({"TERM": "xterm", "COLUMNS": "100"}),
        stdout=subprocess.PIPE,
        stderr=inside,
        text=True,
    )
    os.close(inside)
    shown = b""
    while part := read_terminal(terminal):
        shown += part
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(lines(stdout)) == 13
    assert "━" in shown.decode()
    assert "13/13 · 1 failed" in shown.decode()


def read_terminal(terminal: int) -> bytes:
    """The next output; empty when the last process has closed its side."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says EIO where others say end of file
        return b""


def test_a_job_from_submission_to_its_deletion(
    backend: Backend, gate: Path, folder: Path, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    def cars(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    submitted = cars("submit", folder, "--name", "spring")
    assert submitted.exit_code == 0
    job = submitted.stdout.removesuffix("\n")
    assert job.isalnum()
    assert "cars worker" in submitted.stderr

    worker(backend.env)
    waited = cars("wait", job)
    assert (waited.exit_code, waited.stdout) == (0, "")
    assert cars("wait", job, "--strict").exit_code == 3
    status = json.loads(cars("status", job, "--format", "json").stdout)
    assert (status["state"], status["total"], status["ok"], status["failed"]) == ("completed_with_errors", 13, 12, 1)
    assert [row["id"] for row in lines(cars("jobs").stdout)] == [job]
    assert [row["path"] for row in lines(cars("errors", job).stdout)] == ["broken.jpg"]
    assert len(lines(cars("results", job, "--status", "ok", "--min-confidence", "0.5").stdout)) == 12
    for ending in ("csv", "jsonl", "json", "parquet"):
        assert cars("results", job, "-o", tmp_path / f"rows.{ending}").exit_code == 0
        assert (tmp_path / f"rows.{ending}").stat().st_size

    assert cars("cancel", job).exit_code == 0  # it has ended: nothing changes
    assert cars("retry", job).exit_code == 0
    assert cars("wait", job).exit_code == 0
    assert cars("prune", "--older-than", "1d").stderr.startswith("deleted 0 jobs")
    assert cars("delete", job).exit_code == 0
    gone = cars("status", job)
    assert gone.exit_code == 1
    assert gone.stderr.startswith("error: no job")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_classify_that_is_stopped_takes_its_worker_along_and_keeps_the_job(
    home: Path, gate: Path, folder: Path, number: signal.Signals, code: int
) -> None:
    gate.touch()
    # Tests that a shell runs in the background were told to ignore SIGINT, and a program they start would be too.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with started("classify", str(folder), preexec_fn=heed) as process, Client() as client:
        wait_until(lambda: any(status.state == "running" for status in client.jobs()))
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "")
    assert "cars wait 1" in stderr
    assert workers_of(home) == []
    gate.unlink()
    with Client() as client:
        assert client.job("1").status().state == "running"


def test_two_at_once_share_what_workers_there_are(home: Path, gate: Path, photos: Callable[..., Path]) -> None:
    folders = [photos(8, folder=home.parent / name) for name in ("a", "b")]
    processes = [started("classify", str(folder)) for folder in folders]
    for process in processes:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        assert len(lines(stdout)) == 8


def test_classify_reports_an_engine_that_does_not_exist(home: Path, folder: Path, run_cars: RunCars) -> None:
    done = run_cars("classify", folder, env={"CARS_ENGINE": "no_such_module:Engine"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr
    assert workers_of(home) == []


def test_a_reader_may_leave_early(home: Path, gate: Path, photos: Callable[..., Path], run_cars: RunCars) -> None:
    folder = photos(3)
    for n in range(3000):  # far more rows than a pipe holds
        os.link(folder / "000001.jpg", folder / f"copy-{n}.jpg")
    assert run_cars("classify", folder, "-o", home / "rows.csv").returncode == 0
    script = '"$0" -P -m jobs.cli results --format "$1" | head -n 1; exit "${PIPESTATUS[0]}"'
    for form in ("jsonl", "csv", "table"):
        done = subprocess.run(
            ["bash", "-c", script, sys.executable, form], env=environment(), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 1


def test_wrong_settings_are_wrong_usage(run_cars: RunCars, home: Path) -> None:
    done = run_cars("jobs", env={"CARS_BATCH_SIZE": "many"})
    assert done.returncode == 2
    assert done.stderr.startswith("error: CARS_BATCH_SIZE")


def test_a_folder_named_jobs_here_is_not_imported(tmp_path: Path, home: Path, run_cars: RunCars) -> None:
    for name in ("jobs", "workers", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = run_cars("doctor", cwd=tmp_path)
    assert "the wrong package" not in done.stderr
    assert lines(done.stdout)[0]["check"] == "database"
