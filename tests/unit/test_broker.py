"""The doorbell: configured for ids only, and quiet while nobody answers."""

from __future__ import annotations

import pytest

from jobs import broker
from jobs.broker import Doorbell, make_app, shown
from jobs.settings import load

NOBODY = "redis://:secret@127.0.0.1:1/0"


def test_a_broker_that_is_down_is_asked_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorbell = Doorbell(load(broker_url=NOBODY))
    assert not any(doorbell.ring(broker.CLASSIFY_BATCH, number) for number in range(50))
    assert caplog.text.count("does not answer") == 1
    monkeypatch.setattr(broker, "SILENCE_SECONDS", 0.0)
    doorbell = Doorbell(load(broker_url=NOBODY))
    assert not any(doorbell.ring(broker.CLASSIFY_BATCH, number) for number in range(2))
    assert caplog.text.count("does not answer") == 3
    assert "secret" not in caplog.text
    doorbell.close()


def test_answers_says_why_not() -> None:
    assert "127.0.0.1:1" in (broker.answers(load(broker_url=NOBODY)) or "")
    assert broker.answers(load()) is None


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://me:pw@host/0", "redis://me:***@host/0"),
        ("memory://", "memory://"),
    ],
)
def test_shown_hides_the_password(url: str, text: str) -> None:
    assert shown(url) == text


def test_messages_are_json_and_results_are_ignored() -> None:
    conf = make_app(load()).conf
    assert (conf.task_serializer, conf.accept_content, conf.result_backend) == ("json", ["json"], None)
    assert not conf.task_acks_late
    assert {queue.name for queue in conf.task_queues} == set(broker.QUEUES)
    assert {route["queue"] for route in conf.task_routes.values()} <= set(broker.QUEUES)
