"""Waiting from Python: what keeps the job from continuing is a warning, and a restart of the database is waited for."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import Client, obstacles, polling
from jobs import settings as configuration
from jobs.errors import NoWorkerAlive
from jobs.obstacles import Obstacles
from tests.support.backends import Backend
from tests.support.cli_fakes import RUNNING, WORKER
from tests.support.processes import environment
from tests.support.servers import Postgres


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(polling, "REPEAT_SECONDS", 0.0)
    monkeypatch.setattr(obstacles, "QUIET_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_job_wait_warns_again_and_again_and_then_gives_up(
    client: Client, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(polling, "WORKER_PATIENCE", 0.12)
    job = client.submit(photos(1))
    with pytest.raises(NoWorkerAlive, match="cars worker"):
        job.wait()
    warnings = [record.getMessage() for record in caplog.records if record.name == "jobs.polling"]
    assert len(warnings) >= 2
    assert set(warnings) == {"no worker is alive; start one: cars worker"}


@pytest.mark.usefixtures("impatient")
def test_a_bar_carries_the_warnings(
    client: Client, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(polling, "WORKER_PATIENCE", 0.12)
    with pytest.raises(NoWorkerAlive):
        client.submit(photos(1)).wait(progress=True)
    assert capfd.readouterr().err.count("no worker is alive; start one: cars worker") >= 2


@contextmanager
def frozen_broker() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"redis://:secret@127.0.0.1:{server.getsockname()[1]}/0"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["refused", "frozen"])
def test_a_broker_that_does_not_answer_is_named(
    home: Path, kind: str, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(obstacles, "BROKER_PATIENCE", 0.5)
    with frozen_broker() as url:
        settings = configuration.load(broker_url=url if kind == "frozen" else "redis://:secret@127.0.0.1:1/0")
        looker = Obstacles(settings, lambda: [WORKER])
        words = wait_until(lambda: looker.look(RUNNING), timeout=60)
    assert "redis://" in words
    assert "does not answer" in words
    assert "start Redis or correct CARS_BROKER_URL" in words
    assert "secret" not in words


def test_nothing_is_said_of_a_job_that_moves(home: Path) -> None:
    settings = configuration.load(broker_url="redis://127.0.0.1:1/0")
    looker = Obstacles(settings, lambda: [WORKER])
    assert [looker.look(replace(RUNNING, pending=n)) for n in (2, 1, 0)] == [None] * 3


def test_a_restart_of_the_database(
    server_backend: Backend,
    postgres: Postgres,
    photos: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    wait_until: Callable[..., Any],
) -> None:
    stderr = tmp_path / "stderr"
    with Client() as client, Client() as other, ThreadPoolExecutor(1) as threads, stderr.open("wb") as log:
        job = client.submit(photos(1))
        command = [sys.executable, "-P", "-m", "jobs.cli", "wait", job.id]
        process = subprocess.Popen(command, env=environment(server_backend.env), stderr=log)
        try:
            wait_until(lambda: "no worker is alive" in stderr.read_text(), timeout=60)
            waited = threads.submit(job.wait)
            wait_until(lambda: "no worker is alive" in caplog.text, timeout=60)
            postgres.stop()
            for text in (stderr.read_text, lambda: caplog.text):
                wait_until(lambda text=text: "trying again for 10 min" in text(), timeout=60)
            postgres.start()
            other.job(job.id).cancel()
            assert waited.result(60).state == "canceled"
            assert process.wait(60) == 1
        finally:
            process.kill()
            process.wait()
    assert f"job {job.id} canceled" in stderr.read_text()
