"""Commands that see a job to its end: wait and classify; and those that end it or take it up again."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.cli.commands.jobs import patience
from jobs.errors import DatabaseUnavailable, SourceMissing
from jobs.records import JobStatus
from jobs.states import JobState
from tests.support.cli_fakes import A_FAILURE, RUNNING, SOME_FAILED, STATUS, Cars, a_result, rows_of


@pytest.fixture
def cars() -> Cars:
    return Cars()


# Wait, cancel, retry, prune


@pytest.mark.parametrize(
    ("last", "options", "code"),
    [
        (STATUS, (), 0),
        (STATUS, ("--strict",), 0),
        (SOME_FAILED, (), 0),
        (SOME_FAILED, ("--strict",), 3),
        (replace(STATUS, state=JobState.CANCELED, ok=1, canceled=2), (), 1),
        (replace(STATUS, state=JobState.FAILED, ok=0, canceled=3, error="the source is gone"), (), 1),
    ],
)
def test_the_end_of_a_job_decides_the_exit_code(
    cars: Cars, last: JobStatus, options: tuple[str, ...], code: int
) -> None:
    cars.client.statuses = [RUNNING, last]
    for command in (("wait", "7"), ("classify", "photos")):
        cars.client.statuses = [RUNNING, last]
        result = cars(*command, *options)
        assert result.exit_code == code
        assert last.state.replace("_", " ") in result.stderr
        assert (last.error or "") in result.stderr


def test_wait_prints_no_data(cars: Cars) -> None:
    assert cars("wait", "7").stdout == ""


@pytest.mark.parametrize("timeout", ["0.01s", "0"])
def test_wait_gives_up_after_its_timeout(cars: Cars, timeout: str) -> None:
    cars.client.statuses = [RUNNING]
    result = cars("wait", "7", "--timeout", timeout)
    assert result.exit_code == 1
    assert "error: job 7 has not ended within 0" in result.stderr
    assert "1 of 3 images are done" in result.stderr
    assert "cars wait 7" in result.stderr


def test_classify_gives_up_after_its_timeout_and_takes_its_worker_with_it(cars: Cars) -> None:
    cars.client.statuses, cars.client.alive = [RUNNING], []
    result = cars("classify", "photos", "--timeout", "0.01s")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "job 7 is kept, with what is done; to continue: cars worker, then cars wait 7" in result.stderr
    assert "error: job 7 has not ended within 0.01 s: it is running, 1 of 3" in result.stderr
    assert cars.worker.log == ["start", "stop"]


def test_a_timeout_without_a_unit_is_one_of_seconds() -> None:
    assert patience("3") == timedelta(seconds=3)
    assert patience("3m") == timedelta(minutes=3)
    assert patience(None) is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every poll looks for obstacles, and says again what it said before."""
    monkeypatch.setattr("jobs.polling.WATCH_SECONDS", 0.0)
    monkeypatch.setattr("jobs.polling.REPEAT_SECONDS", 0.0)
    monkeypatch.setattr("jobs.polling.POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_a_notice_is_repeated_and_says_that_waiting_has_no_end(cars: Cars) -> None:
    for options, limit in (((), "no time limit; --timeout"), (("--timeout", "1h"), None)):
        cars.client.statuses, cars.client.alive = [RUNNING, RUNNING, RUNNING, STATUS], []
        told = [line for line in cars("wait", "7", *options).stderr.splitlines() if "no worker is alive" in line]
        assert len(told) == 3
        assert all("cars worker" in line and ("--timeout" in line) == bool(limit) for line in told)


@pytest.mark.usefixtures("impatient")
def test_what_a_job_waits_for_is_told(cars: Cars) -> None:
    for command in (("wait", "7"), ("classify", "photos")):
        cars.client.statuses = [replace(RUNNING, waiting="since 12:04: the source is not there"), STATUS]
        result = cars(*command)
        assert result.exit_code == 0
        assert "job 7 waits since 12:04: the source is not there; it is tried again" in result.stderr


def no_database() -> JobStatus:
    raise DatabaseUnavailable("the database at nowhere does not answer")


@pytest.mark.parametrize("command", [("wait", "7"), ("classify", "photos")])
def test_a_restart_of_the_database_is_waited_for(cars: Cars, command: tuple[str, ...]) -> None:
    cars.client.statuses = [RUNNING, no_database, no_database, STATUS]
    result = cars(*command)
    assert result.exit_code == 0
    assert result.stderr.count("does not answer; trying again for 10 min") == 1
    assert "the database answers again" not in result.stderr  # the job has ended meanwhile, which says more


def test_that_the_database_is_back_is_said(cars: Cars) -> None:
    cars.client.statuses = [RUNNING, no_database, RUNNING, STATUS]
    assert "the database answers again" in cars("classify", "photos").stderr


def test_a_database_that_stays_away_ends_the_wait(cars: Cars, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.polling.DATABASE_PATIENCE", 0.0)
    cars.client.statuses = [RUNNING, no_database]
    result = cars("classify", "photos")
    assert result.exit_code == 1
    assert "error: the database at nowhere does not answer" in result.stderr


def interrupted() -> JobStatus:
    raise KeyboardInterrupt


def test_interrupting_wait_leaves_the_job_alone(cars: Cars) -> None:
    cars.client.statuses = [RUNNING, interrupted]
    result = cars("wait", "7")
    assert result.exit_code == 130
    assert "cars wait 7" in result.stderr


def test_wait_says_what_the_job_waits_for(cars: Cars) -> None:
    cars.client.statuses = [replace(RUNNING, waiting="since 12:04: /photos does not exist"), STATUS]
    assert "job 7 waits since 12:04: /photos does not exist" in cars("wait", "7").stderr


def test_cancel_retry_and_prune_report_on_stderr(cars: Cars) -> None:
    cars.client.statuses = [SOME_FAILED]
    expected = {"cancel 7": "1 of 3", "retry 7": "cars wait 7", "prune --older-than 2w": "2 jobs"}
    for command, words in expected.items():
        result = cars(*command.split())
        assert (result.exit_code, result.stdout) == (0, "")
        assert words in result.stderr
    assert cars.client.pruned == timedelta(weeks=2)
    assert "would delete 2 jobs" in cars("prune", "--older-than", "2w", "--dry-run").stderr
    assert cars.client.pruned is None


# Classify


def test_classify_prints_a_row_an_image_with_no_worker_of_its_own_where_one_is_alive(cars: Cars) -> None:
    result = cars("classify", "photos")
    assert result.exit_code == 0
    assert [row["path"] for row in rows_of(result)] == ["a.jpg", "b.jpg"]
    assert "start" not in cars.worker.log


def test_classify_brings_a_worker_and_sends_it_home(cars: Cars) -> None:
    cars.client.alive, cars.client.statuses = [], [RUNNING, STATUS]
    assert cars("classify", "photos").exit_code == 0
    assert cars.worker.log == ["start", "dismiss", "stop"]


def test_classify_brings_a_worker_when_the_others_leave(cars: Cars) -> None:
    def leave() -> JobStatus:
        cars.client.alive = []
        return RUNNING

    cars.client.statuses = [leave, RUNNING, STATUS]
    assert cars("classify", "photos").exit_code == 0
    assert cars.worker.log == ["start", "dismiss", "stop"]


def test_classify_fails_with_the_last_words_of_its_worker(cars: Cars) -> None:
    cars.client.alive, cars.client.statuses = [], [RUNNING]
    cars.worker.failure = "the local worker ended with exit code 1\nNo space left"
    result = cars("classify", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the local worker ended with exit code 1\n  No space left\n" in result.stderr
    assert cars.worker.log == ["start", "stop"]


def test_classify_sends_its_worker_home_when_the_folder_is_refused(cars: Cars) -> None:
    cars.client.alive, cars.client.refusal = [], SourceMissing("there is no folder photos")
    result = cars("classify", "photos")
    assert (result.exit_code, result.stderr) == (1, "error: there is no folder photos\n")
    assert cars.worker.log == ["stop"]


def terminated() -> JobStatus:
    os.kill(os.getpid(), signal.SIGTERM)
    return RUNNING


@pytest.mark.parametrize(("end", "code"), [(interrupted, 130), (terminated, 143)])
def test_classify_takes_its_worker_with_it(cars: Cars, end: Callable[[], JobStatus], code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cars.client.alive, cars.client.statuses = [], [RUNNING, end]
    result = cars("classify", "photos")
    assert result.exit_code == code
    assert cars.worker.log == ["start", "stop"]
    assert "cars wait 7" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_classify_shows_what_else_it_might_be_when_asked(cars: Cars) -> None:
    assert "BMW M3 Coupe 2012 10%" in cars("classify", "photos", "--top-k", "2", "--format", "table").stdout
    assert cars.client.submitted is not None
    assert cars.client.submitted["top_k"] == 2
    assert "BMW M3" not in cars("classify", "photos", "--format", "table").stdout


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print to stdout goes to a terminal."""
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: self.name == "<stdout>")


ROWS = [
    *(a_result(f"{n:03}.jpg", decision="unknown" if n % 4 == 0 else "model") for n in range(118)),
    a_result("x.jpg", make="BMW", decision="make"),
    A_FAILURE,
]


@pytest.mark.usefixtures("terminal")
def test_classify_on_a_terminal_prints_some_rows_and_a_summary(cars: Cars) -> None:
    cars.client.rows, cars.client.statuses = ROWS, [replace(SOME_FAILED, total=120)]
    shown = cars("classify", "photos").stdout
    lines = shown.splitlines()
    assert len([line for line in lines if ".jpg" in line]) == 50
    assert "… and 70 more" in lines
    summary = {line.split()[0]: line for line in lines[-4:]}
    assert "model 88 (74%), unknown 30 (25%), make 1 (1%)" in summary["decisions"]
    assert "Acura 88, BMW 1" in summary["makes"]
    assert "truncated 1" in summary["failures"]
    assert "cars results 7;" in summary["more"]
    assert "cars results 7 --decision unknown" in summary["more"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("options", [("--all",), ("--format", "jsonl"), ("-o",)])
def test_classify_gives_every_row_when_asked(cars: Cars, options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    cars.client.rows = ROWS
    if options == ("-o",):
        options = ("-o", str(file))
    shown = cars("classify", "photos", *options).stdout
    text = file.read_text() if file.exists() else shown
    assert text.count(".jpg") == 120


def test_classify_gives_a_pipe_every_row(cars: Cars) -> None:
    cars.client.rows = ROWS
    assert len(rows_of(cars("classify", "photos"))) == 120
    assert cars("classify", "photos", "--format", "table").stdout.count(".jpg") == 120


def test_a_timeout_without_a_unit_is_seconds(cars: Cars) -> None:
    cars.client.statuses = [RUNNING]
    result = cars("wait", "7", "--timeout", "0.1")
    assert (result.exit_code, "has not ended within" in result.stderr) == (1, True)
