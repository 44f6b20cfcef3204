"""Celery's own tools, beside workers on a real broker."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from jobs import Client
from jobs.broker import make_app
from tests.support.backends import Backend
from tests.support.processes import CHECKOUT, WorkerProcess, environment, wait_until


def celery(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "celery", "-A", "workers.app", *args]
    return subprocess.run(
        command, env=environment(env), cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )


def test_they_see_the_worker_and_its_work(
    server_backend: Backend, worker: Callable[..., WorkerProcess], photos: Callable[..., Path], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    engine = {"CARS_ENGINE": "tests.support.gated_engine:GatedEngine", "GATE": str(gate)}
    running = worker({**server_backend.env, **engine})
    with Client() as client:
        job = client.submit(str(photos(5, 16)))
        wait_until(lambda: _leased(client), message=running.output)
        status = celery(server_backend.env, "status")
        assert (status.returncode, "1 node online" in status.stdout) == (0, True), status.stderr
        (tasks,) = json.loads(celery(server_backend.env, "inspect", "active", "--json").stdout).values()
        assert [(task["name"], task["args"]) for task in tasks] == [
            ("workers.classify_batch", [int(job.id), _leased(client)[0]])
        ]
        ending = celery(server_backend.env, "control", "shutdown")
        assert (ending.returncode, "shutting down" in ending.stdout) == (0, True), ending.stderr
        wait_until(lambda: client.workers() == [], message=running.output)
        assert running.process.poll() is None
        gate.unlink()
        assert running.process.wait(60) == 0
        assert job.status().ok == 5


def test_events(server_backend: Backend, worker: Callable[..., WorkerProcess], photos: Callable[..., Path]) -> None:
    """What Flower listens to."""
    seen: set[str] = set()
    wanted = {"worker-heartbeat", "task-received", "task-started", "task-succeeded"}
    with Client() as client, make_app(client.settings) as app, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.add(event["type"])})
        with receiver.consumer_context() as (listening, _, _):
            worker({**server_backend.env, "CARS_ENGINE": "tests.support.engines:ScriptedEngine"})
            job = client.submit(str(photos(3, 16)))
            wait_until(lambda: _drained(listening) and wanted <= seen, 90, lambda: str(seen))
        assert job.wait(60).ok == 3


def _drained(connection: Any) -> bool:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.5)
    return True


def _leased(client: Client) -> list[int]:
    with client.database.read() as connection:
        return list(connection.scalars(text("SELECT id FROM batches WHERE state = 'leased'")))
