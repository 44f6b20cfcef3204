"""When what failed is tried again."""

from __future__ import annotations

import pytest

from jobs.backoff import pause
from jobs.errors import SettingsInvalid
from jobs.settings import load
from workers.backoff import REMEMBERED, Backoff


def test_soon_at_first_and_seldom_later() -> None:
    assert pause(0) == 0.5
    pauses = [pause(seconds) for seconds in range(20_000)]
    assert pauses == sorted(pauses)
    assert max(pauses[:600]) < 5  # with the tick that notices, at most 5 s between two tries in the first 10 minutes
    assert pauses[-1] == 60


def test_a_job_is_left_alone_until_its_time_comes() -> None:
    now = [0.0]
    backoff = Backoff(clock=lambda: now[0])
    assert backoff.failed(7) == 0.5
    assert backoff.blocked() == [7]
    now[0] = 0.6
    assert backoff.blocked() == []
    now[0] = 3.0
    assert backoff.failed(7) == 3.0
    backoff.failed(8)
    assert sorted(backoff.blocked()) == [7, 8]
    backoff.worked(7)
    assert backoff.blocked() == [8]
    assert backoff.failed(7) == 0.5
    for job in range(2 * REMEMBERED):
        backoff.failed(job)
    assert len(backoff.blocked()) == REMEMBERED


@pytest.mark.parametrize(("text", "seconds"), [("6h", 21_600), ("2s", 2), ("90", 90), ("1.5m", 90)])
def test_when_to_give_up_is_a_setting(home: object, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    assert load().give_up == 21_600
    monkeypatch.setenv("CARS_GIVE_UP", text)
    assert load().give_up == seconds


def test_a_span_that_is_none_is_refused(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_GIVE_UP", "soon")
    with pytest.raises(SettingsInvalid, match=r"CARS_GIVE_UP.*soon"):
        load()
