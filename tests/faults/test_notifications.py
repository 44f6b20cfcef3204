"""Workers that tell a URL of a job's end, and die in the midst of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from jobs import Client
from jobs.settings import load
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import ended, follow
from tests.support.processes import RunCars, WorkerProcess, wait_until
from tests.support.receivers import Receiver


def test_killed_between_request_and_record(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    """The next attempt sends the same id."""
    killed = threading.Event()

    def kill_and_answer() -> int:
        first.kill_all()
        killed.set()
        return 200

    with closing(Receiver(kill_and_answer, 200)) as server:
        first = worker({**backend.env, **SCRIPTED, **server.env})
        with Client(settings=load(notify_hosts=server.host)) as client:
            assert follow(client.submit(photos(1)), until=ended).notified is None
            assert server.requests == []
            job = client.submit(photos(3), notify=server.url)
            assert killed.wait(60)
            assert client.job(job.id).status().state == "completed"
            assert client.job(job.id).status().notified == "pending"
            worker({**backend.env, **SCRIPTED, **server.env})
            wait_until(lambda: client.job(job.id).status().notified == "delivered", 60)
    one, other = server.requests
    assert one.id == other.id
    assert one.verified() == other.verified()


def test_a_local_worker_tells_before_it_ends(backend: Backend, photos: Callable[..., Path], run_cars: RunCars) -> None:
    with closing(Receiver(200)) as server:
        done = run_cars("classify", photos(2), "--notify", server.url, env={**SCRIPTED, **server.env})
        assert done.returncode == 0, done.stderr
        (request,) = server.requests
        assert request.verified()["data"]["ok"] == 2
