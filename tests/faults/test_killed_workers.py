"""Workers die at the worst moment; every image is still classified exactly once."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import check_whole, done, ended, follow
from tests.support.processes import WorkerProcess, engine_pid, wait_until

PHOTOS = 2_000
SLOW = {**SCRIPTED, "ENGINE_DELAY": "0.003"}


def test_worker_then_engine_killed(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    folder = photos(PHOTOS, 16)
    env = {**backend.env, **SLOW}
    with Client() as client:
        first = worker(env)
        job = client.submit(str(folder))
        follow(job, until=done(PHOTOS // 2))
        first.kill_all()
        killed_at = job.status()
        second = worker(env)
        follow(job, until=done(killed_at.ok + 1), timeout=40)  # the promise: moving again within 40 s
        os.kill(engine_pid(second, client), signal.SIGKILL)
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed", PHOTOS, 0)
        check_whole(client, job, total=PHOTOS)


def test_deadly_image(backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]) -> None:
    folder = photos(PHOTOS - 1, 16)
    deadly = Image.new("RGB", (16, 16))
    deadly.paste((255, 255, 255), (0, 0, 8, 16))
    deadly.save(folder / "001000x.png")
    running = worker({**backend.env, **SCRIPTED, "ENGINE_DEADLY": "1"})
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed_with_errors", PHOTOS - 1, 1)
        assert [(e.path, e.code) for e in job.errors()] == [("001000x.png", "worker_crashed")]
        check_whole(client, job, total=PHOTOS)
    assert running.process.poll() is None
    assert running.output().count("is reclaimed: its process crashed") == 3


def freeze(running: WorkerProcess, backend: Backend, client: Client) -> bool:
    """Stop a worker, but not where nobody could write as long as it sleeps; False, and it continues, if that was so."""
    running.signal(signal.SIGSTOP)
    if _is_free(backend, client):
        return True
    running.signal(signal.SIGCONT)
    return False


def _is_free(backend: Backend, client: Client) -> bool:
    """Return whether no transaction is open: it would hold SQLite's lock, or the job's row in PostgreSQL."""
    if backend.name == "embedded":
        try:
            with closing(sqlite3.connect(backend.database_url.removeprefix("sqlite:///"), timeout=1)) as connection:
                connection.execute("BEGIN IMMEDIATE").connection.rollback()
        except sqlite3.OperationalError:
            return False
        return True
    busy = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    with client.database.read() as database:
        return bool(database.execute(text(busy)).scalar_one() == 0)


def test_stopped_past_its_lease(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    folder = photos(400, 16)
    env = {**backend.env, **SLOW, "CARS_LEASE_SECONDS": "2"}
    with Client() as client:
        sleeper = worker({**env, "ENGINE_DELAY": "0.02"})
        job = client.submit(str(folder))
        engine_pid(sleeper, client)
        wait_until(lambda: freeze(sleeper, backend, client), 30, "a moment at which it has no transaction open")
        worker(env)
        status = follow(job, until=ended)
        sleeper.signal(signal.SIGCONT)
        wait_until(lambda: "nothing of it was written" in sleeper.output(), 40, sleeper.output)
        assert job.status() == status
        assert (status.state, status.ok) == ("completed", 400)
        check_whole(client, job, total=400)


@pytest.mark.parametrize("what", ["restarted", "flushed"])
def test_redis_lost(
    what: str,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
    request: pytest.FixtureRequest,
) -> None:
    backend: Backend = request.getfixturevalue("server_backend")
    redis = request.getfixturevalue("redis_server")
    folder = photos(PHOTOS, 16)
    with Client() as client:
        running = worker({**backend.env, **SLOW})
        job = client.submit(str(folder))
        follow(job, until=done(PHOTOS // 4))
        if what == "restarted":
            redis.kill()
            redis.restart()
        else:
            redis.flush_all()
        status = follow(job, until=ended)
        assert (status.state, status.ok) == ("completed", PHOTOS)
        check_whole(client, job, total=PHOTOS)
        assert running.process.poll() is None
        folder = photos(50, 16, folder.parent / "next")
        assert follow(client.submit(str(folder)), until=ended, timeout=60).ok == 50
