"""Statements for monitoring: none of them reads a row per image or per batch that is done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, or_, select

from jobs.db.database import now
from jobs.db.queries.totals import NO_CLASS
from jobs.db.tables import BatchRow, JobRow, NotificationRow, ScheduleRow, TotalRow, TrainingRunRow
from jobs.states import BatchState, NotificationState, RunState

__all__ = [
    "Backlog",
    "JobTotals",
    "Progress",
    "RunningRun",
    "backlog",
    "failures",
    "in_flight",
    "job_totals",
    "overdue_leases",
    "overdue_schedule",
    "pending_notifications",
    "progress",
    "running_runs",
    "runs_by_state",
]


class JobTotals(NamedTuple):
    """The jobs of one state, and the sums of their counters."""

    state: str
    jobs: int
    total: int
    ok: int
    failed: int
    canceled: int
    cached: int


class Backlog(NamedTuple):
    """What open jobs still have to do: pending images, and when the oldest of these jobs was submitted."""

    images: int
    oldest: datetime | None
    now: datetime


class Progress(NamedTuple):
    """What a job has counted: images that are classified, seconds of inference, leases that were reclaimed."""

    job_id: int
    ok: int
    failed: int
    engine_seconds: float
    reclaimed: int
    created_at: datetime


class RunningRun(NamedTuple):
    """A training run that a worker has."""

    id: int
    recipe: str
    progress: Mapping[str, Any]


def job_totals(connection: Connection) -> list[JobTotals]:
    """List the states that jobs are in, with the sums of their counters."""
    counters = (JobRow.total, JobRow.ok, JobRow.failed, JobRow.canceled, JobRow.cached)
    sums = (func.coalesce(func.sum(counter), 0) for counter in counters)
    rows = connection.execute(select(JobRow.state, func.count(), *sums).group_by(JobRow.state))
    return [JobTotals(state, *map(int, numbers)) for state, *numbers in rows]


def failures(connection: Connection) -> dict[str, int]:
    """Count the failed images of each error code, from totals."""
    query = select(TotalRow.outcome, func.sum(TotalRow.images)).where(TotalRow.class_id == NO_CLASS)
    return {code: int(images) for code, images in connection.execute(query.group_by(TotalRow.outcome))}


def backlog(connection: Connection) -> Backlog:
    """Return what open jobs still have to do; one whose source is not listed yet counts as old, with what is known."""
    pending = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled
    waits = or_(pending > 0, JobRow.scanned_at.is_(None))
    images, oldest = connection.execute(
        select(func.coalesce(func.sum(pending), 0), func.min(JobRow.created_at)).where(
            JobRow.finished_at.is_(None), waits
        )
    ).one()
    return Backlog(int(images), oldest, connection.execute(select(now())).scalar_one())


def progress(connection: Connection, *, since: datetime) -> list[Progress]:
    """List the jobs that are open or have ended since."""
    columns = (JobRow.id, JobRow.ok, JobRow.failed, JobRow.engine_seconds, JobRow.reclaimed, JobRow.created_at)
    query = select(*columns).where(or_(JobRow.finished_at.is_(None), JobRow.finished_at >= since))
    return list(map(Progress._make, connection.execute(query)))


def in_flight(connection: Connection) -> dict[str, int]:
    """Count the batches that are in a window: sent, or leased by a worker."""
    states = (BatchState.SENT, BatchState.LEASED)
    query = select(BatchRow.state, func.count()).where(BatchRow.state.in_(states)).group_by(BatchRow.state)
    found = {state: int(batches) for state, batches in connection.execute(query)}
    return {state.value: found.get(state, 0) for state in states}


def overdue_leases(connection: Connection) -> int:
    """Count the leases of batches that have expired and that no worker has reclaimed."""
    overdue = (BatchRow.state == BatchState.LEASED) & (BatchRow.expires_at < now())
    return int(connection.execute(select(func.count()).select_from(BatchRow).where(overdue)).scalar_one())


def runs_by_state(connection: Connection) -> dict[str, int]:
    """Count the training runs of each state."""
    query = select(TrainingRunRow.state, func.count()).group_by(TrainingRunRow.state)
    found = {state: int(runs) for state, runs in connection.execute(query)}
    return {state.value: found.get(state, 0) for state in RunState}


def running_runs(connection: Connection) -> list[RunningRun]:
    """List the training runs that workers have."""
    columns = (TrainingRunRow.id, TrainingRunRow.recipe, TrainingRunRow.progress)
    running = select(*columns).where(TrainingRunRow.finished_at.is_(None), TrainingRunRow.state == RunState.RUNNING)
    return list(map(RunningRun._make, connection.execute(running)))


def overdue_schedule(connection: Connection) -> float:
    """Return for how many seconds the most overdue schedule that is not paused has been due; 0 where none is."""
    columns = select(func.min(ScheduleRow.next_at), now()).where(ScheduleRow.paused.is_(False))
    due, moment = connection.execute(columns).one()
    return max(0.0, (moment - due).total_seconds()) if due is not None else 0.0


def pending_notifications(connection: Connection) -> int:
    """Count the notifications of jobs' ends that are to be delivered."""
    pending = (
        select(func.count()).select_from(NotificationRow).where(NotificationRow.state == NotificationState.PENDING)
    )
    return int(connection.execute(pending).scalar_one())
