"""A message of any process of a worker is sent by its parent, and nobody waits for that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import environment, wait_until
from workers.pipe_notifier import PipeNotifier


class Published:
    """Stands for the parent's notifier."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, tuple[int, ...]]] = []

    def notify(self, task: str, *ids: int) -> bool:
        self.messages.append((task, ids))
        return True


class Frozen:
    """Stands for a broker that takes a message and never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.thawed = threading.Event()

    def notify(self, _task: str, *_ids: int) -> bool:
        self.asked.set()
        return self.thawed.wait(60)


FORK = """
import os, sys
from tests.integration.test_pipe_notifier import Published
from workers.pipe_notifier import PipeNotifier
published = Published()
notifier = PipeNotifier(published)
pid = os.fork()
if pid == 0:
    sent = notifier.notify("workers.scan_job", 7) and notifier.notify("workers.classify_batch", 8, 9)
    os._exit(0 if sent and not published.messages else 1)
assert os.waitpid(pid, 0)[1] == 0
notifier.publish(30)
print(published.messages)
"""


def test_a_child_notifies() -> None:
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr([("workers.scan_job", (7,)), ("workers.classify_batch", (8, 9))])


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def notifier(published: Published) -> Iterator[PipeNotifier]:
    notifier = PipeNotifier(published)  # type: ignore[arg-type]  # as much of a Notifier as it uses
    yield notifier
    notifier.stop()


def test_many_messages_in_one_wait(notifier: PipeNotifier, published: Published) -> None:
    for number in range(1_000):
        assert notifier.notify("workers.classify_batch", number)
    while len(published.messages) < 1_000:
        notifier.publish(30)
    assert [ids for _, ids in published.messages] == [(number,) for number in range(1_000)]


def test_a_full_pipe_loses_messages_and_blocks_nobody(notifier: PipeNotifier, published: Published) -> None:
    messages = 0
    while notifier.notify("workers.classify_batch", messages):
        messages += 1
    assert messages > 100
    while len(published.messages) < messages:
        notifier.publish(30)
    assert notifier.notify("workers.classify_batch", 0)


def test_its_thread_publishes(notifier: PipeNotifier, published: Published) -> None:
    notifier.start()
    assert notifier.notify("workers.scan_job", 1)
    wait_until(lambda: published.messages == [("workers.scan_job", (1,))])


def test_a_frozen_broker_holds_up_its_thread_only() -> None:
    frozen = Frozen()
    notifier = PipeNotifier(frozen)  # type: ignore[arg-type]  # as much of a Notifier as it uses
    notifier.start()
    messages = 0
    while notifier.notify("workers.classify_batch", messages) and messages < 100_000:
        messages += 1
    assert frozen.asked.wait(30)
    assert 100 < messages < 100_000
    notifier.stop(patience=0.0)  # returns, though the thread waits
    frozen.thawed.set()


def test_nobody_reads() -> None:
    """A child whose parent is gone loses its message."""
    notifier = PipeNotifier(Published())  # type: ignore[arg-type]  # as much of a Notifier as it uses
    os.close(notifier.reader)
    assert not notifier.notify("workers.scan_job", 1)
