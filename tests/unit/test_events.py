"""Events: who subscribes is called, and harms nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from jobs.states import JobState, RunState
from workers import event_log, events

BATCH = events.BatchCommitted(job=7, batch=3, images=128, seconds=0.50049)
JOB = events.JobFinished(job=7, state=JobState.COMPLETED, ok=5, failed=0, cached=2, images=5, error=None)
GIVEN_UP = events.JobFinished(
    job=7, state=JobState.FAILED, ok=0, failed=0, cached=0, images=5, error="given up after 1 h: it is away"
)
RUN = events.RunFinished(run=2, state=RunState.PUBLISHED, model_version="student-2", reason="top-1 91 %")


@pytest.fixture
def subscriptions() -> Iterator[ExitStack]:
    """Yield what undoes, at the end, what was put on it."""
    with ExitStack() as undone:
        yield undone


def test_a_subscriber_gets_the_events_of_its_kind(subscriptions: ExitStack) -> None:
    seen: list[events.Event] = []
    for _ in range(2):  # the second time changes nothing
        events.subscribe(events.BatchCommitted, seen.append)
        subscriptions.callback(events.unsubscribe, events.BatchCommitted, seen.append)
    events.publish(BATCH)
    events.publish(JOB)
    assert seen == [BATCH]
    events.unsubscribe(events.BatchCommitted, seen.append)
    events.publish(BATCH)
    assert seen == [BATCH]


def test_a_subscriber_that_raises_is_logged_and_harms_nothing(
    subscriptions: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[events.Event] = []

    def fail(_event: events.JobFinished) -> None:
        raise ValueError("its own fault")

    for subscriber in (fail, seen.append):
        events.subscribe(events.JobFinished, subscriber)
        subscriptions.callback(events.unsubscribe, events.JobFinished, subscriber)
    events.publish(JOB)
    assert seen == [JOB]
    assert "a subscriber of JobFinished failed" in caplog.text
    assert "its own fault" in caplog.text


@pytest.mark.parametrize(
    ("event", "logger", "level", "text"),
    [
        (BATCH, "workers.classification.classify", logging.INFO, "batch 3 of job 7: 128 images, 256 per second"),
        (JOB, "workers.classification.finish", logging.INFO, "job 7 completed: 5 ok, 0 failed, 2 cached"),
        (GIVEN_UP, "workers.recovery.thread", logging.WARNING, "job 7 is given up after 1 h: it is away"),
        (RUN, "workers.training.attempt", logging.INFO, "run 2 published: student-2: top-1 91 %"),
        (
            events.LeaseLost(batch=3),
            *("workers.classification.classify", logging.WARNING),
            "batch 3 was reclaimed meanwhile; nothing of it was written",
        ),
        (
            events.LeaseLost(run=2),
            *("workers.training.task", logging.WARNING),
            "run 2 was reclaimed meanwhile; nothing more of it is written here",
        ),
        (
            events.LeaseLost(run=2, unwritten="run 2: canceled"),
            *("workers.training.task", logging.WARNING),
            "run 2 was reclaimed meanwhile (run 2: canceled)",
        ),
    ],
)
def test_the_log_has_a_line_for_each(
    event: events.Event, logger: str, level: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    event_log.start()
    with caplog.at_level(logging.INFO):
        events.publish(event)
    assert caplog.record_tuples == [(logger, level, text)]


@pytest.mark.parametrize(
    "event",
    [
        events.VersionPromoted(model_version="student-2", run=2, reason="top-1 91 %"),
        events.RunFinished(run=2, state=RunState.FAILED, model_version=None, reason="a disk is full"),
    ],
)
def test_what_others_log_is_not_logged_twice(event: events.Event, caplog: pytest.LogCaptureFixture) -> None:
    event_log.start()
    with caplog.at_level(logging.INFO):
        events.publish(event)
    assert caplog.record_tuples == []


def test_the_line_of_a_batch_has_its_numbers_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    event_log.start()
    with caplog.at_level(logging.INFO):
        events.publish(BATCH)
    (record,) = caplog.records
    assert {name: vars(record)[name] for name in ("job", "batch", "images", "seconds")} == {
        "job": 7,
        "batch": 3,
        "images": 128,
        "seconds": 0.5,
    }
