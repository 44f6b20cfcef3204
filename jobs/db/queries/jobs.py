"""Statements on jobs: their rows, their states, their scan lease."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from jobs.db.database import later, now
from jobs.db.queries import listings, notifications, outcomes, schedules, totals
from jobs.db.tables import BatchRow, ImageRow, JobRow, ListedFileRow, NotificationRow, VersionRow
from jobs.records import JobStatus
from jobs.states import BatchState, ImageStatus, JobState

__all__ = [
    "Counts",
    "JobRecord",
    "LockedJob",
    "Work",
    "add",
    "by_key",
    "cancel",
    "claim_scan",
    "fail",
    "finish",
    "get",
    "lock",
    "page",
    "retry",
    "settling",
]

TERMINAL = tuple(state for state in JobState if state.terminal)
NOT_WAITING: Mapping[str, None] = {"waiting": None, "waiting_since": None}


class JobRecord(NamedTuple):
    """A job: its row, the name of its model version, and `now`, the database's clock."""

    id: int
    name: str
    key: str | None
    source: str
    state: JobState
    version_id: int
    top_k: int
    priority: int
    total: int
    ok: int
    failed: int
    canceled: int
    cached: int
    unchanged: int
    reclaimed: int
    engine_seconds: float
    skipped: int
    skipped_suffixes: Mapping[str, int]
    listing_depth: int | None
    manifest: str | None
    error: str | None
    waiting: str | None
    waiting_since: datetime | None
    incremental: bool
    base_id: int | None
    accept_shrink: bool
    trial: bool
    read_with: str | None
    scan_owner: str | None
    scan_attempt: int
    scan_expires_at: datetime | None
    scanned_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    schedule_id: int | None
    notify: str | None
    notified: str | None
    model_version: str
    now: datetime


class LockedJob(NamedTuple):
    """What a transaction needs of a job whose row it has locked."""

    state: JobState
    priority: int
    scanned_at: datetime | None
    version_id: int


class Work(NamedTuple):
    """What classifying needs of a job, and what never changes."""

    source: str
    version_id: int


class Settling(NamedTuple):
    """What verdicts need of a job: `ready` says whether all its files are known, or it has ended; `scanned` the
    first.
    """

    version_id: int
    ready: bool
    scanned: bool


class Counts(NamedTuple):
    """What one transaction adds to a job's counters."""

    ok: int = 0
    failed: int = 0
    cached: int = 0
    engine_seconds: float = 0.0


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a queued job with these columns and return its id."""
    row = {**values, "state": JobState.QUEUED, "created_at": now()}
    return connection.execute(insert(JobRow).values(row).returning(JobRow.id)).scalar_one()


def by_key(connection: Connection, key: str) -> int | None:
    """Return the id of the job with this key."""
    return connection.scalar(select(JobRow.id).where(JobRow.key == key))


def work(connection: Connection, job_id: int) -> Work | None:
    """Return what classifying needs of a job."""
    row = connection.execute(select(JobRow.source, JobRow.version_id).where(JobRow.id == job_id)).one_or_none()
    return Work(*row) if row else None


def settling(connection: Connection, job_id: int) -> Settling | None:
    """Return what verdicts need of a job."""
    columns = select(JobRow.version_id, JobRow.scanned_at, JobRow.finished_at).where(JobRow.id == job_id)
    row = connection.execute(columns).one_or_none()
    if row is None:
        return None
    return Settling(row.version_id, bool(row.scanned_at or row.finished_at), row.scanned_at is not None)


def get(connection: Connection, job_id: int) -> JobRecord | None:
    """Return the job of this id."""
    row = connection.execute(_with_version().where(JobRow.id == job_id)).one_or_none()
    return JobRecord(**row._asdict()) if row else None


def page(connection: Connection, *, before: int | None, state: str | None, limit: int) -> list[JobRecord]:
    """List jobs, newest first, below the id `before`."""
    query = _with_version().order_by(JobRow.id.desc()).limit(limit)
    if before is not None:
        query = query.where(JobRow.id < before)
    if state is not None:
        query = query.where(JobRow.state == state)
    return [JobRecord(**row._asdict()) for row in connection.execute(query)]


def _with_version() -> Select[*tuple[Any, ...]]:
    columns = (
        *JobRow.__table__.columns,
        _notified().label("notified"),
        VersionRow.name.label("model_version"),
        now().label("now"),
    )
    return select(*columns).join(VersionRow, VersionRow.id == JobRow.version_id)


def _notified() -> ScalarSelect[str]:
    """How far it is that the job's URL is told of its newest ending; null while it has not ended."""
    mine = and_(NotificationRow.job_id == JobRow.id, JobRow.finished_at.is_not(None))
    return select(NotificationRow.state).where(mine).order_by(NotificationRow.id.desc()).limit(1).scalar_subquery()


def lock(connection: Connection, job_id: int) -> LockedJob | None:
    """Lock the job's row until the end of the transaction."""
    columns = select(JobRow.state, JobRow.priority, JobRow.scanned_at, JobRow.version_id).where(JobRow.id == job_id)
    row = connection.execute(columns.with_for_update()).one_or_none()
    return LockedJob(JobState(row.state), *row[1:]) if row else None


def lock_running(connection: Connection, job_id: int) -> bool:
    """Return whether the job is running, and stays so until the end of the transaction: its row is locked."""
    running = select(JobRow.id).where(JobRow.id == job_id, JobRow.state == JobState.RUNNING)
    return connection.scalar(running.with_for_update()) is not None


def claim_scan(connection: Connection, job_id: int, *, owner: str, seconds: float) -> int | None:
    """Take the lease of the job's scan; returns the attempt number, or None where there is nothing to scan or another
    has it.
    """
    free = or_(JobRow.scan_expires_at.is_(None), JobRow.scan_expires_at < now())
    return connection.scalar(
        update(JobRow)
        .where(
            JobRow.id == job_id,
            JobRow.scanned_at.is_(None),
            JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]),
            free,
        )
        .values(
            scan_owner=owner,
            scan_attempt=JobRow.scan_attempt + 1,
            scan_expires_at=later(seconds),
            state=JobState.RUNNING,
            started_at=func.coalesce(JobRow.started_at, now()),
        )
        .returning(JobRow.scan_attempt)
    )


def renew_scan(connection: Connection, job_id: int, *, attempt: int, seconds: float) -> bool:
    """Push the scan's lease ahead; False when it was lost."""
    mine = and_(JobRow.id == job_id, JobRow.scan_attempt == attempt, JobRow.scan_owner.is_not(None))
    return bool(connection.execute(update(JobRow).where(mine).values(scan_expires_at=later(seconds))).rowcount)


def release_scan(connection: Connection, job_id: int, *, attempt: int, done: bool) -> bool:
    """End a slice of a scan; `done` when the source has come to its end: what a manifest lists is then deleted. False
    when another has taken it over.
    """
    values = {"scan_owner": None, "scan_expires_at": None, **({"scanned_at": now()} if done else {})}
    mine = and_(JobRow.id == job_id, JobRow.scan_attempt == attempt)
    if not connection.execute(update(JobRow).where(mine).values(values)).rowcount:
        return False
    if done:
        has_manifest = select(JobRow.id).where(JobRow.id == job_id, JobRow.manifest.is_not(None))
        connection.execute(delete(ListedFileRow).where(ListedFileRow.job_id.in_(has_manifest)))
    return True


def waiting_scans(connection: Connection, *, patience: float) -> list[int]:
    """Return the jobs whose scan no process has leased: not begun for `patience` seconds, between slices, or of a
    crashed worker.
    """
    return list(
        connection.scalars(
            select(JobRow.id)
            .where(
                JobRow.finished_at.is_(None),
                JobRow.scanned_at.is_(None),
                JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]),
                or_(JobRow.scan_expires_at.is_(None), JobRow.scan_expires_at < now()),
                JobRow.created_at < later(-patience),
            )
            .order_by(JobRow.priority.desc(), JobRow.id)
            .limit(20)
        )
    )


def scanning_owners(connection: Connection, prefix: str) -> list[str]:
    return list(
        connection.scalars(select(JobRow.scan_owner).where(JobRow.scan_owner.startswith(prefix, autoescape=True)))
    )


def drop_scan_owner(connection: Connection, owner: str) -> None:
    """Free the scans of a process that has crashed."""
    connection.execute(update(JobRow).where(JobRow.scan_owner == owner).values(scan_owner=None, scan_expires_at=None))


def count_up(connection: Connection, job_id: int, counts: Counts) -> bool:
    """Add to a running job's counters; False when the job is not running any more."""
    result = connection.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.RUNNING)
        .values(
            ok=JobRow.ok + counts.ok,
            failed=JobRow.failed + counts.failed,
            cached=JobRow.cached + counts.cached,
            engine_seconds=JobRow.engine_seconds + counts.engine_seconds,
            **NOT_WAITING,
        )
    )
    return bool(result.rowcount)


def finish(connection: Connection, job_id: int) -> bool:
    """Give a job whose images are all accounted for, and of which no verdict is due, its final state; False when it is
    not there yet.
    """
    pending = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled
    due = listings.due_of(JobRow.id).exists()
    result = connection.execute(
        update(JobRow)
        .where(
            JobRow.id == job_id, JobRow.state == JobState.RUNNING, JobRow.scanned_at.is_not(None), pending == 0, ~due
        )
        .values(
            state=case(
                (JobRow.failed > 0, JobState.COMPLETED_WITH_ERRORS.value),
                else_=JobState.COMPLETED.value,
            ),
            finished_at=now(),
            **NOT_WAITING,
        )
    )
    return bool(result.rowcount) and _ended(connection, job_id)


def _ended(connection: Connection, job_id: int) -> bool:
    """Whatever has ended the job: write down, in the same transaction, that its URL is to be told."""
    row = get(connection, job_id)
    if row is not None and row.notify is not None:
        notifications.add(connection, job_id, url=row.notify, status=JobStatus.from_row(row))
    return True


def finishable(connection: Connection) -> list[int]:
    """Running jobs with nothing left to do but to give verdicts."""
    pending = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled
    return list(
        connection.scalars(
            select(JobRow.id).where(
                JobRow.finished_at.is_(None),
                JobRow.state == JobState.RUNNING,
                JobRow.scanned_at.is_not(None),
                pending == 0,
            )
        )
    )


def wait_for(connection: Connection, job_id: int, reason: str) -> float:
    """Say why nothing of a running job can be done at present; for how many seconds that has been so.

    While another worker has a batch of it, it does not wait.
    """
    leased = select(BatchRow.id).where(BatchRow.job_id == job_id, BatchRow.state == BatchState.LEASED).exists()
    running = and_(JobRow.id == job_id, JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]), ~leased)
    since = connection.execute(
        update(JobRow)
        .where(running)
        .values(waiting=reason.replace("\0", ""), waiting_since=func.coalesce(JobRow.waiting_since, now()))
        .returning(JobRow.waiting_since)
    ).scalar_one_or_none()
    if since is None:
        return 0.0
    moment: datetime = connection.execute(select(now())).scalar_one()
    return max(0.0, (moment - since).total_seconds())


def given_up(connection: Connection, *, seconds: float) -> list[tuple[int, str]]:
    """(job id, reason) of jobs that have waited longer than this."""
    waited = and_(JobRow.finished_at.is_(None), JobRow.waiting_since < later(-seconds))
    return [(a, b or "") for a, b in connection.execute(select(JobRow.id, JobRow.waiting).where(waited))]


def fail(connection: Connection, job_id: int, error: str) -> bool:
    """End a job that cannot be done as a whole: pending images become canceled. False when it has ended already."""
    return _stop(connection, job_id, state=JobState.FAILED, error=error)


def cancel(connection: Connection, job_id: int) -> bool:
    """Stop a job: pending images become canceled, leases are void. False when it has ended already."""
    return _stop(connection, job_id, state=JobState.CANCELED, error=None)


def _stop(connection: Connection, job_id: int, *, state: JobState, error: str | None) -> bool:
    row = lock(connection, job_id)
    if row is None or JobState(row.state).terminal:
        return False
    connection.execute(
        update(BatchRow)
        .where(BatchRow.job_id == job_id, BatchRow.state != BatchState.DONE)
        .values(state=BatchState.DONE, expires_at=None)
    )
    pending = (ImageRow.job_id == job_id) & (ImageRow.status == ImageStatus.PENDING)
    stopped = connection.execute(
        update(ImageRow).where(pending).values(status=ImageStatus.CANCELED, finished_at=now())
    ).rowcount
    values = {
        "state": state,
        "error": error,
        "finished_at": now(),
        "canceled": JobRow.canceled + stopped,
        **NOT_WAITING,
    }
    connection.execute(
        update(JobRow).where(JobRow.id == job_id).values(**values, scan_owner=None, scan_expires_at=None)
    )
    listings.cancel(connection, job_id)
    return _ended(connection, job_id)


def retry(connection: Connection, job_id: int, *, batch_size: int) -> int | None:
    """Continue an ended job with whatever is not `ok`: failed and canceled images become pending again, in new batches,
    and a listing that was not finished continues. Return how many images, or None if the job has not ended.
    """
    row = lock(connection, job_id)
    if row is None or not JobState(row.state).terminal:
        return None
    not_ok = (ImageRow.job_id == job_id) & ImageRow.status.in_([ImageStatus.FAILED, ImageStatus.CANCELED])
    ordinals = list(connection.scalars(select(ImageRow.ordinal).where(not_ok).order_by(ImageRow.ordinal)))
    if not ordinals and row.scanned_at is not None:
        return 0
    cleared = {
        "status": ImageStatus.PENDING,
        "crashes": 0,
        "error_code": None,
        "error_message": None,
        "finished_at": None,
    }
    listings.set_unfinished_due(connection, job_id)
    connection.execute(update(ImageRow).where(not_ok).values(cleared))
    outcomes.delete_failures(connection, job_id)
    batches = [
        {"job_id": job_id, "first": part[0], "last": part[-1], "state": BatchState.WAITING, "priority": row.priority}
        for part in (ordinals[at : at + batch_size] for at in range(0, len(ordinals), batch_size))
    ]
    if batches:
        connection.execute(insert(BatchRow), batches)
    reopened = {"state": JobState.RUNNING, "failed": 0, "canceled": 0, "finished_at": None, "error": None}
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(**reopened, **NOT_WAITING))
    return len(ordinals)


def ended_before(connection: Connection, moment: datetime, *, after: int, limit: int) -> list[int]:
    """Jobs that ended earlier, in the order of their ids, past the id `after`; none is a current run of a schedule."""
    query = select(JobRow.id).where(JobRow.id > after, is_old(moment))
    return list(connection.scalars(query.order_by(JobRow.id).limit(limit)))


def count_ended_before(connection: Connection, moment: datetime) -> int:
    return connection.execute(select(func.count()).where(is_old(moment))).scalar_one()


def is_old(moment: datetime) -> ColumnElement[bool]:
    """Whether a job ended earlier and is not the current run of a schedule: what `prune` deletes."""
    return and_(JobRow.finished_at < moment, JobRow.id.not_in(schedules.current_runs()))


def lock_ended(connection: Connection, job_id: int) -> bool:
    """Return whether the job is there and has ended, and stays so until the end of the transaction: its row is
    locked.
    """
    row = lock(connection, job_id)
    return row is not None and JobState(row.state).terminal


def delete_images(connection: Connection, job_id: int, *, after: int, limit: int) -> int | None:
    """Delete the next `limit` images of an ended job, past the ordinal `after`, and take them off its counters.

    Returns the last ordinal that is gone, None when no image is left. The caller holds the job's lock. `after` spares
    PostgreSQL a walk over the rows that earlier calls have deleted.
    """
    rest = (ImageRow.job_id == job_id) & (ImageRow.ordinal > after)
    some = select(ImageRow.ordinal).where(rest).order_by(ImageRow.ordinal).limit(limit).subquery()
    last: int | None = connection.scalar(select(func.max(some.c.ordinal)))
    if last is None:
        return None
    chosen = rest & (ImageRow.ordinal <= last)
    counts = select(ImageRow.status, func.count().label("images")).where(chosen).group_by(ImageRow.status)
    gone = {row.status: row.images for row in connection.execute(counts)}
    outcomes.delete_range(connection, job_id, first=after + 1, last=last)
    connection.execute(delete(ImageRow).where(chosen))
    ok = JobRow.ok - gone.get(ImageStatus.OK, 0)
    values: dict[str, Any] = {
        "total": JobRow.total - sum(gone.values()),
        "ok": ok,
        "failed": JobRow.failed - gone.get(ImageStatus.FAILED, 0),
        "canceled": JobRow.canceled - gone.get(ImageStatus.CANCELED, 0),
        **{column.key: case((column > ok, ok), else_=column) for column in (JobRow.cached, JobRow.unchanged)},
    }
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(values))
    return last


def delete_row(connection: Connection, job_id: int) -> None:
    """Delete a job that has no images any more, with its batches, for good. The caller holds its lock."""
    if connection.dialect.name == "postgresql":  # what went before may not have waited for the disk; this does for all
        connection.exec_driver_sql("SET LOCAL synchronous_commit TO DEFAULT")
    totals.delete_all(connection, job_id)
    connection.execute(delete(BatchRow).where(BatchRow.job_id == job_id))
    connection.execute(delete(NotificationRow).where(NotificationRow.job_id == job_id))
    connection.execute(delete(JobRow).where(JobRow.id == job_id))
