"""Following a job as a suspicious user would: every 50 ms, adding up the counts of its status."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import text

from jobs import Client, Job
from jobs.records import JobStatus


def follow(job: Job, *, until: Callable[[JobStatus], bool], timeout: float = 180) -> JobStatus:
    """Poll the job until the condition holds, check its counts, and return its last status."""
    deadline = time.monotonic() + timeout
    before = {"ok": 0, "failed": 0, "canceled": 0}
    while True:
        status = job.status()
        assert status.ok + status.failed + status.canceled + status.pending == status.total, status
        for name, count in before.items():
            assert getattr(status, name) >= count, (name, count, status)
        before = {name: getattr(status, name) for name in before}
        if until(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def ended(status: JobStatus) -> bool:
    return status.state.terminal


def done(count: int) -> Callable[[JobStatus], bool]:
    """Return a condition: this many images are done."""
    return lambda status: status.done >= count


def check_whole(client: Client, job: Job, *, total: int) -> None:
    """Assert that every image has one result of its own, and that no batch is left over."""
    paths = [result.path for result in job.results()]
    assert len(paths) == len(set(paths)) == total
    with client.database.read() as connection:
        open_batches = connection.execute(text("SELECT count(*) FROM batches WHERE state <> 'done'")).scalar_one()
        predictions = connection.execute(text("SELECT count(*) FROM predictions")).scalar_one()
    assert open_batches == 0
    assert predictions == len({result.content_hash for result in job.results(status="ok")})
