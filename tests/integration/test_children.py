"""What the parent of a worker does about its children: with real processes, and a clock that the test sets."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jobs.settings import load
from tests.support.processes import wait_until
from workers.supervision.children import ChildMonitor, is_child
from workers.supervision.shared_memory import Shared

SILENT = 25  # ticks of a second, with a lease of 20 s

Start = Callable[[Callable[[], None]], BaseProcess]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def children() -> Iterator[Start]:
    started: list[BaseProcess] = []

    def start(work: Callable[[], None]) -> BaseProcess:
        started.append(multiprocessing.get_context("fork").Process(target=work, daemon=True))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def ticks(monitor: ChildMonitor, clock: Clock, count: int) -> None:
    for _ in range(count):
        clock.now += 1
        monitor.tick()


def test_a_child_whose_threads_cannot_run_is_ended(home: Path, children: Start) -> None:
    shared, clock = Shared(), Clock()

    def hang() -> None:
        with shared.slot(3).work():
            ctypes.PyDLL(None).sleep(600)

    child = children(hang)
    wait_until(lambda: shared.slot(3).working and shared.slot(3).pulse)
    monitor = ChildMonitor(shared, load(), clock=clock)
    ticks(monitor, clock, 15)
    assert child.pid is not None
    assert is_child(child.pid)
    ticks(monitor, clock, SILENT)
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    monitor.tick()
    assert list(shared.slots()) == []


def test_a_child_that_works_on_is_left_alone(home: Path, children: Start) -> None:
    shared, clock = Shared(), Clock()

    def work() -> None:
        with shared.slot(0).work():
            signal.pause()

    def beats(before: int) -> bool:
        return shared.slot(0).pulse > before

    child = children(work)
    monitor = ChildMonitor(shared, load(), clock=clock)
    for _ in range(2 * SILENT):
        pulse = shared.slot(0).pulse
        ticks(monitor, clock, 5)
        if not shared.slot(0).working:
            continue
        if clock.now > 100:
            break
        wait_until(partial(beats, pulse))
    assert child.is_alive()


def test_a_parent_that_was_stopped_counts_no_silence(home: Path, children: Start) -> None:
    shared, clock = Shared(), Clock()

    def hang() -> None:
        with shared.slot(0).work():
            ctypes.PyDLL(None).sleep(600)

    child = children(hang)
    wait_until(lambda: shared.slot(0).working)
    monitor = ChildMonitor(shared, load(), clock=clock)
    for _ in range(5):
        clock.now += 1_000
        monitor.tick()
    assert child.pid is not None
    assert is_child(child.pid)


def test_a_child_that_holds_too_much_is_ended(home: Path, children: Start) -> None:
    shared, clock = Shared(), Clock()

    def grow() -> None:
        with shared.slot(0).work():
            held = bytearray(os.urandom(1 << 20)) * 200
            signal.pause()
            del held

    child = children(grow)
    monitor = ChildMonitor(shared, load(), resident_limit=150 << 20, clock=clock)

    def ended() -> bool:
        monitor.tick()
        return not child.is_alive()

    wait_until(ended)
    assert child.exitcode == -signal.SIGKILL


def test_a_process_that_is_not_a_child_is_never_ended(home: Path) -> None:
    shared, clock = Shared(), Clock()
    monitor = ChildMonitor(shared, load(), resident_limit=1, clock=clock)
    slot = shared.slot(0)
    with slot.work():
        assert slot.pid == os.getpid()
        ticks(monitor, clock, 3 * SILENT)
    assert list(shared.slots()) == []


def test_a_crash_while_loading_is_a_suspicion_that_a_check_clears(
    home: Path, children: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared, clock = Shared(), Clock()

    def die() -> None:
        slot = shared.slot(0)
        with slot.work(), slot.load():
            os.kill(os.getpid(), signal.SIGKILL)

    children(die).join(30)
    monkeypatch.setattr(
        "workers.supervision.children.COMMAND",
        ("sh", "-c", f"test -e {home}/sound || {{ echo 'error: no GPU' >&2; exit 1; }}"),
    )
    monitor = ChildMonitor(shared, load(), clock=clock)
    monitor.tick()
    assert monitor.broken
    assert "broken until a check passes: the engine's process crashed while it loaded" in caplog.text

    def says(words: str | None) -> bool:
        clock.now += 0.1  # slowly: a check that takes the clock's two minutes is given up
        monitor.tick()
        return monitor.broken == words

    wait_until(lambda: says("no GPU"))
    (home / "sound").touch()
    wait_until(lambda: says(None))
    monitor.close()


def test_the_pace_of_late(home: Path) -> None:
    shared, clock = Shared(), Clock()
    monitor = ChildMonitor(shared, load(), clock=clock)
    assert monitor.row() == {"broken": None, "images_per_second": None}
    for index in (0, 1):
        shared.slot(index).count(50)
    clock.now = 10
    assert monitor.row()["images_per_second"] == 10.0
    for _ in range(40):
        clock.now += 2
        rate = monitor.row()["images_per_second"]
    assert rate is None


def test_the_reason_is_cut_and_on_one_line() -> None:
    shared = Shared()
    shared.broken = "line\nline " + "ö" * 2_000
    assert shared.broken.startswith("line line öö")
    assert len(shared.broken) < 1_000
    shared.broken = None
    assert shared.broken is None
