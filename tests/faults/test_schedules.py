"""Schedules whose workers and beats are frozen, killed and started again: each due time has one row of the ledger."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from jobs import Client
from jobs.records import Fire
from jobs.states import FireOutcome
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.processes import WorkerProcess, wait_until

EVERY = timedelta(seconds=5)
PATIENCE = 120
Start = Callable[..., WorkerProcess]


@pytest.fixture
def beat(tmp_path: Path) -> Iterator[Start]:
    """`beat(env)`: starts a `cars beat`; all are killed in the end."""
    started: list[WorkerProcess] = []

    def start(env: dict[str, str]) -> WorkerProcess:
        command = [sys.executable, "-P", "-m", "workers", "beat"]
        started.append(WorkerProcess(command, env=env, log=tmp_path / f"beat-{len(started)}.log"))
        wait_until(lambda: "Starting" in started[-1].output(), PATIENCE, started[-1].output)
        return started[-1]

    yield start
    for process in started:
        process.signal(signal.SIGCONT)
        process.kill_all()


def ledger(client: Client) -> list[Fire]:
    """Return the rows, oldest first."""
    return list(reversed(client.schedules.show("often").ledger))


def wait_for_rows(client: Client, count: int) -> None:
    wait_until(lambda: len(ledger(client)) >= count, PATIENCE, lambda: f"{count} rows: {ledger(client)}")


def check(client: Client, rows: list[Fire], *, first: datetime) -> None:
    """Assert that from the first due time on there is a row for each, and that those that fired have a job each."""
    moments = [datetime.fromisoformat(row.due_at) for row in rows]
    assert moments[0] == first
    assert {later - earlier for earlier, later in pairwise(moments)} == {EVERY}
    jobs = [row.job for row in rows if row.outcome is FireOutcome.FIRED]
    assert sorted(jobs, key=lambda job: int(job or 0)) == [status.id for status in reversed(list(client.jobs()))]
    for row in rows:
        assert (row.job is None) == (row.outcome is FireOutcome.SKIPPED)
        assert (row.reason is None) == (row.outcome is FireOutcome.FIRED)
        assert row.reason is None or row.reason == "missed" or row.reason.endswith("is still running")


@pytest.mark.slow
def test_beats_and_workers_that_are_frozen_and_killed(
    backend: Backend, photos: Callable[..., Path], worker: Start, beat: Start
) -> None:
    """Where the broker is inside each worker, a worker is frozen in place of a beat."""
    env = {**backend.env, **SCRIPTED}
    embedded = backend.name == "embedded"
    options = ("--beat",) if embedded else ()
    with Client() as client:
        first, second = worker(env, *options), worker(env, *options)
        frozen, killed = (second, first) if embedded else (beat(env), beat(env))
        added = client.schedules.add("often", photos(3), every=EVERY)
        assert added.next_at is not None
        wait_for_rows(client, 1)
        frozen.signal(signal.SIGSTOP)
        wait_for_rows(client, 3)
        killed.kill_all()
        first.kill_all()
        worker(env, *options)
        if not embedded:
            beat(env)
        wait_for_rows(client, 5)
        frozen.signal(signal.SIGCONT)
        before = len(ledger(client))
        wait_until(lambda: any(row.job for row in ledger(client)[before:]), PATIENCE, lambda: str(ledger(client)))
        client.schedules.pause("often")
        check(client, ledger(client), first=datetime.fromisoformat(added.next_at))


@pytest.mark.slow
def test_an_outage(backend: Backend, photos: Callable[..., Path], worker: Start) -> None:
    env = {**backend.env, **SCRIPTED}
    with Client() as client:
        only = worker(env)
        added = client.schedules.add("often", photos(3), every=EVERY)
        assert added.next_at is not None
        wait_for_rows(client, 1)
        wait_until(lambda: all(status.state.terminal for status in client.jobs()), PATIENCE)
        only.kill_all()
        before = len(ledger(client))
        until = datetime.fromisoformat(ledger(client)[-1].due_at) + 3.5 * EVERY
        wait_until(lambda: datetime.now().astimezone() > until, PATIENCE)
        assert len(ledger(client)) == before
        worker(env)
        wait_for_rows(client, before + 3)
        rows = ledger(client)
        check(client, rows, first=datetime.fromisoformat(added.next_at))
        outage = rows[before:]
        newest = next(at for at, row in enumerate(outage) if row.outcome is FireOutcome.FIRED)
        assert newest >= 2
        assert {row.reason for row in outage[:newest]} == {"missed"}
