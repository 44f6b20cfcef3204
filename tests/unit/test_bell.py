"""A child's ring through the pipe is published by its parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import environment
from workers.bell import Bell


class Published:
    """Stands for the parent's doorbell."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, tuple[int, ...]]] = []

    def ring(self, task: str, *ids: int) -> bool:
        self.messages.append((task, ids))
        return True


FORK = """
import os, sys
from tests.unit.test_bell import Published
from workers.bell import Bell
doorbell = Published()
bell = Bell(doorbell, embedded=sys.argv[1] == "embedded")
pid = os.fork()
if pid == 0:
    rung = bell.ring("workers.scan_job", 7) and bell.ring("workers.classify_batch", 8)
    os._exit(0 if rung and len(doorbell.messages) == int(sys.argv[2]) else 1)
assert os.waitpid(pid, 0)[1] == 0
bell.wait(30 if sys.argv[1] == "embedded" else 0)
print(doorbell.messages)
"""


@pytest.mark.parametrize(
    ("kind", "in_child", "in_parent"),
    [
        ("embedded", 0, [("workers.scan_job", (7,)), ("workers.classify_batch", (8,))]),
        ("server", 2, []),
    ],
)
def test_a_child_rings(kind: str, in_child: int, in_parent: list[tuple[str, tuple[int, ...]]]) -> None:
    command = [sys.executable, "-c", FORK, kind, str(in_child)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(in_parent)


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def bell(published: Published, monkeypatch: pytest.MonkeyPatch):
    """A bell as a child of the worker sees it: this process is not the one that made it."""
    bell = Bell(published, embedded=True)  # type: ignore[arg-type]
    monkeypatch.setattr(bell, "_parent", os.getpid() + 1)
    yield bell
    bell.close()


def test_the_parent_itself_rings_at_once(published: Published) -> None:
    bell = Bell(published, embedded=True)  # type: ignore[arg-type]
    assert bell.ring("workers.scan_job", 1)
    assert published.messages == [("workers.scan_job", (1,))]
    bell.close()


def test_many_rings_in_one_wait(bell: Bell, published: Published) -> None:
    for number in range(1_000):
        assert bell.ring("workers.classify_batch", number)
    while len(published.messages) < 1_000:
        bell.wait(30)
    assert [ids for _, ids in published.messages] == [(number,) for number in range(1_000)]


def test_a_full_pipe_loses_rings_and_blocks_nobody(bell: Bell, published: Published) -> None:
    rings = 0
    while bell.ring("workers.classify_batch", rings):
        rings += 1
    bell.wake()
    assert rings > 100
    while len(published.messages) < rings:
        bell.wait(30)
    assert bell.ring("workers.classify_batch", 0)


def test_wake_ends_a_wait(bell: Bell, published: Published) -> None:
    bell.wake()
    bell.wait(300)
    assert published.messages == []
