"""CARS_LOG_FORMAT=json: every line is an object, whoever writes it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.processes import WorkerProcess, environment, wait_until

COMMANDS = {
    "cars": [sys.executable, "-P", "-m", "workers", "worker"],
    "celery": [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "classify,control", "-c", "1"],
}


@pytest.fixture(params=COMMANDS)
def running(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> Iterator[WorkerProcess]:
    env = {**backend.env, **SCRIPTED, "CARS_LOG_FORMAT": "json"}
    process = WorkerProcess(COMMANDS[request.param], env=env, log=tmp_path / "json.log")
    process.wait_ready()
    yield process
    process.kill_all()


def test_every_line(running: WorkerProcess, photos: Callable[..., Path]) -> None:
    with Client() as client:
        job = client.submit(str(photos(5, 16)))
        assert job.wait(60).ok == 5
        (row,) = client.workers()
        killed = running.child_pids()[0]
        os.kill(killed, signal.SIGKILL)  # the pool has something to say
        wait_until(lambda: f"pid:{killed} exited" in running.output(), 30, running.output)
        os.kill(running.pid, signal.SIGTERM)
        assert running.process.wait(60) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in running.output().splitlines()]
    (batch,) = [line for line in lines if line.get("images") == 5 and "seconds" in line]
    assert (batch["job"], batch["worker"], batch["host"]) == (int(job.id), row.id, socket.gethostname())
    assert {"batch", "version", "time", "level", "logger", "process", "task"} <= batch.keys()
    assert any("Warm shutdown" in line["message"] for line in lines)


def test_a_worker_that_cannot_start(home: Path, pg_url: str) -> None:
    env = environment({"CARS_HOME": str(home), "CARS_DATABASE_URL": pg_url, "CARS_LOG_FORMAT": "json"})
    done = subprocess.run(COMMANDS["cars"], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert "run `cars migrate`" in line["message"]
