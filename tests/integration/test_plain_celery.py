"""A worker as Celery's own command starts it, and how any worker ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.processes import WorkerProcess, wait_until

CELERY = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "classify,control", "-c", "1"]
Start = Callable[..., WorkerProcess]


@pytest.fixture
def celery(tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start(env: dict[str, str]) -> WorkerProcess:
        started.append(WorkerProcess(CELERY, env={**env, **SCRIPTED}, log=tmp_path / "celery.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill_all()


def test_on_redis(server_backend: Backend, celery: Start, photos: Callable[..., Path]) -> None:
    running = celery({**server_backend.env, "CARS_BATCH_SIZE": "3"})
    with Client() as client:
        before = client.submit(str(photos(10, 16)))
        running.wait_ready()
        assert before.wait(60).ok == 10
        job = client.submit(str(photos(10, 16, Path(before.status().source).parent / "more")))
        status = job.wait(60)
        assert (status.state, status.ok) == ("completed", 10)
        (worker,) = client.workers()
        assert (worker.pid, sorted(worker.queues)) == (running.pid, ["classify", "control"])
        assert running.stop() == 0
        assert client.workers() == []
    assert "Traceback" not in running.output()


def test_without_tables_it_ends_and_says_why(pg_url: str, celery: Start, home: Path) -> None:
    ended = celery({"CARS_DATABASE_URL": pg_url, "CARS_HOME": str(home)})
    assert ended.process.wait(60) == 1
    assert "error: the database has no tables of this release yet: run `cars migrate`" in ended.output()
    assert "Traceback" not in ended.output()


def test_a_stopping_worker_does_not_count_as_alive(
    backend: Backend, worker: Start, photos: Callable[..., Path], tmp_path: Path
) -> None:
    """Its row goes when it is asked to stop, though it still ends the batch in hand; that batch is kept."""
    gate = tmp_path / "gate"
    gate.touch()
    engine = {"CARS_ENGINE": "tests.support.gated_engine:GatedEngine", "GATE": str(gate)}
    running = worker({**backend.env, **engine})
    with Client() as client:
        job = client.submit(str(photos(5, 16)))
        wait_until(lambda: "leased" in _batch_states(client), message=running.output)
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.workers() == [], message=running.output)
        assert running.process.poll() is None
        gate.unlink()
        assert running.process.wait(60) == 0
        assert job.status().ok == 5


def _batch_states(client: Client) -> list[str]:
    from sqlalchemy import text

    with client.database.read() as connection:
        return list(connection.scalars(text("SELECT state FROM batches")))
