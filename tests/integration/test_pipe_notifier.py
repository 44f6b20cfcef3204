"""A ring in any process of a worker is published by its parent, and nobody waits for that."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import environment, wait_until
from workers.pipe_notifier import Bell


class Published:
    """Stands for the parent's doorbell."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, tuple[int, ...]]] = []

    def ring(self, task: str, *ids: int) -> bool:
        self.messages.append((task, ids))
        return True


class Frozen:
    """Stands for a broker that takes a message and never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.thawed = threading.Event()

    def ring(self, _task: str, *_ids: int) -> bool:
        self.asked.set()
        return self.thawed.wait(60)


FORK = """
import os, sys
from tests.integration.test_pipe_notifier import Published
from workers.pipe_notifier import Bell
doorbell = Published()
bell = Bell(doorbell)
pid = os.fork()
if pid == 0:
    rung = bell.ring("workers.scan_job", 7) and bell.ring("workers.classify_batch", 8, 9)
    os._exit(0 if rung and not doorbell.messages else 1)
assert os.waitpid(pid, 0)[1] == 0
bell.publish(30)
print(doorbell.messages)
"""


def test_a_child_rings() -> None:
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr([("workers.scan_job", (7,)), ("workers.classify_batch", (8, 9))])


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def bell(published: Published) -> Iterator[Bell]:
    bell = Bell(published)  # type: ignore[arg-type]
    yield bell
    bell.stop()


def test_many_rings_in_one_wait(bell: Bell, published: Published) -> None:
    for number in range(1_000):
        assert bell.ring("workers.classify_batch", number)
    while len(published.messages) < 1_000:
        bell.publish(30)
    assert [ids for _, ids in published.messages] == [(number,) for number in range(1_000)]


def test_a_full_pipe_loses_rings_and_blocks_nobody(bell: Bell, published: Published) -> None:
    rings = 0
    while bell.ring("workers.classify_batch", rings):
        rings += 1
    assert rings > 100
    while len(published.messages) < rings:
        bell.publish(30)
    assert bell.ring("workers.classify_batch", 0)


def test_its_thread_publishes(bell: Bell, published: Published) -> None:
    bell.start()
    assert bell.ring("workers.scan_job", 1)
    wait_until(lambda: published.messages == [("workers.scan_job", (1,))])


def test_a_frozen_broker_holds_up_its_thread_only() -> None:
    frozen = Frozen()
    bell = Bell(frozen)  # type: ignore[arg-type]
    bell.start()
    rings = 0
    while bell.ring("workers.classify_batch", rings) and rings < 100_000:
        rings += 1
    assert frozen.asked.wait(30)
    assert 100 < rings < 100_000
    bell.stop(patience=0.0)  # returns, though the thread waits
    frozen.thawed.set()


def test_nobody_reads() -> None:
    """A child whose parent is gone loses its ring."""
    bell = Bell(Published())  # type: ignore[arg-type]
    os.close(bell._reader)
    assert not bell.ring("workers.scan_job", 1)
