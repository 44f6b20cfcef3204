"""Signals to a whole process group, as service managers and terminals send them: the worker ends in good order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED, inferences
from tests.support.processes import WorkerProcess, engine_pid, wait_until
from tests.support.seeds import SEEDS

BATCH_SECONDS = 60  # the batch itself takes two; the rest is for a busy machine
NOBODY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_mid_batch(
    backend: Backend,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
    tmp_path: Path,
    seed: int,
    number: signal.Signals,
) -> None:
    """It ends with 0 within the batch's time, and the batch in hand is kept."""
    log = tmp_path / "inferences"
    env = {**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.02", "ENGINE_LOG": str(log)}
    with Client() as client:
        running = worker(env)
        job = client.submit(str(photos(400, 16)))
        engine_pid(running, client)
        wait_until(lambda: inferences(log) >= seed, 40, running.output)
        os.killpg(running.pid, number)
        assert running.process.wait(BATCH_SECONDS) == 0
        assert job.status().ok == 128, "the batch in hand, and no other"
        assert job.status().failed == 0
        with client.database.read() as connection:
            assert connection.scalar(text("SELECT count(*) FROM batches WHERE state = 'leased'")) == 0
        assert client.workers() == []
    assert "exited with" not in running.output()


def test_as_soon_as_it_listens(backend: Backend, worker: Callable[..., WorkerProcess]) -> None:
    starting = worker(backend.env, ready=False)
    wait_until(lambda: _catches(starting.pid, signal.SIGTERM), 40, starting.output)
    os.killpg(starting.pid, signal.SIGTERM)
    assert starting.process.wait(60) == 0
    assert "Traceback" not in starting.output()


def test_while_it_waits_for_the_broker(server_backend: Backend, worker: Callable[..., WorkerProcess]) -> None:
    starting = worker({**server_backend.env, "CARS_BROKER_URL": NOBODY}, ready=False)
    wait_until(lambda: "Cannot connect to" in starting.output(), 60, starting.output)
    os.killpg(starting.pid, signal.SIGTERM)
    assert starting.process.wait(60) == 0
    assert starting.child_pids() == []


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)
