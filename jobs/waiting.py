"""Waiting for a job's end, with or without a progress bar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from jobs.errors import NoWorkerAlive, WaitTimeout
from jobs.status import JobState

if TYPE_CHECKING:
    from jobs.client import Client, Job

__all__ = ["brief_interrupt", "wait"]

POLL_SECONDS = 0.25
WORKER_PATIENCE = 60.0  # a worker that is restarted has time to come back
WORKER_CHECK_SECONDS = 5.0


class Watcher(Protocol):
    """Is shown every status that was polled."""

    def __call__(self, status: dict[str, Any]) -> None: ...


def wait(job: Job, client: Client, *, timeout: float | None, progress: bool) -> dict[str, Any]:
    """Poll until the job has ended; see `Job.wait`."""
    start = time.monotonic()
    alive_at, checked_at = start, float("-inf")
    with _bar(progress) as show:
        while True:
            status = job.status()
            show(status)
            if JobState(status["state"]).terminal:
                return status
            now = time.monotonic()
            if timeout is not None and now - start >= timeout:
                raise WaitTimeout(
                    f"job {job.id} is still {status['state']} after {timeout:g} s "
                    f"({status['pending']} images pending); it goes on"
                )
            if now - checked_at >= WORKER_CHECK_SECONDS:
                checked_at = now
                if any(worker["alive"] and "classify" in worker["queues"] for worker in client.workers()):
                    alive_at = now
            if now - alive_at > WORKER_PATIENCE:
                raise NoWorkerAlive(
                    f"no worker has been alive for {WORKER_PATIENCE:g} s: start one with `cars worker`; "
                    f"job {job.id} waits in the database"
                )
            left = start + timeout - now if timeout is not None else POLL_SECONDS
            time.sleep(max(0.0, min(POLL_SECONDS, left)))


@contextmanager
def _bar(progress: bool) -> Iterator[Watcher]:
    if not progress:
        yield lambda _status: None
        return
    from jobs.progress import Bar

    with Bar() as bar:
        yield bar.show


@contextmanager
def brief_interrupt(words: str) -> Iterator[None]:
    """Ctrl-C inside says `words`, and nothing of what went on at that moment."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words) from None
