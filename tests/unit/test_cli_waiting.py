"""Commands that see a job to its end: wait and classify; and those that end it or take it up again."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jobs.errors import SourceMissing
from tests.unit.cli_fakes import RUNNING, SOME_FAILED, STATUS, Cars, rows_of


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
        (STATUS | {"state": "canceled", "ok": 1, "canceled": 2}, (), 1),
        (STATUS | {"state": "failed", "ok": 0, "canceled": 3, "error": "the source is gone"}, (), 1),
    ],
)
def test_the_end_of_a_job_decides_the_exit_code(
    cars: Cars, last: dict[str, Any], options: tuple[str, ...], code: int
) -> None:
    cars.client.statuses = [RUNNING, last]
    for command in (("wait", "7"), ("classify", "photos")):
        cars.client.statuses = [RUNNING, last]
        result = cars(*command, *options)
        assert result.exit_code == code
        assert str(last["state"]).replace("_", " ") in result.stderr
        assert (last["error"] or "") in result.stderr


def test_wait_prints_no_data(cars: Cars) -> None:
    assert cars("wait", "7").stdout == ""


def test_wait_gives_up_after_its_timeout(cars: Cars) -> None:
    cars.client.statuses = [RUNNING]
    result = cars("wait", "7", "--timeout", "0.01s")
    assert result.exit_code == 1
    assert "cars wait 7" in result.stderr


def test_wait_says_once_that_nobody_works(cars: Cars) -> None:
    cars.client.statuses, cars.client.alive = [RUNNING, RUNNING, STATUS], []
    assert cars("wait", "7").stderr.count("no worker is alive") == 1


def interrupted() -> dict[str, Any]:
    raise KeyboardInterrupt


def test_interrupting_wait_leaves_the_job_alone(cars: Cars) -> None:
    cars.client.statuses = [RUNNING, interrupted]
    result = cars("wait", "7")
    assert result.exit_code == 130
    assert "cars wait 7" in result.stderr


def test_cancel_retry_and_prune_report_on_stderr(cars: Cars) -> None:
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
    def leave() -> dict[str, Any]:
        cars.client.alive = []
        return RUNNING

    cars.client.statuses = [leave, RUNNING, STATUS]
    assert cars("classify", "photos").exit_code == 0
    assert cars.worker.log == ["start", "dismiss", "stop"]


def test_classify_fails_with_the_last_words_of_its_worker(cars: Cars) -> None:
    cars.client.alive, cars.client.statuses = [], [RUNNING]
    cars.worker.last_words = "the local worker ended with exit code 1\nNo space left"
    result = cars("classify", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: the local worker ended with exit code 1\n  No space left\n" in result.stderr
    assert cars.worker.log == ["start", "stop"]


def test_classify_sends_its_worker_home_when_the_folder_is_refused(cars: Cars) -> None:
    cars.client.alive, cars.client.refusal = [], SourceMissing("there is no folder photos")
    result = cars("classify", "photos")
    assert (result.exit_code, result.stderr) == (1, "error: there is no folder photos\n")
    assert cars.worker.log == ["stop"]


def terminated() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGTERM)
    return RUNNING


@pytest.mark.parametrize(("end", "code"), [(interrupted, 130), (terminated, 143)])
def test_classify_takes_its_worker_with_it(cars: Cars, end: Callable[[], dict[str, Any]], code: int) -> None:
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


def test_a_timeout_without_a_unit_is_seconds(cars: Cars) -> None:
    cars.client.statuses = [RUNNING]
    result = cars("wait", "7", "--timeout", "0.1")
    assert (result.exit_code, "has not ended in time" in result.stderr) == (1, True)
