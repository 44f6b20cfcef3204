"""Engine children that are killed again and again: the worker continues, and nobody has to restart it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import ended, follow
from tests.support.processes import WorkerProcess, wait_until
from tests.support.seeds import SEEDS

KILLS = 12
TWO_WORKERS_KILLS = 16
MOST_SECONDS = 0.8
WORKS_AGAIN = {**SCRIPTED, "CARS_LEASE_SECONDS": "5"}


def kill_children(worker: WorkerProcess, number: signal.Signals = signal.SIGKILL) -> list[int]:
    pids = worker.child_pids()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pids


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("busy", [True, False])
def test_killed_again_and_again(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess], seed: int, busy: bool
) -> None:
    moments = random.Random(seed)
    with Client() as client:
        running = worker({**backend.env, **WORKS_AGAIN, "ENGINE_DELAY": "0.004", "CARS_BATCH_SIZE": "16"})
        if busy:
            job = client.submit(str(photos(300, 16)))
        for _ in range(KILLS):
            kill_children(running)
            time.sleep(moments.uniform(0, MOST_SECONDS))  # the fault's own moment
        if not busy:
            job = client.submit(str(photos(300, 16)))
        status = follow(job, until=ended, timeout=90)
        assert status.ok + status.failed == 300
        assert busy or status.ok == 300
        assert running.process.poll() is None


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_children_of_two_workers(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess], seed: int
) -> None:
    """Of either worker in turn, at random: the job ends all the same, and afterwards both have a child that works."""
    moments = random.Random(seed)
    with Client() as client:
        env = {**backend.env, **WORKS_AGAIN, "ENGINE_DELAY": "0.01", "CARS_BATCH_SIZE": "16"}
        both = [worker(env), worker(env)]
        job = client.submit(str(photos(1000, 16)))
        for _ in range(TWO_WORKERS_KILLS):
            kill_children(moments.choice(both))
            time.sleep(moments.uniform(0, MOST_SECONDS))  # the fault's own moment
        status = follow(job, until=ended, timeout=120)
        assert status.ok + status.failed == 1000
        before = [running.output().count("workers.classification.classify: batch") for running in both]
        second = client.submit(str(photos(600, 16, Path(job.status().source).parent / "more")))
        assert follow(second, until=ended, timeout=90).ok == 600
        for running, batches in zip(both, before, strict=True):
            assert running.process.poll() is None
            assert running.output().count("workers.classification.classify: batch") > batches


def test_a_child_that_does_nothing_is_replaced(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    """It is there, but it takes no work."""
    with Client() as client:
        running = worker({**backend.env, **WORKS_AGAIN})
        kill_children(running, signal.SIGSTOP)
        job = client.submit(str(photos(20, 16)))
        assert follow(job, until=ended, timeout=90).ok == 20
    assert "does not do it: it is replaced" in running.output()


@pytest.mark.timeout(480)
def test_a_parent_that_replaces_nobody_starts_anew(
    server_backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    """Each new child is stopped as soon as it is up."""
    with Client() as client:
        running = worker({**server_backend.env, **WORKS_AGAIN, "CARS_STALL_SECONDS": "5"})
        job = client.submit(str(photos(20, 16)))
        assert follow(job, until=ended, timeout=60).ok == 20
        before = client.workers()[0].id
        stopped = set(kill_children(running, signal.SIGSTOP))
        job = client.submit(str(photos(20, 16, Path(job.status().source).parent / "more")))

        def anew() -> bool:
            if "this worker starts anew" in running.output():
                return True
            for pid in set(running.child_pids()) - stopped:
                with suppress(ProcessLookupError, FileNotFoundError):
                    if len(list(Path(f"/proc/{pid}/task").iterdir())) > 1:  # its thread that looks for work is there
                        os.kill(pid, signal.SIGSTOP)
                        stopped.add(pid)
            return False

        wait_until(anew, 270, running.output)  # a child that was stopped too early to be known has 60 s
        assert follow(job, until=ended, timeout=90).ok == 20
        (row,) = [row for row in client.workers() if row.alive]
        assert row.pid == running.pid
        assert row.id != before
        assert running.stop() == 0
