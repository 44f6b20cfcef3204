"""What many pages ask for is asked once a second."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from jobs.web import recent
from jobs.web.recent import Recent


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still but for this function."""
    now = [100.0]

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("jobs.web.recent.time.monotonic", lambda: now[0])
    return pass_time


def test_an_answer_is_kept_for_a_second_and_for_its_key(pass_time: Callable[[float], None]) -> None:
    kept, answers = Recent(), itertools.count()
    ask = lambda: next(answers)  # noqa: E731
    assert [kept.get("a", ask), kept.get("a", ask), kept.get("b", ask)] == [0, 0, 1]
    pass_time(0.9)
    assert kept.get("a", ask) == 0
    pass_time(0.2)
    assert [kept.get("a", ask), kept.get("a", ask)] == [2, 2]


def test_an_error_is_not_kept(pass_time: Callable[[float], None]) -> None:
    def fail() -> None:
        raise LookupError

    kept = Recent()
    with pytest.raises(LookupError):
        kept.get("a", fail)
    assert kept.get("a", lambda: 1) == 1


def test_there_are_never_more_than_a_few(monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]) -> None:
    monkeypatch.setattr(recent, "MOST", 2)
    kept, answers = Recent(), itertools.count()
    for key in "abca":
        kept.get(key, lambda: next(answers))
    assert next(answers) == 4


def test_threads_ask_once_together() -> None:
    kept, asked, ready = Recent(), [], threading.Barrier(8)

    def show() -> None:
        ready.wait()
        kept.get("a", lambda: asked.append(1))

    threads = [threading.Thread(target=show) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]
