"""Waiting for a job's end: one loop for Python and for the command line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jobs.errors import DatabaseUnavailable, NoWorkerAlive, WaitTimeout
from jobs.obstacles import Obstacles
from jobs.states import JobState

if TYPE_CHECKING:
    from jobs.client import Client, Job

__all__ = ["Display", "brief_interrupt", "follow", "outlasting", "wait"]

logger = logging.getLogger(__name__)
Status = dict[str, Any]
T = TypeVar("T")

POLL_SECONDS = 0.25
FIRST_POLL_SECONDS = 0.01
POLL_FRACTION = 0.03  # of the time waited so far: the end of a short job is seen soon, and a long one costs little
WATCH_SECONDS = 2.0
REPEAT_SECONDS = 30.0  # the same notice is told again after so long
WORKER_PATIENCE = 60.0  # a worker that is restarted has time to come back
DATABASE_PATIENCE = 600.0  # a database that is restarted has, too
BACK = "the database answers again"


class Display(Protocol):
    """Is shown every status, and told what a person should know."""

    def show(self, status: Status) -> None: ...
    def tell(self, words: str) -> None: ...


def follow(
    job: Job, display: Display, *, watch: Callable[[Status], str | None], timeout: float | None = None
) -> Status:
    """Wait for the job to end; returns its last status.

    `watch` is called every two seconds: what it returns is told, and told again as long as it is so; what it raises
    ends the wait. A database that does not answer is asked again for ten minutes. Raises WaitTimeout when the job has
    not ended within `timeout` seconds, DatabaseUnavailable.
    """
    start = time.monotonic()
    notices, outage = _Notices(display.tell), _Outage()
    next_watch, status = start, None
    while True:
        try:
            status = job.status()
            display.show(status)
            if JobState(status["state"]).terminal:
                return status
            if time.monotonic() >= next_watch:
                next_watch = time.monotonic() + WATCH_SECONDS
                notices.say(watch(status))
            if outage.ended():
                display.tell(BACK)
        except DatabaseUnavailable as exc:
            notices.say(outage.words(exc))
        waited = time.monotonic() - start
        left = float("inf") if timeout is None else timeout - waited
        if left <= 0:
            raise WaitTimeout(f"job {job.id} has not ended within {timeout:g} s: {_how_far(status)}")
        time.sleep(min(POLL_SECONDS, left, max(FIRST_POLL_SECONDS, POLL_FRACTION * waited)))


def outlasting(ask: Callable[[], T], tell: Callable[[str], None]) -> T:
    """What `ask` returns, asked again while the database does not answer. Raises DatabaseUnavailable after ten
    minutes."""
    notices, outage = _Notices(tell), _Outage()
    while True:
        try:
            answer = ask()
        except DatabaseUnavailable as exc:
            notices.say(outage.words(exc))
            time.sleep(POLL_SECONDS)
        else:
            if outage.ended():
                tell(BACK)
            return answer


def _how_far(status: Status | None) -> str:
    if status is None:
        return "the database did not answer"
    return f"it is {status['state']}, {status['total'] - status['pending']:,} of {status['total']:,} images are done"


class _Notices:
    """Tells what is new at once, and the same again now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def say(self, words: str | None) -> None:
        now = time.monotonic()
        if words and now - self._told.get(words, float("-inf")) >= REPEAT_SECONDS:
            self._told[words] = now
            self._tell(words)


class _Outage:
    """A time in which the database does not answer."""

    def __init__(self) -> None:
        self._since: float | None = None

    def words(self, error: DatabaseUnavailable) -> str:
        """What to say of it; raises the error when it has lasted too long."""
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > DATABASE_PATIENCE:
            raise error
        return f"{error}; trying again for {DATABASE_PATIENCE / 60:g} min"

    def ended(self) -> bool:
        """Whether there was one until now."""
        was, self._since = self._since is not None, None
        return was


def wait(job: Job, client: Client, *, timeout: float | None, progress: bool) -> Status:
    """See `Job.wait`."""
    obstacles = Obstacles(client)
    missed = 0.0

    def watch(status: Status) -> str | None:
        nonlocal missed
        words = obstacles.look(status)
        missed = 0.0 if obstacles.worker_alive else missed + WATCH_SECONDS
        if missed > WORKER_PATIENCE:
            raise NoWorkerAlive(
                f"no worker has been alive for {WORKER_PATIENCE:g} s: start one with `cars worker`; "
                f"job {job.id} waits in the database"
            )
        return words

    with _display(progress) as display:
        return follow(job, display, watch=watch, timeout=timeout)


class _Log:
    """Shows nothing; notices are warnings in the log, which Python writes to stderr unless it is told otherwise."""

    def show(self, status: Status) -> None:
        pass

    def tell(self, words: str) -> None:
        logger.warning("%s", words)


@contextmanager
def _display(progress: bool) -> Iterator[Display]:
    if not progress:
        yield _Log()
        return
    from jobs.progress import Bar

    with Bar() as bar:
        yield bar


@contextmanager
def brief_interrupt(words: str) -> Iterator[None]:
    """Ctrl-C inside says `words`, and nothing of what went on at that moment."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words) from None
