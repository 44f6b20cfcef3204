"""Statements on batches: the window, leases, and what happens when one is lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, update

from jobs.backoff import pause
from jobs.db.database import later, now
from jobs.db.queries import jobs, outcomes
from jobs.db.tables import BatchRow, ImageRow, JobRow
from jobs.states import BatchState, ImageErrorCode, ImageStatus, JobState

__all__ = [
    "Claim",
    "Leased",
    "add",
    "claim",
    "close",
    "dispatch",
    "narrow",
    "reclaim",
    "release",
    "renew",
    "set_loading",
]

IN_FLIGHT = (BatchState.SENT, BatchState.LEASED)
MAX_CRASHES = 3  # an image whose process crashes for the third time is given up
MAX_FAILURES = 3  # an image on which alone the engine fails for the third time is given up


class Claim(NamedTuple):
    """A leased batch. `attempt` is the fencing token: results commit only while it is the newest."""

    id: int
    job_id: int
    first: int
    last: int
    attempt: int


class Leased(NamedTuple):
    """A batch that a process works on."""

    id: int
    job_id: int
    owner: str


def add(connection: Connection, job_id: int, ordinals: Sequence[int], *, size: int, priority: int) -> None:
    """Cut the ordinals of pending images, which are sorted, into waiting batches of `size` images."""
    parts = (ordinals[at : at + size] for at in range(0, len(ordinals), size))
    common = {"job_id": job_id, "state": BatchState.WAITING, "priority": priority}
    if rows := [{**common, "first": part[0], "last": part[-1]} for part in parts]:
        connection.execute(insert(BatchRow), rows)


def dispatch(connection: Connection, job_id: int, *, window: int) -> list[int]:
    """Move waiting batches into the window of a running job; returns the ids to send messages for after the
    commit.

    The caller holds the job's lock, so that no other process fills the window meanwhile.
    """
    of_job = BatchRow.job_id == job_id
    in_flight = select(func.count()).where(of_job, BatchRow.state.in_(IN_FLIGHT)).scalar_subquery()
    next_ones = (
        select(BatchRow.id)
        .where(of_job, BatchRow.state == BatchState.WAITING)
        .order_by(BatchRow.id)
        .limit(case((in_flight < window, window - in_flight), else_=0))
    )
    moved = update(BatchRow).where(BatchRow.id.in_(next_ones)).values(state=BatchState.SENT, sent_at=now())
    return sorted(connection.scalars(moved.returning(BatchRow.id)))


def claim(connection: Connection, *, owner: str, seconds: float, except_jobs: Collection[int] = ()) -> Claim | None:
    """Lease the batch that is next in turn: by priority, then by the time it entered its window. None when there is
    none.

    A message says that there is work, not which: so a lost or repeated message changes nothing but the moment.
    `except_jobs`: jobs that this worker cannot work on at present; others may.
    """
    due = [BatchRow.state == BatchState.SENT, BatchRow.sent_at <= now()]
    if except_jobs:
        due.append(BatchRow.job_id.not_in(except_jobs))
    chosen = (
        select(BatchRow.id)
        .where(*due)
        .order_by(BatchRow.priority.desc(), BatchRow.sent_at, BatchRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = connection.execute(
        update(BatchRow)
        .where(BatchRow.id == chosen.scalar_subquery(), BatchRow.state == BatchState.SENT)
        .values(state=BatchState.LEASED, owner=owner, attempt=BatchRow.attempt + 1, expires_at=later(seconds))
        .returning(BatchRow.id, BatchRow.job_id, BatchRow.first, BatchRow.last, BatchRow.attempt)
    ).one_or_none()
    return Claim(*row) if row else None


def _is_current(claim: Claim) -> ColumnElement[bool]:
    return and_(BatchRow.id == claim.id, BatchRow.attempt == claim.attempt, BatchRow.state == BatchState.LEASED)


def renew(connection: Connection, claim: Claim, *, seconds: float) -> bool:
    """Push the lease ahead; False when it was lost."""
    return bool(
        connection.execute(update(BatchRow).where(_is_current(claim)).values(expires_at=later(seconds))).rowcount
    )


def close(connection: Connection, claim: Claim) -> bool:
    """Mark the batch done; False when the lease was lost, and then nothing of it may be committed."""
    done = {"state": BatchState.DONE, "expires_at": None}
    return bool(connection.execute(update(BatchRow).where(_is_current(claim)).values(done)).rowcount)


def release(connection: Connection, claim: Claim, *, waiting: str | None = None) -> bool:
    """Release a batch; no attempt is counted. False when the lease was lost.

    The batch stays in the window without a message: a worker with nothing to do finds it. `waiting`: why nothing of the
    job could be done.
    """
    jobs.lock(connection, claim.job_id)
    again = {"state": BatchState.SENT, "owner": None, "expires_at": None, "sent_at": now(), "loading": False}
    if not connection.execute(update(BatchRow).where(_is_current(claim)).values(again)).rowcount:
        return False
    if waiting is not None:
        jobs.wait_for(connection, claim.job_id, waiting)
    return True


def set_loading(connection: Connection, claim: Claim, loading: bool) -> None:
    """Write whether the batch's worker is loading the model version and has not read an image yet."""
    connection.execute(update(BatchRow).where(_is_current(claim)).values(loading=loading))


def narrow(connection: Connection, claim: Claim, *, error: str) -> bool:
    """Replace a batch on which a sound engine has failed by its halves; False when the lease was lost.

    A batch of one image is tried again, and at the third failure the image fails with `error`.
    """
    job = jobs.lock(connection, claim.job_id)
    if job is None or not close(connection, claim):
        return False
    pending = _pending_of(claim.job_id, claim.first, claim.last)
    ordinals = list(connection.scalars(select(ImageRow.ordinal).where(pending).order_by(ImageRow.ordinal)))
    failures = connection.scalar(select(BatchRow.failures).where(BatchRow.id == claim.id)) or 0
    if len(ordinals) == 1 and failures + 1 >= MAX_FAILURES:
        _fail(connection, claim.job_id, job, pending, code=ImageErrorCode.ENGINE_ERROR, message=error)
        return True
    middle = (len(ordinals) + 1) // 2
    parts = [part for part in (ordinals[:middle], ordinals[middle:]) if part]
    common = {
        "job_id": claim.job_id,
        "state": BatchState.WAITING,
        "priority": job.priority,
        "failures": failures + 1 if len(ordinals) == 1 else 0,
    }
    if parts:
        connection.execute(insert(BatchRow), [{**common, "first": part[0], "last": part[-1]} for part in parts])
    return True


def _pending_of(job_id: int, first: int, last: int) -> ColumnElement[bool]:
    of_batch = ImageRow.ordinal.between(first, last)
    return and_(ImageRow.job_id == job_id, of_batch, ImageRow.status == ImageStatus.PENDING)


def _fail(
    connection: Connection,
    job_id: int,
    job: jobs.LockedJob,
    which: ColumnElement[bool],
    *,
    code: ImageErrorCode,
    message: str,
) -> int:
    """Fail pending images of a running job, count them, and return how many; the caller has locked the job."""
    moment: datetime = connection.execute(select(now())).scalar_one()
    values = {
        "status": ImageStatus.FAILED,
        "error_code": code,
        "error_message": message.replace("\0", ""),
        "finished_at": moment,
    }
    failed = connection.scalars(update(ImageRow).where(which).values(values).returning(ImageRow.ordinal)).all()
    outcomes.add_failures(connection, job_id, failed, version_id=job.version_id, code=code, moment=moment)
    jobs.count_up(connection, job_id, jobs.Counts(failed=len(failed)))
    return len(failed)


def expired(connection: Connection) -> list[tuple[int, int]]:
    """List (batch id, job id) of expired leases."""
    out = and_(BatchRow.state == BatchState.LEASED, BatchRow.expires_at < now())
    return [
        (a, b)
        for a, b in connection.execute(select(BatchRow.id, BatchRow.job_id).where(out).order_by(BatchRow.id).limit(100))
    ]


def leased_by(connection: Connection, prefix: str) -> list[Leased]:
    """List the leases whose owner's name begins with `prefix`."""
    leased = and_(BatchRow.state == BatchState.LEASED, BatchRow.owner.startswith(prefix, autoescape=True))
    rows = connection.execute(select(BatchRow.id, BatchRow.job_id, BatchRow.owner).where(leased))
    return [Leased(batch_id, job_id, owner) for batch_id, job_id, owner in rows if owner is not None]


def sent_for(connection: Connection, *, patience: float, limit: int) -> int:
    """Return how many batches (at most `limit`) have been in a window for `patience` seconds without being claimed."""
    overdue = (
        select(BatchRow.id).where(BatchRow.state == BatchState.SENT, BatchRow.sent_at < later(-patience)).limit(limit)
    )
    return connection.scalar(select(func.count()).select_from(overdue.subquery())) or 0


def stalled(connection: Connection) -> list[int]:
    """Running jobs with waiting batches and none in flight: a crash came between two steps."""
    waiting = select(BatchRow.id).where(BatchRow.job_id == JobRow.id, BatchRow.state == BatchState.WAITING).exists()
    flying = select(BatchRow.id).where(BatchRow.job_id == JobRow.id, BatchRow.state.in_(IN_FLIGHT)).exists()
    return list(
        connection.scalars(
            select(JobRow.id).where(JobRow.finished_at.is_(None), JobRow.state == JobState.RUNNING, waiting, ~flying)
        )
    )


def reclaim(connection: Connection, batch_id: int, *, job_id: int, owner: str | None = None) -> int:
    """Requeue a lost batch as batches of one image; images whose process crashed for the third time fail. Return how
    many failed.

    With `owner`, a process that has crashed, the batch is reclaimed at once, otherwise only if its lease has expired.
    Where the process crashed while it loaded the model version, no image was read: the batch is requeued whole, later.
    """
    job = jobs.lock(connection, job_id)
    gone = BatchRow.owner == owner if owner is not None else BatchRow.expires_at < now()
    batch = connection.execute(
        update(BatchRow)
        .where(BatchRow.id == batch_id, BatchRow.state == BatchState.LEASED, gone)
        .values(state=BatchState.DONE, expires_at=None)
        .returning(BatchRow.first, BatchRow.last, BatchRow.priority, BatchRow.loading)
    ).one_or_none()
    if batch is None or job is None or job.state != JobState.RUNNING:
        return 0
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(reclaimed=JobRow.reclaimed + 1))
    if batch.loading:
        _put_off(connection, batch_id, job_id)
        return 0
    pending = _pending_of(job_id, batch.first, batch.last)
    connection.execute(update(ImageRow).where(pending).values(crashes=ImageRow.crashes + 1))
    crashed = _fail(
        connection,
        job_id,
        job,
        and_(pending, ImageRow.crashes >= MAX_CRASHES),
        code=ImageErrorCode.WORKER_CRASHED,
        message=f"the process that worked on this image crashed {MAX_CRASHES} times",
    )
    rest = list(connection.scalars(select(ImageRow.ordinal).where(pending).order_by(ImageRow.ordinal)))
    if rest:
        single = {"job_id": job_id, "state": BatchState.WAITING, "priority": batch.priority}
        connection.execute(insert(BatchRow), [{**single, "first": at, "last": at} for at in rest])
    return crashed


def _put_off(connection: Connection, batch_id: int, job_id: int) -> None:
    """Keep this batch, and those of its job that are in the window, from being claimed for a while."""
    waited = jobs.wait_for(connection, job_id, "a worker's process crashed while it loaded the model version")
    window = and_(BatchRow.job_id == job_id, BatchRow.state == BatchState.SENT)
    again = {"state": BatchState.SENT, "owner": None, "loading": False}
    connection.execute(
        update(BatchRow).where(or_(BatchRow.id == batch_id, window)).values(**again, sent_at=later(pause(waited)))
    )
