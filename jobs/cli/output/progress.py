"""Following a job to its end: a bar on stderr where that is a terminal, a line now and then where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jobs import polling
from jobs.cli.output.formats import notice
from jobs.durations import readable
from jobs.progress import Bar, Status, figures

if TYPE_CHECKING:
    from jobs.client import Job

__all__ = ["follow", "summary"]

_LINE_SECONDS = 30.0


def follow(job: Job, *, watch: Callable[[Status], str | None], timeout: timedelta | None = None) -> Status:
    """Wait for the job and show how far it is; returns its last status. See `jobs.polling.follow`."""
    with _display(job.id, endless=timeout is None) as display:
        seconds = None if timeout is None else timeout.total_seconds()
        return polling.follow(job, display, watch=watch, timeout=seconds)


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


@contextmanager
def _display(job_id: str, *, endless: bool) -> Iterator[polling.Display]:
    if sys.stderr.isatty():
        with Bar() as bar:
            yield _Endless(bar) if endless else bar
    else:
        yield _Endless(_Lines(job_id)) if endless else _Lines(job_id)


class _Endless:
    """Says with every notice that the wait has no end of its own."""

    def __init__(self, display: polling.Display) -> None:
        self.show, self._tell = display.show, display.tell

    def tell(self, words: str) -> None:
        self._tell(f"{words} (waiting has no time limit; --timeout 10m would set one)")


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
