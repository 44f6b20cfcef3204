"""The workers by their heartbeats: which are alive, and whether one of them takes batches or training runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobs.db.queries import workers
from jobs.records import WorkerStatus

if TYPE_CHECKING:
    from jobs.backend import Backend

__all__ = ["anyone_classifies", "anyone_trains", "listing", "why_nobody_classifies"]


def listing(backend: Backend) -> list[WorkerStatus]:
    """List the workers that were seen in the last week, the last seen first."""
    with backend.database.read() as connection:
        rows, work = workers.page(connection), workers.work(connection)
    return [WorkerStatus.from_row(row, work=work.get(row.id, ())) for row in rows]


def anyone_classifies(found: Iterable[WorkerStatus]) -> bool:
    """Return whether one of these workers takes batches."""
    return any(worker.takes_batches for worker in found)


def anyone_trains(found: Iterable[WorkerStatus]) -> bool:
    """Return whether one of these workers takes training runs."""
    return any(worker.trains for worker in found)


def why_nobody_classifies(found: Iterable[WorkerStatus]) -> str | None:
    """Return what to tell a person when none of these workers takes batches, or None when one does."""
    alive = [worker for worker in found if worker.alive and "classify" in worker.queues]
    if anyone_classifies(alive):
        return None
    if alive:
        return f"every worker is broken; one says: {alive[0].state.removeprefix('broken: ')}; see: cars workers"
    return "no worker is alive; start one: cars worker"
