"""Waiting for the end of a job or a training run: one loop for Python and for the command line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

from jobs.errors import DatabaseUnavailable, NoWorkerAlive, WaitTimeout
from jobs.states import JobState, RunState

__all__ = ["Display", "Status", "WorkerPatience", "brief_interrupt", "follow", "log_or"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
FIRST_POLL_SECONDS = 0.01
POLL_FRACTION = 0.03  # of the time waited so far: the end of a short job is seen soon, and a long one costs little
WATCH_SECONDS = 2.0
REPEAT_SECONDS = 30.0  # the same notice is told again after so long
WORKER_PATIENCE = 60.0  # a worker that is restarted has time to come back
DATABASE_PATIENCE = 600.0  # a database that is restarted has, too
BACK = "the database answers again"


class Status(Protocol):
    """What the loop needs of a job's or a run's status."""

    @property
    def state(self) -> JobState | RunState:
        """The state, which is terminal at the end."""

    @property
    def how_far(self) -> str:
        """What to say of it when the time is over."""


S = TypeVar("S", bound=Status)
S_contra = TypeVar("S_contra", bound=Status, contravariant=True)


class Display(Protocol[S_contra]):
    """Is shown every status, and told what a person should know."""

    def show(self, status: S_contra) -> None:
        """Show how far it is."""

    def tell(self, notice: str) -> None:
        """Tell the person something."""


def follow(
    ask: Callable[[], S],
    *,
    what: str,
    display: Display[S],
    watch: Callable[[S], str | None],
    timeout: float | None = None,
) -> S:
    """Ask for the status of `what` (such as `job 7`) until it has ended, and return the last one.

    `watch` is called every two seconds: what it returns is told, and told again as long as it is so; what it raises
    ends the wait. A database that does not answer is asked again for ten minutes. Raises WaitTimeout when there is no
    end within `timeout` seconds, DatabaseUnavailable.
    """
    start = time.monotonic()
    notices, outage = _Notices(display.tell), _Outage()
    next_watch = start
    status: S | None = None
    while True:
        try:
            status = ask()
            display.show(status)
            if status.state.terminal:
                return status
            if time.monotonic() >= next_watch:
                next_watch = time.monotonic() + WATCH_SECONDS
                notices.say(watch(status))
            if outage.ended():
                display.tell(BACK)
        except DatabaseUnavailable as exc:
            notices.say(outage.notice(exc))
        waited = time.monotonic() - start
        left = float("inf") if timeout is None else timeout - waited
        if left <= 0:
            how_far = "the database did not answer" if status is None else status.how_far
            raise WaitTimeout(f"{what} has not ended within {timeout:g} s: {how_far}")
        time.sleep(min(POLL_SECONDS, left, max(FIRST_POLL_SECONDS, POLL_FRACTION * waited)))


class _Notices:
    """Tells what is new at once, and the same again now and then."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def say(self, notice: str | None) -> None:
        now = time.monotonic()
        if notice and now - self._told.get(notice, float("-inf")) >= REPEAT_SECONDS:
            self._told[notice] = now
            self._tell(notice)


class _Outage:
    """A time in which the database does not answer."""

    def __init__(self) -> None:
        self._since: float | None = None

    def notice(self, error: DatabaseUnavailable) -> str:
        """Return what to say of it; raise the error when it has lasted too long."""
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > DATABASE_PATIENCE:
            raise error
        return f"{error}; trying again for {DATABASE_PATIENCE / 60:g} min"

    def ended(self) -> bool:
        """Return whether there was one until now."""
        was, self._since = self._since is not None, None
        return was


class WorkerPatience:
    """Raises NoWorkerAlive once no worker has been alive for a minute of looks, one every `WATCH_SECONDS`."""

    def __init__(self, what: str, *, kind: str, command: str) -> None:
        self._what, self._kind, self._command = what, kind, command
        self._missed = 0.0

    def look(self, *, alive: bool) -> None:
        """Count one look. Raises NoWorkerAlive."""
        self._missed = 0.0 if alive else self._missed + WATCH_SECONDS
        if self._missed > WORKER_PATIENCE:
            raise NoWorkerAlive(
                f"no {self._kind} has been alive for {WORKER_PATIENCE:g} s: start one with `{self._command}`; "
                f"{self._what} waits in the database"
            )


class _Log:
    """Shows nothing; notices are warnings in the log, which Python writes to stderr unless it is told otherwise."""

    def show(self, status: Status) -> None:
        pass

    def tell(self, notice: str) -> None:
        logger.warning("%s", notice)


def log_or(bar: AbstractContextManager[Display[S]] | None) -> AbstractContextManager[Display[S]]:
    """Return the bar, or what only writes notices to the log."""
    return nullcontext(_Log()) if bar is None else bar


@contextmanager
def brief_interrupt(words: str) -> Iterator[None]:
    """Make Ctrl-C inside say `words`, and nothing of where it came."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words) from None
