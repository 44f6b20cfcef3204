"""Following a job or a training run: a bar on stderr where that is a terminal, a line now and then where it is not."""

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
from jobs.progress import JobBar, RunBar, job_figures, run_activity, run_figures

if TYPE_CHECKING:
    from jobs.cli.context import JobHandle, RunHandle
    from jobs.records import JobStatus, TrainingStatus

__all__ = ["follow_job", "follow_run", "summary"]

_LINE_SECONDS = 30.0


def follow_job(
    job: JobHandle, *, watch: Callable[[JobStatus], str | None], timeout: timedelta | None = None
) -> JobStatus:
    """Wait for the job and show how far it is; return its last status. See `jobs.polling.follow`."""
    seconds = None if timeout is None else timeout.total_seconds()
    with _job_display(job.id) as display:
        shown = _Endless(display) if timeout is None else display
        return polling.follow(job.status, what=f"job {job.id}", display=shown, watch=watch, timeout=seconds)


def follow_run(run: RunHandle, *, watch: Callable[[], None]) -> TrainingStatus:
    """Wait for the run and show how far it is; return its last status. What `watch` raises ends the wait."""
    what = f"training run {run.id}"
    with _run_display(what) as display:
        return polling.follow(run.status, what=what, display=display, watch=lambda _status: watch())


def summary(status: JobStatus) -> str:
    """Say in one line how a job has ended."""
    parts = [f"{status.ok:,} of {status.total:,} images classified"]
    if status.cached:
        parts.append(f"{status.cached:,} of them known before")
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.canceled:
        parts.append(f"{status.canceled:,} canceled")
    if (seconds := _seconds(status)) is not None:
        parts.append(f"in {readable(seconds)}")
    if status.images_per_second:
        parts.append(f"{status.images_per_second:.3g} images/s")
    return f"job {status.id} {status.state.replace('_', ' ')}: {', '.join(parts)}"


def _seconds(status: JobStatus) -> float | None:
    """How long the job took, from its first work (or its submission) to its end."""
    if status.finished_at is None:
        return None
    start = datetime.fromisoformat(status.started_at or status.created_at)
    return max(0.0, (datetime.fromisoformat(status.finished_at) - start).total_seconds())


@contextmanager
def _job_display(job_id: str) -> Iterator[polling.Display[JobStatus]]:
    if sys.stderr.isatty():
        with JobBar() as bar:
            yield bar
    else:
        yield _JobLines(job_id)


@contextmanager
def _run_display(what: str) -> Iterator[polling.Display[TrainingStatus]]:
    if sys.stderr.isatty():
        with RunBar() as bar:
            yield bar
    else:
        yield _RunLines(what)


class _Endless:
    """Says with every notice that the wait has no end of its own."""

    def __init__(self, display: polling.Display[JobStatus]) -> None:
        self.show, self._tell = display.show, display.tell

    def tell(self, words: str) -> None:
        self._tell(f"{words} (waiting has no time limit; --timeout 10m would set one)")


class _Lines:
    """For logs: what is told, as lines on stderr."""

    def tell(self, words: str) -> None:
        notice(words)


class _JobLines(_Lines):
    """How far the job is, every half minute."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, status: JobStatus) -> None:
        if status.total and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            self.tell(f"job {self._job_id}: {job_figures(status)}")


class _RunLines(_Lines):
    """A line for every activity and every epoch, and for one within a long epoch now and then."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown: tuple[str, int | None] | None = None
        self._next = 0.0

    def show(self, status: TrainingStatus) -> None:
        training = status.stage == "training"
        where = (run_activity(status), status.epoch if training else None)
        if status.state.terminal or (where == self._shown and time.monotonic() < self._next):
            return
        self._shown, self._next = where, time.monotonic() + _LINE_SECONDS
        self.tell(f"{self._what}: {run_activity(status)}{f': {run_figures(status)}' if training else ''}")
