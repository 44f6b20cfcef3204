"""Statements on workers: the heartbeat rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from jobs.db.database import later, now
from jobs.db.tables import BatchRow, TrainingRunRow, WorkerRow
from jobs.states import BatchState, RunState

__all__ = ["ALIVE_SECONDS", "WorkerRecord", "alive", "classifiers", "forget", "heartbeat", "page", "work"]

ALIVE_SECONDS = 15
FORGOTTEN_SECONDS = 7 * 86_400

_IS_ALIVE = WorkerRow.seen_at > later(-ALIVE_SECONDS)


class WorkerRecord(NamedTuple):
    """A worker's heartbeat row, whether it is `alive`, and `now`, the database's clock."""

    id: str
    host: str
    pid: int
    queues: str
    concurrency: int
    device: str
    release: str
    broken: str | None
    images_per_second: float | None
    started_at: datetime
    seen_at: datetime
    alive: bool
    now: datetime


def heartbeat(connection: Connection, row: Mapping[str, Any]) -> None:
    """Write a worker's heartbeat, and what changes in its row; it is made the first time."""
    changes = {name: row[name] for name in ("broken", "images_per_second") if name in row}
    seen = update(WorkerRow).where(WorkerRow.id == row["id"]).values(**changes, seen_at=now())
    if not connection.execute(seen).rowcount:
        connection.execute(insert(WorkerRow).values(**row, started_at=now(), seen_at=now()))
        connection.execute(delete(WorkerRow).where(WorkerRow.seen_at < later(-FORGOTTEN_SECONDS)))


def forget(connection: Connection, worker_id: str) -> None:
    """Remove the row of a worker that stops."""
    connection.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))


def alive(connection: Connection) -> list[WorkerRecord]:
    """List the workers with a fresh heartbeat."""
    fresh = select(*_COLUMNS).where(_IS_ALIVE)
    return [WorkerRecord(**row._asdict()) for row in connection.execute(fresh)]


def page(connection: Connection) -> list[WorkerRecord]:
    """List all known workers, the last seen first."""
    known = select(*_COLUMNS).order_by(WorkerRow.seen_at.desc())
    return [WorkerRecord(**row._asdict()) for row in connection.execute(known)]


_COLUMNS = (*WorkerRow.__table__.columns, _IS_ALIVE.label("alive"), now().label("now"))


def work(connection: Connection) -> dict[str, list[str]]:
    """Return what each worker's processes work on, by the worker's id: batches and training runs."""
    leased = select(BatchRow.owner, BatchRow.job_id, BatchRow.id).where(BatchRow.state == BatchState.LEASED)
    running = select(TrainingRunRow.owner, TrainingRunRow.id).where(TrainingRunRow.state == RunState.RUNNING)
    found: dict[str, list[str]] = {}
    for owner, job_id, batch_id in connection.execute(leased.order_by(BatchRow.id)):
        found.setdefault((owner or "").rpartition(":")[0], []).append(f"job {job_id}, batch {batch_id}")
    for owner, run_id in connection.execute(running.order_by(TrainingRunRow.id)):
        found.setdefault((owner or "").rpartition(":")[0], []).append(f"training run {run_id}")
    return found


def classifiers(connection: Connection) -> int:
    """Count the engine processes that are alive on the queue `classify`, and not broken."""
    return sum(
        row.concurrency for row in alive(connection) if "classify" in row.queues.split(",") and row.broken is None
    )
