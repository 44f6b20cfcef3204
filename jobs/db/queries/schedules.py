"""Statements on schedules and their ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Select,
    and_,
    delete,
    func,
    insert,
    select,
    union,
    update,
)
from sqlalchemy.orm import aliased

from jobs.db.database import later, now
from jobs.db.tables import FireRow, JobRow, ScheduleRow
from jobs.states import FireOutcome, JobState

__all__ = [
    "Fire",
    "LedgerRow",
    "ScheduleRecord",
    "add",
    "by_name",
    "clock",
    "current_runs",
    "due",
    "ledger",
    "listing",
    "lock",
    "lock_due",
    "not_completed",
    "overdue",
    "record",
    "remove",
    "running_job",
    "surplus",
    "update_row",
]

SUCCEEDED = (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS)
AT_A_TIME = 50  # schedules that one tick fires; the next one continues


class ScheduleRecord(NamedTuple):
    """A schedule: its row, and its newest row of the ledger."""

    id: int
    name: str
    source: str
    cron: str | None
    timezone: str | None
    every: float | None
    anchor: datetime
    model: str | None
    top_k: int
    priority: int
    listing_depth: int
    manifest: str | None
    keep: int | None
    notify: str | None
    paused: bool
    next_at: datetime | None
    created_at: datetime
    last_at: datetime | None
    last_outcome: FireOutcome | None
    last_reason: str | None
    last_job: int | None


class Fire(NamedTuple):
    """A row of the ledger to write; the fields are the table's columns."""

    due_at: datetime
    outcome: FireOutcome
    reason: str | None = None
    job_id: int | None = None


class LedgerRow(NamedTuple):
    """A row of the ledger, and the state of its job."""

    due_at: datetime
    outcome: FireOutcome
    reason: str | None
    job_id: int | None
    job_state: JobState | None


def clock(connection: Connection) -> datetime:
    """Return the time by the database's clock."""
    return connection.execute(select(now())).scalar_one()


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a schedule with these columns and return its id."""
    row = {**values, "created_at": now()}
    return connection.execute(insert(ScheduleRow).values(row).returning(ScheduleRow.id)).scalar_one()


def update_row(connection: Connection, schedule_id: int, values: Mapping[str, Any]) -> None:
    """Change columns of a schedule, whose lock the caller holds."""
    connection.execute(update(ScheduleRow).where(ScheduleRow.id == schedule_id).values(**values))


def by_name(connection: Connection, name: str) -> ScheduleRecord | None:
    """Return the schedule of this name."""
    row = connection.execute(_with_last().where(ScheduleRow.name == name)).one_or_none()
    return ScheduleRecord(**row._asdict()) if row else None


def listing(connection: Connection) -> list[ScheduleRecord]:
    """List all schedules by name."""
    return [ScheduleRecord(**row._asdict()) for row in connection.execute(_with_last().order_by(ScheduleRow.name))]


def _with_last() -> Select[*tuple[Any, ...]]:
    each = aliased(FireRow)
    newest = select(func.max(each.due_at)).where(each.schedule_id == ScheduleRow.id).scalar_subquery()
    last = and_(FireRow.schedule_id == ScheduleRow.id, FireRow.due_at == newest)
    return select(
        *ScheduleRow.__table__.columns,
        FireRow.due_at.label("last_at"),
        FireRow.outcome.label("last_outcome"),
        FireRow.reason.label("last_reason"),
        FireRow.job_id.label("last_job"),
    ).outerjoin(FireRow, last)


def lock(connection: Connection, name: str) -> ScheduleRecord | None:
    """Lock the schedule of this name until the end of the transaction, and return it."""
    connection.execute(select(ScheduleRow.id).where(ScheduleRow.name == name).with_for_update())
    return by_name(connection, name)


def due(connection: Connection) -> list[int]:
    """List the schedules that have a due time which is not in the ledger, the longest overdue first."""
    query = select(ScheduleRow.id).where(_is_due()).order_by(ScheduleRow.next_at).limit(AT_A_TIME)
    return list(connection.scalars(query))


def _is_due() -> ColumnElement[bool]:
    return and_(ScheduleRow.paused.is_(False), ScheduleRow.next_at <= now())


def lock_due(connection: Connection, schedule_id: int) -> ScheduleRecord | None:
    """Lock a schedule until the end of the transaction if it is due; None when another process fires it, or has."""
    mine = select(ScheduleRow.name).where(ScheduleRow.id == schedule_id, _is_due())
    name = connection.scalar(mine.with_for_update(skip_locked=True))
    return None if name is None else by_name(connection, name)


def record(connection: Connection, schedule_id: int, fires: Sequence[Fire]) -> None:
    """Write rows of the ledger. A due time that has one already is an IntegrityError."""
    if fires:
        connection.execute(insert(FireRow), [{"schedule_id": schedule_id, **fire._asdict()} for fire in fires])


def ledger(connection: Connection, schedule_id: int, *, limit: int) -> list[LedgerRow]:
    """List the newest rows of the ledger, newest first."""
    columns = (FireRow.due_at, FireRow.outcome, FireRow.reason, FireRow.job_id, JobRow.state.label("job_state"))
    query = select(*columns).outerjoin(JobRow, JobRow.id == FireRow.job_id).where(FireRow.schedule_id == schedule_id)
    rows = connection.execute(query.order_by(FireRow.due_at.desc()).limit(limit))
    return [LedgerRow(**row._asdict()) for row in rows]


def running_job(connection: Connection, schedule_id: int) -> int | None:
    """Return the oldest job of the schedule that has not ended."""
    open_jobs = select(JobRow.id).where(JobRow.schedule_id == schedule_id, JobRow.finished_at.is_(None))
    return connection.scalar(open_jobs.order_by(JobRow.id).limit(1))


def remove(connection: Connection, schedule_id: int) -> None:
    """Delete a schedule, whose lock the caller holds, with its ledger; its jobs stay."""
    connection.execute(update(JobRow).where(JobRow.schedule_id == schedule_id).values(schedule_id=None))
    connection.execute(delete(FireRow).where(FireRow.schedule_id == schedule_id))
    connection.execute(delete(ScheduleRow).where(ScheduleRow.id == schedule_id))


def surplus(connection: Connection, schedule_id: int) -> list[int]:
    """List the ended runs of a schedule beyond the number that it keeps, oldest first.

    Those that it keeps are counted back from the newest that succeeded: of runs that all failed, none is too many.
    """
    keep = connection.scalar(select(ScheduleRow.keep).where(ScheduleRow.id == schedule_id))
    if keep is None:
        return []
    mine = JobRow.schedule_id == schedule_id
    newest = select(func.max(JobRow.id)).where(mine, JobRow.state.in_(SUCCEEDED)).scalar_subquery()
    ended = select(JobRow.id).where(mine, JobRow.finished_at.is_not(None), JobRow.id <= newest)
    return sorted(connection.scalars(ended.order_by(JobRow.id.desc()).offset(keep)))


def current_runs() -> CompoundSelect[*tuple[Any, ...]]:
    """Select the ids of the runs that say what the listings of schedules show now: of every schedule, and of every
    source that one has, the newest that succeeded.
    """
    run = aliased(JobRow)  # this is part of statements on jobs
    newest = select(func.max(run.id)).where(run.state.in_(SUCCEEDED), run.trial.is_(False))
    of_sources = newest.where(run.source.in_(select(ScheduleRow.source))).group_by(run.source)
    of_schedules = newest.where(run.schedule_id.is_not(None)).group_by(run.schedule_id)
    return union(of_sources, of_schedules)


def overdue(connection: Connection, *, seconds: float) -> list[tuple[str, datetime]]:
    """(name, due time) of schedules that no worker has fired for so long, the longest first."""
    late = and_(ScheduleRow.paused.is_(False), ScheduleRow.next_at < later(-seconds))
    rows = connection.execute(select(ScheduleRow.name, ScheduleRow.next_at).where(late).order_by(ScheduleRow.next_at))
    return [(name, next_at) for name, next_at in rows if next_at is not None]


def not_completed(connection: Connection, *, times: int) -> list[tuple[str, LedgerRow]]:
    """(name, newest row of the ledger) of the schedules whose last `times` due times came to nothing.

    A run that has not ended may still come to something, and one that was deleted did.
    """
    found = []
    for schedule in listing(connection):
        rows = [] if schedule.paused else ledger(connection, schedule.id, limit=times)
        if len(rows) == times and all(map(_came_to_nothing, rows)):
            found.append((schedule.name, rows[0]))
    return found


def _came_to_nothing(row: LedgerRow) -> bool:
    return row.outcome == FireOutcome.SKIPPED or row.job_state in (JobState.FAILED, JobState.CANCELED)
