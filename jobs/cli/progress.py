"""Following a job to its end: a bar on stderr where that is a terminal, a line now and then where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from jobs.cli.output import notice
from jobs.errors import WaitTimeout
from jobs.progress import Bar, Status, done, figures
from jobs.spans import readable
from jobs.status import JobState

if TYPE_CHECKING:
    from jobs.client import Job

__all__ = ["follow", "summary"]

_POLL_SECONDS = 0.2
_WATCH_SECONDS = 2.0
_LINE_SECONDS = 30.0


def follow(job: Job, *, watch: Callable[[], str | None], timeout: timedelta | None = None) -> Status:
    """Wait for the job and show how far it is; returns its last status.

    `watch` is called every two seconds: what it returns is told to the person once, what it raises ends the wait.
    Raises WaitTimeout when the job has not ended within `timeout`.
    """
    deadline = time.monotonic() + timeout.total_seconds() if timeout else None
    next_watch, told = 0.0, set[str]()
    with _display(job.id) as display:
        while True:
            status: Status = job.status()
            display.show(status)
            if JobState(status["state"]).terminal:
                return status
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise WaitTimeout(
                    f"job {job.id} has not ended in time: {done(status):,} of {status['total']:,} images are done; "
                    f"it goes on: cars wait {job.id}"
                )
            if now >= next_watch:
                next_watch = now + _WATCH_SECONDS
                waits = f"job {job.id} waits {status['waiting']}" if status["waiting"] else None
                for words in (watch(), waits):
                    if words and words not in told:
                        told.add(words)
                        display.tell(words)
            time.sleep(_POLL_SECONDS)


def summary(status: Status) -> str:
    """One line about a job that has ended."""
    parts = [f"{status['ok']:,} of {status['total']:,} images classified"]
    if status["cached"]:
        parts.append(f"{status['cached']:,} of them known before")
    if status["failed"]:
        parts.append(f"{status['failed']:,} failed")
    if status["canceled"]:
        parts.append(f"{status['canceled']:,} canceled")
    if (seconds := _seconds(status)) is not None:
        parts.append(f"in {readable(seconds)}")
    if status["images_per_second"]:
        parts.append(f"{status['images_per_second']:.3g} images/s")
    return f"job {status['id']} {status['state'].replace('_', ' ')}: {', '.join(parts)}"


def _seconds(status: Status) -> float | None:
    """How long the job took, from its first work (or its submission) to its end."""
    times = (status["started_at"] or status["created_at"], status["finished_at"])
    if not all(times):
        return None
    start, end = (datetime.fromisoformat(t) if isinstance(t, str) else t for t in times)
    return max(0.0, float((end - start).total_seconds()))


class _Display(Protocol):
    def show(self, status: Status) -> None: ...
    def tell(self, words: str) -> None: ...


def _display(job_id: str) -> AbstractContextManager[_Display]:
    return Bar() if sys.stderr.isatty() else nullcontext(_Lines(job_id))


class _Lines:
    """For logs: how far the job is, every half minute."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, status: Status) -> None:
        if status["total"] and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            self.tell(f"job {self._job_id}: {figures(status)}")

    def tell(self, words: str) -> None:
        notice(words)
