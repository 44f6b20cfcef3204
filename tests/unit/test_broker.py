"""The broker and its notifier: configured for ids only, and quiet while nobody answers."""

from __future__ import annotations

import pytest

from jobs import notifier
from jobs.broker import connection_error, make_app
from jobs.notifier import Notifier
from jobs.queues import CLASSIFY_BATCH, QUEUES
from jobs.settings import load

NOBODY = "redis://:secret@127.0.0.1:1/0"


def test_a_broker_that_is_down_is_asked_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Notifier(load(broker_url=NOBODY))
    assert not any(sender.notify(CLASSIFY_BATCH, number) for number in range(50))
    assert caplog.text.count("does not answer") == 1
    monkeypatch.setattr(notifier, "SILENCE_SECONDS", 0.0)
    sender = Notifier(load(broker_url=NOBODY))
    assert not any(sender.notify(CLASSIFY_BATCH, number) for number in range(2))
    assert caplog.text.count("does not answer") == 3
    assert "secret" not in caplog.text
    sender.close()


def test_a_connection_error_says_why() -> None:
    assert "127.0.0.1:1" in (connection_error(load(broker_url=NOBODY)) or "")
    assert connection_error(load()) is None


def test_messages_are_json_and_results_are_ignored() -> None:
    conf = make_app(load()).conf
    assert (conf.task_serializer, conf.accept_content, conf.result_backend) == ("json", ["json"], None)
    assert not conf.task_acks_late
    assert {queue.name for queue in conf.task_queues} == set(QUEUES)
    assert {route["queue"] for route in conf.task_routes.values()} <= set(QUEUES)
