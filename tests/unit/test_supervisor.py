"""When a child is replaced, and when the worker itself: with a board, a clock and a pool that the test holds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from workers.supervision import supervisor
from workers.supervision.board import Child
from workers.supervision.supervisor import Supervisor

STALL_SECONDS = 120.0


@dataclass
class Scene:
    """One child in a pool of one, and work that is due."""

    now: float = 1_000.0
    pids: list[int] = field(default_factory=lambda: [1])
    records: list[Child] = field(default_factory=list)
    due: bool = True
    leases: set[int] = field(default_factory=set)
    killed: list[int] = field(default_factory=list)
    anew: int = 0

    def start_anew(self) -> None:
        self.anew += 1

    def children(self) -> list[Child]:
        return self.records


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene()
    monkeypatch.setattr(time, "monotonic", lambda: scene.now)
    monkeypatch.setattr(supervisor, "is_alive", lambda pid: pid in scene.pids)
    monkeypatch.setattr(supervisor, "kill", scene.killed.extend)
    return scene


@pytest.fixture
def check(scene: Scene) -> Callable[[float], None]:
    """`check(seconds)`: let so much time go by, with a look each second."""
    work = SimpleNamespace(is_overdue=lambda: scene.due, lease_holders=lambda: scene.leases)
    supervisor = Supervisor(
        scene,  # type: ignore[arg-type]  # no more of a board is used
        work,  # type: ignore[arg-type]  # what it answers, without a database
        concurrency=1,
        stall_seconds=STALL_SECONDS,
        pool=lambda: scene.pids,
        start_anew=scene.start_anew,
    )

    def check(seconds: float) -> None:
        for _ in range(int(seconds)):
            scene.now += 1
            supervisor.check()

    return check


def test_one_that_does_not_look_is_replaced(scene: Scene, check: Callable[[float], None]) -> None:
    scene.records = [Child(0, 1, 0.0, scene.now)]
    check(9)
    assert scene.killed == []
    check(2)
    assert scene.killed == [1]


def test_one_that_looks_is_left_alone(scene: Scene, check: Callable[[float], None]) -> None:
    """It knows of nothing that it could do: what is due may be for others."""
    for _ in range(60):
        scene.records = [Child(0, 1, 0.0, scene.now)]
        check(1)
    assert (scene.killed, scene.anew) == ([], 0)


def test_without_work_nobody_is_replaced(scene: Scene, check: Callable[[float], None]) -> None:
    scene.due = False
    scene.records = [Child(0, 1, 0.0, scene.now)]
    check(100)
    assert scene.killed == []


@pytest.mark.parametrize("holds", [True, False])
def test_long_work_needs_a_lease(scene: Scene, check: Callable[[float], None], holds: bool) -> None:
    scene.records = [Child(0, 1, scene.now, scene.now)]
    scene.leases = {1} if holds else set()
    check(STALL_SECONDS - 1)
    assert scene.killed == []
    check(2)
    assert scene.killed == ([] if holds else [1])


def test_children_that_come_up_and_do_nothing(scene: Scene, check: Callable[[float], None]) -> None:
    for pid in itertools.count(1):
        if scene.anew:
            break
        scene.pids, scene.records = [pid], [Child(0, pid, 0.0, scene.now)]
        check(11)
    assert scene.killed[:2] == [1, 2]
    assert scene.anew == 1


def test_a_pool_that_replaces_nobody(scene: Scene, check: Callable[[float], None]) -> None:
    scene.pids = []
    check(9)
    assert scene.anew == 0
    check(2)
    assert scene.anew == 1


def test_one_that_is_slow_to_come_up(scene: Scene, check: Callable[[float], None]) -> None:
    check(59)
    assert scene.killed == []
    check(3)
    assert scene.killed[0] == 1
