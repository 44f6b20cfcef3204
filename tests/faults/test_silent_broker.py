"""Redis that says nothing any more, frozen or cut off: jobs are submitted, found and done, and workers stay alive."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import done, ended, follow
from tests.support.processes import WorkerProcess
from tests.support.servers import Redis
from tests.support.silence import Wire

SILENT_SECONDS = 30
SUBMIT_SECONDS = 15


@pytest.fixture
def wire(redis_server: Redis) -> Iterator[Wire]:
    wire = Wire(redis_server.port)
    yield wire
    wire.close()


@contextmanager
def frozen(server: Redis) -> Iterator[None]:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


@contextmanager
def cut(wire: Wire) -> Iterator[None]:
    wire.cut()
    try:
        yield
    finally:
        wire.mend()


@pytest.mark.parametrize("how", ["frozen", "cut"])
def test_work_continues(
    server_backend: Backend,
    redis_server: Redis,
    wire: Wire,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
    how: str,
) -> None:
    broker_url = server_backend.broker_url.replace(str(redis_server.port), str(wire.port))
    env = {**server_backend.env, **SCRIPTED, "ENGINE_DELAY": "0.005", "CARS_BROKER_URL": broker_url}
    with Client(broker_url=broker_url) as client, ThreadPoolExecutor(1) as thread:
        running = worker({**env, "CARS_BATCH_SIZE": "32"})
        first = client.submit(str(photos(600, 16)))
        follow(first, until=done(64))
        more = photos(50, 16, Path(first.status().source).parent / "more")
        before = time.monotonic()
        with frozen(redis_server) if how == "frozen" else cut(wire):
            submitted = thread.submit(client.submit, str(more))
            second = submitted.result(timeout=SUBMIT_SECONDS)
            assert follow(first, until=ended, timeout=60).ok == 600
            assert follow(second, until=ended, timeout=60).ok == 50
            while time.monotonic() < before + SILENT_SECONDS:  # no heartbeat is missed while it lasts
                assert [row.alive for row in client.workers()] == [True]
                time.sleep(0.2)
        third = client.submit(str(photos(50, 16, more.parent / "third")))
        assert follow(third, until=ended, timeout=60).ok == 50
        assert running.process.poll() is None


@pytest.mark.parametrize("silent", [True, False])
def test_sigterm_ends_it(
    server_backend: Backend, redis_server: Redis, worker: Callable[..., WorkerProcess], silent: bool
) -> None:
    running = worker({**server_backend.env, **SCRIPTED})
    with frozen(redis_server) if silent else nullcontext():
        os.killpg(running.pid, signal.SIGTERM)
        assert running.process.wait(60) == 0
