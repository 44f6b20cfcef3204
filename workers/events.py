"""What has happened in this worker process, for whoever subscribes.

An event is published after its transaction, in the process that did the work, once. It is lost with that process, and
what clients do (cancel a job, promote a version) is not among them: the truth is in the database.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.db.queries.jobs import JobRecord
from jobs.states import JobState, RunState

__all__ = [
    "BatchCommitted",
    "Event",
    "JobFinished",
    "LeaseLost",
    "RunFinished",
    "VersionPromoted",
    "publish",
    "subscribe",
    "unsubscribe",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchCommitted:
    """The results of a batch are in the database. `seconds`: reading, inference and the commit together."""

    job: int
    batch: int
    images: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class JobFinished:
    """A worker gave a job its final state. `ok`, `failed`, `cached` and `images` (all of them) are numbers of images;
    `error` is why a job as a whole failed.
    """

    job: int
    state: JobState
    ok: int
    failed: int
    cached: int
    images: int
    error: str | None

    @classmethod
    def of(cls, row: JobRecord) -> JobFinished:
        """Return the event for a job's row, read where the job was ended."""
        return cls(
            job=row.id,
            state=JobState(row.state),
            ok=row.ok,
            failed=row.failed,
            cached=row.cached,
            images=row.total,
            error=row.error,
        )


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """A worker ended a training run. `model_version` is None unless the run has made one; `reason` is that of the
    decision on the version, or why the run failed or was canceled.
    """

    run: int
    state: RunState
    model_version: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class VersionPromoted:
    """A training run's version is the one that new jobs use; `reason` is that of the decision."""

    model_version: str
    run: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class LeaseLost:
    """A batch or a run was reclaimed while this process worked on it: nothing more of it is written here. `unwritten`
    is what would have been written of a run.
    """

    batch: int | None = None
    run: int | None = None
    unwritten: str | None = None


Event = BatchCommitted | JobFinished | RunFinished | VersionPromoted | LeaseLost
E = TypeVar("E", bound=Event)

_subscribers: dict[type, list[Callable[[Any], object]]] = {}


def subscribe(kind: type[E], subscriber: Callable[[E], object]) -> None:
    """Call `subscriber` with every event of this kind from now on, in the thread that publishes it, in the order of
    subscription; children of this process inherit it. A subscriber is called once however often it subscribes.
    """
    known = _subscribers.setdefault(kind, [])
    if subscriber not in known:
        known.append(subscriber)


def unsubscribe(kind: type[E], subscriber: Callable[[E], object]) -> None:
    """Undo `subscribe`; harmless where there is nothing to undo."""
    known = _subscribers.get(kind, [])
    if subscriber in known:
        known.remove(subscriber)


def publish(event: Event) -> None:
    """Call the subscribers of the event's kind. One that raises is logged; the others and the work continue."""
    for subscriber in tuple(_subscribers.get(type(event), ())):
        try:
            subscriber(event)
        except Exception:
            logger.exception("a subscriber of %s failed", type(event).__name__)
