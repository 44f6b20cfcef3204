"""Statements on workers: the heartbeat rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from jobs.db.database import later, now
from jobs.db.tables import BatchRow, TrainingRunRow, WorkerRow
from jobs.states import BatchState, RunState

__all__ = ["ALIVE_SECONDS", "alive", "beat", "classifiers", "forget", "page", "work"]

ALIVE_SECONDS = 15
FORGOTTEN_SECONDS = 7 * 86_400

_IS_ALIVE = WorkerRow.seen_at > later(-ALIVE_SECONDS)


def beat(connection: Connection, row: dict[str, Any]) -> None:
    """Write a worker's heartbeat, and what changes in its row; it is made the first time."""
    changes = {name: row[name] for name in ("broken", "images_per_second") if name in row}
    beaten = update(WorkerRow).where(WorkerRow.id == row["id"]).values(**changes, seen_at=now())
    if not connection.execute(beaten).rowcount:
        connection.execute(insert(WorkerRow).values(**row, started_at=now(), seen_at=now()))
        connection.execute(delete(WorkerRow).where(WorkerRow.seen_at < later(-FORGOTTEN_SECONDS)))


def forget(connection: Connection, worker_id: str) -> None:
    """Remove the row of a worker that stops in good order."""
    connection.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))


def alive(connection: Connection) -> Sequence[Any]:
    """Workers with a fresh heartbeat."""
    return connection.execute(select(*WorkerRow.__table__.columns).where(_IS_ALIVE)).all()


def page(connection: Connection) -> Sequence[Any]:
    """All known workers, the last seen first, with `alive` and `now` (the database's clock)."""
    columns = (*WorkerRow.__table__.columns, _IS_ALIVE.label("alive"), now().label("now"))
    return connection.execute(select(*columns).order_by(WorkerRow.seen_at.desc())).all()


def work(connection: Connection) -> dict[str, list[str]]:
    """What each worker's processes have in hand, by the worker's id: batches and training runs."""
    leased = select(BatchRow.owner, BatchRow.job_id, BatchRow.id).where(BatchRow.state == BatchState.LEASED)
    running = select(TrainingRunRow.owner, TrainingRunRow.id).where(TrainingRunRow.state == RunState.RUNNING)
    found: dict[str, list[str]] = {}
    for owner, job_id, batch_id in connection.execute(leased.order_by(BatchRow.id)):
        found.setdefault((owner or "").rpartition(":")[0], []).append(f"job {job_id}, batch {batch_id}")
    for owner, run_id in connection.execute(running.order_by(TrainingRunRow.id)):
        found.setdefault((owner or "").rpartition(":")[0], []).append(f"training run {run_id}")
    return found


def classifiers(connection: Connection) -> int:
    """How many engine processes are alive on the queue `classify`, and not broken."""
    return sum(
        row.concurrency for row in alive(connection) if "classify" in row.queues.split(",") and row.broken is None
    )
