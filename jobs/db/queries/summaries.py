"""Statements that sum up: from the totals that commits write, which grow with days and classes, not with images."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, literal, null, or_, select
from sqlalchemy.orm import aliased

from jobs.db.queries.totals import NO_CLASS
from jobs.db.queries.walks import Narrowed
from jobs.db.tables import ClassRow, ImageRow, JobRow, OutcomeRow, TotalRow, VersionRow
from jobs.states import Decision, ImageStatus, SummaryKey

__all__ = ["Group", "Tally", "count", "groups", "listings", "tallies", "unfinished"]


class Group(NamedTuple):
    """Finished images that have a value in common: how many, and the sum of the confidences of those `ok`."""

    value: str | int | date | None
    ok: int
    failed: int
    decided: int
    confidence: float


class Tally(NamedTuple):
    """How many images have this outcome (a decision or an error code) and make."""

    outcome: str
    make: str | None
    images: int


DECISIONS = tuple(decision.value for decision in Decision)
DECIDED = (Decision.MODEL.value, Decision.MAKE.value)


def groups(connection: Connection, job_id: int | None, *, by: SummaryKey | None, since: date | None) -> list[Group]:
    """Sum up a job's finished images, or all, by a key; the largest group first, days in their order.

    First by what the totals have, then these few sums by the key: SQLite would sort all totals with its columns.
    """
    parts = [TotalRow.outcome, *_parts(by)]
    sums = func.sum(TotalRow.images).label("images"), func.sum(TotalRow.confidence).label("confidence")
    some = select(*parts, *sums).where(*_those(job_id, since), *_fitting(by)).group_by(*parts).subquery()
    value = _value(by, some.c)
    of_value = [] if by is None else [value]
    failed, decided = some.c.outcome.not_in(DECISIONS), some.c.outcome.in_(DECIDED)
    counts = [
        func.coalesce(func.sum(case((condition, some.c.images), else_=0)), 0)
        for condition in (~failed, failed, decided)
    ]
    query = select(*(of_value or [null()]), *counts, func.coalesce(func.sum(some.c.confidence), 0.0))
    match by:
        case SummaryKey.MAKE | SummaryKey.MODEL | SummaryKey.BODY | SummaryKey.YEAR:
            query = query.outerjoin_from(some, ClassRow, ClassRow.id == some.c.class_id)
        case SummaryKey.VERSION:
            query = query.join_from(some, JobRow, JobRow.id == some.c.job_id)
            query = query.join(VersionRow, VersionRow.id == JobRow.version_id)
    query = query.group_by(*of_value)
    images = func.sum(some.c.images).desc()
    query = query.order_by(*([value] if by is SummaryKey.DAY else [images, *of_value]))
    return list(map(Group._make, connection.execute(query)))


def _parts(by: SummaryKey | None) -> list[Any]:
    """Return the columns of totals, beside the outcome, that tell the value of a key."""
    match by:
        case SummaryKey.DAY:
            return [TotalRow.day]
        case SummaryKey.VERSION:
            return [TotalRow.job_id]
        case SummaryKey.MAKE | SummaryKey.MODEL | SummaryKey.BODY | SummaryKey.YEAR:
            return [TotalRow.class_id]
        case _:
            return []


def _value(by: SummaryKey | None, totals: Any) -> Any:
    match by:
        case SummaryKey.DAY:
            return totals.day
        case SummaryKey.VERSION:
            return VersionRow.name
        case SummaryKey.DECISION | SummaryKey.CODE:
            return totals.outcome
        case None | SummaryKey.LISTING:
            return None
        case _:
            return getattr(ClassRow, by.value)


def _fitting(by: SummaryKey | None) -> list[ColumnElement[bool]]:
    """Return which totals have a value for a key: failures have no class, and only they have a code."""
    match by:
        case None | SummaryKey.DAY | SummaryKey.VERSION:
            return []
        case SummaryKey.CODE:
            return [TotalRow.class_id == NO_CLASS]
        case _:
            return [TotalRow.class_id != NO_CLASS]


def _those(job_id: int | None, since: date | None) -> list[ColumnElement[bool]]:
    those = [] if job_id is None else [TotalRow.job_id == job_id]
    return those if since is None else [*those, TotalRow.day >= since]


def listings(connection: Connection, job_id: int | None, *, since: date | None, limit: int) -> list[Group]:
    """Sum up the first listings, of a job in the order of its paths, else by name, each from its own images.

    In a transaction: PostgreSQL takes these few rows for many, and would start processes and a compiler for them.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL jit = off")
        connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")
    names = _first_of_job(connection, job_id, limit) if job_id is not None else _first_names(connection, limit)
    ok = OutcomeRow.error_code.is_(None)
    sums = [func.sum(case((each, 1), else_=0)) for each in (ok, ~ok, OutcomeRow.decision.in_(DECIDED))]
    same = and_(OutcomeRow.job_id == ImageRow.job_id, OutcomeRow.ordinal == ImageRow.ordinal)
    query = (
        select(ImageRow.listing, *sums, func.coalesce(func.sum(OutcomeRow.confidence), 0.0))
        .join(OutcomeRow, same)
        .where(ImageRow.listing.in_(names))
        .group_by(ImageRow.listing)
    )
    if job_id is not None:
        query = query.where(ImageRow.job_id == job_id)
    if since is not None:
        query = query.where(OutcomeRow.finished_at >= datetime.combine(since, time(), UTC))
    place = {name: at for at, name in enumerate(names)}
    return sorted((Group(*row) for row in connection.execute(query)), key=lambda group: place[str(group.value)])


def _first_names(connection: Connection, limit: int) -> list[str]:
    """Walk along the index of listings, from each to the next."""
    first = select(func.min(ImageRow.listing).label("name"), literal(1).label("step"))
    walk = first.where(ImageRow.listing.is_not(None)).cte("walk", recursive=True)  # as the index is
    following = (
        select(func.min(ImageRow.listing)).where(ImageRow.listing > walk.c.name).correlate(walk).scalar_subquery()
    )
    step = select(following, walk.c.step + 1).where(walk.c.name.is_not(None), walk.c.step < limit)
    walk = walk.union_all(step)
    return list(connection.scalars(select(walk.c.name).where(walk.c.name.is_not(None)).order_by(walk.c.step)))


def _first_of_job(connection: Connection, job_id: int, limit: int) -> list[str]:
    """Walk along the job's images, from one of each listing to the first of the next."""
    of_job = and_(ImageRow.job_id == job_id, ImageRow.listing.is_not(None))
    start = select(func.min(ImageRow.ordinal)).where(of_job).scalar_subquery()
    walk = (
        select(ImageRow.ordinal, ImageRow.listing, literal(1).label("step"))
        .where(ImageRow.job_id == job_id, ImageRow.ordinal == start)
        .cte("walk", recursive=True)
    )
    other = aliased(ImageRow)
    of_other = and_(other.job_id == job_id, other.listing.is_not(None), other.listing != walk.c.listing)
    following = select(func.min(other.ordinal)).where(of_other, other.ordinal > walk.c.ordinal).correlate(walk)
    step = (
        select(ImageRow.ordinal, ImageRow.listing, walk.c.step + 1)
        .join_from(walk, ImageRow, and_(ImageRow.job_id == job_id, ImageRow.ordinal == following.scalar_subquery()))
        .where(walk.c.step < limit)
    )
    walk = walk.union_all(step)
    return list(dict.fromkeys(connection.scalars(select(walk.c.listing).order_by(walk.c.step))))


def tallies(connection: Connection, job_id: int | None) -> list[Tally]:
    """Count a job's finished images, or all, by outcome and make."""
    columns = (TotalRow.outcome, ClassRow.make, func.sum(TotalRow.images))
    query = select(*columns).outerjoin(ClassRow, ClassRow.id == TotalRow.class_id).where(*_those(job_id, None))
    return [Tally(*row) for row in connection.execute(query.group_by(TotalRow.outcome, ClassRow.make))]


def count(connection: Connection, wanted: Narrowed) -> int | None:
    """Return how many outcomes fit; None where totals do not tell: of a listing, a confidence or a time."""
    if wanted.listing is not None or wanted.by_confidence or wanted.since is not None or wanted.until is not None:
        return None
    those = _those(wanted.job_id, None)
    if wanted.version_ids is not None:
        of_version = select(JobRow.id).where(JobRow.version_id.in_(wanted.version_ids))
        those.append(TotalRow.job_id.in_(of_version))
    if wanted.class_ids is not None:
        those.append(TotalRow.class_id.in_(wanted.class_ids))
    outcomes = TotalRow.outcome.in_(wanted.decisions)
    failed = TotalRow.class_id == NO_CLASS
    those.append(failed if not wanted.decisions else or_(outcomes, failed) if wanted.failures else outcomes)
    return int(connection.execute(select(func.coalesce(func.sum(TotalRow.images), 0)).where(*those)).scalar_one())


def unfinished(connection: Connection, job_id: int | None) -> dict[ImageStatus, int]:
    """Return how many images of a job, or of all, are pending and canceled."""
    pending = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled
    sums = (func.coalesce(func.sum(each), 0) for each in (pending, JobRow.canceled))
    query = select(*sums) if job_id is None else select(*sums).where(JobRow.id == job_id)
    row = connection.execute(query).one()
    return {ImageStatus.PENDING: int(row[0]), ImageStatus.CANCELED: int(row[1])}
