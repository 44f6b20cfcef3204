"""Engines that hang where no thread of theirs can run, and engines that eat memory: the picture alone fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobs import Client
from tests.support.backends import Backend
from tests.support.broken_engines import odd_picture
from tests.support.following import check_whole, ended, follow
from tests.support.processes import WorkerProcess

Photos = Callable[..., Path]
Start = Callable[..., WorkerProcess]


def test_an_engine_that_hangs_and_keeps_the_lock(backend: Backend, photos: Photos, worker: Start) -> None:
    folder = photos(99, 16)
    odd_picture(folder / "000050x.png")
    env = {"CARS_ENGINE": "tests.support.broken_engines:HoldsLock", "CARS_LEASE_SECONDS": "2"}
    running = worker({**backend.env, **env})
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed_with_errors", 99, 1)
        assert [(e.path, e.code) for e in job.errors()] == [("000050x.png", "worker_crashed")]
        check_whole(client, job, total=100)
    assert running.process.poll() is None
    assert "none of its threads has run" in running.output()


def test_a_picture_that_eats_memory(backend: Backend, photos: Photos, worker: Start) -> None:
    folder = photos(299, 16)
    odd_picture(folder / "000150x.png")
    env = {"CARS_ENGINE": "tests.support.broken_engines:Eats", "CARS_CHILD_MEMORY": "1GiB"}
    worker({**backend.env, **env})
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed_with_errors", 299, 1)
        (failed,) = job.errors()
        assert (failed.path, failed.code) == ("000150x.png", "engine_error")
        assert "MemoryError" in failed.message
