"""Pages of listings with their verdicts: along an index, of many jobs as of one."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.db.queries.listings import by_index
from jobs.db.tables import NEEDS_REVIEW, JobRow, ListingRow, VersionRow
from jobs.records import Json

__all__ = ["Filter", "ListingRecord", "Place", "get", "page"]

TOGETHER = 500  # jobs named in one statement
FEW = 5000  # rows that are sorted rather than met in their order


class Place(NamedTuple):
    """Where a page has ended: after which listing, in the order of the filter."""

    job_id: int
    conflict: bool
    confidence: float
    name: str


class ListingRecord(NamedTuple):
    """A listing with its verdict, in the order of `_COLUMNS`."""

    job_id: int
    name: str
    complete: bool
    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    confidence: float
    decision: str
    agreement: float | None
    photos: int
    used: int
    failed: int
    conflict: bool
    photo: str | None
    source: str
    top: list[Json]
    updated_at: datetime
    model_version: str


def _one_of(column: Any, names: tuple[str, ...]) -> ColumnElement[bool]:
    """Compare with one name where there is one, so that an index gives its rows in order."""
    found: ColumnElement[bool] = column == names[0] if len(names) == 1 else column.in_(names)
    return found


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What to look for; None does not narrow. Of several spellings of a name any fits."""

    label: tuple[str, ...] | None = None
    make: tuple[str, ...] | None = None
    decision: str | None = None
    conflict: bool = False
    needs_review: bool = False
    min_confidence: float | None = None
    max_confidence: float | None = None
    since: datetime | None = None

    @property
    def by_doubt(self) -> bool:
        """Whether those in conflict come first, then the others by rising confidence, instead of all by name."""
        bounded = self.min_confidence is not None or self.max_confidence is not None
        named = self.label is not None or self.make is not None
        return self.needs_review or self.conflict or (bounded and not named)

    @property
    def index(self) -> str | None:
        """The index that has the rows in their order; None: the primary key."""
        if self.needs_review:
            return "review"
        if self.by_doubt:
            return "conflict"
        return next((name for name in ("label", "make", "decision") if getattr(self, name) is not None), None)

    def narrowest(self) -> tuple[str, ColumnElement[bool]] | None:
        """Return an index that finds what may be few rows, and the condition."""
        if self.label is not None:
            return "label", _one_of(ListingRow.label, self.label)
        if self.make is not None:
            return "make", _one_of(ListingRow.make, self.make)
        if self.decision is not None:
            return "decision", ListingRow.decision == self.decision
        return ("conflict", ListingRow.conflict.is_(True)) if self.conflict else None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield what a row must fulfil."""
        if self.label is not None:
            yield _one_of(ListingRow.label, self.label)
        if self.make is not None:
            yield _one_of(ListingRow.make, self.make)
        if self.decision is not None:
            yield ListingRow.decision == self.decision
        if self.conflict:
            yield ListingRow.conflict.is_(True)
        if self.needs_review:
            yield _REVIEW
        if self.min_confidence is not None:
            yield ListingRow.confidence >= self.min_confidence
        if self.max_confidence is not None:
            yield ListingRow.confidence <= self.max_confidence
        yield ListingRow.updated_at.is_not(None) if self.since is None else ListingRow.updated_at >= self.since


_REVIEW = cast("ColumnElement[bool]", text(f"({NEEDS_REVIEW.replace('source', 'listings.source')})"))
_VERDICT = tuple(getattr(ListingRow, name) for name in ListingRecord._fields[1:-1])
_COLUMNS = (ListingRow.job_id, *_VERDICT, VersionRow.name.label("model_version"))


def page(
    connection: Connection, job_ids: Sequence[int], wanted: Filter, *, after: Place | None, limit: int
) -> list[ListingRecord]:
    """List the next listings of these jobs with a verdict, in the order of the filter: of equal doubt by job and
    name.
    """
    query = _with_version().where(*wanted.conditions())
    if wanted.since is not None:
        job_ids = _with_verdicts_since(connection, job_ids, wanted.since)
    index, narrowest = wanted.index, wanted.narrowest()
    merged = len(job_ids) > 1 or wanted.by_doubt  # else the index has the order
    few = narrowest is not None and merged and len(job_ids) <= TOGETHER and _are_few(connection, job_ids, *narrowest)
    if narrowest is not None and few:
        query = by_index(query, narrowest[0])
    elif index is not None:
        query = by_index(query, index)
    by_name: list[ColumnElement[Any]] = [ListingRow.job_id.expression, ListingRow.name.expression]
    if not wanted.by_doubt and not few:
        since = wanted.since if index is None else None
        return _in_turn(connection, job_ids, query, since=since, after=after, limit=limit)
    if not wanted.by_doubt:
        if after is not None:
            job_ids = [job_id for job_id in job_ids if job_id >= after.job_id]
            query = query.where(or_(ListingRow.job_id > after.job_id, ListingRow.name > after.name))
        return _first(connection, job_ids, query, order=by_name, limit=limit, together=True)
    rows: list[ListingRecord] = []
    for conflict in (True, False):  # one after the other, so that the index has the order
        if (after is not None and conflict and not after.conflict) or (wanted.conflict and not conflict):
            continue
        part = query.where(ListingRow.conflict.is_(conflict))
        if after is not None and after.conflict == conflict:
            same_job = and_(ListingRow.job_id == after.job_id, ListingRow.name > after.name)
            later = or_(ListingRow.confidence > after.confidence, ListingRow.job_id > after.job_id, same_job)
            part = part.where(ListingRow.confidence >= after.confidence, later)
        if len(rows) < limit:
            order = [ListingRow.confidence.expression, *by_name]
            rows += _first(connection, job_ids, part, order=order, limit=limit - len(rows), together=few)
    return rows


def _with_verdicts_since(connection: Connection, job_ids: Sequence[int], since: datetime) -> list[int]:
    """Return those of the jobs that have a verdict from that time on, each by a look at the end of an index."""
    newest = select(func.max(ListingRow.updated_at)).where(ListingRow.job_id == JobRow.id).scalar_subquery()
    found: list[int] = []
    for start in range(0, len(job_ids), TOGETHER):
        some = JobRow.id.in_(job_ids[start : start + TOGETHER])
        found += connection.scalars(select(JobRow.id).where(some, newest >= since))
    return sorted(found)


def _in_turn(
    connection: Connection,
    job_ids: Sequence[int],
    query: Select[*tuple[Any, ...]],
    *,
    since: datetime | None,
    after: Place | None,
    limit: int,
) -> list[ListingRecord]:
    """List the next verdicts by job and name: of a job after the other, or of all together if few are from `since` on.

    Few are found by the index of times and sorted, many are met soon in the order of names.
    """

    def few(ids: Sequence[int]) -> bool:
        return since is not None and _are_few(connection, ids, "updated_at", ListingRow.updated_at >= since)

    together = len(job_ids) <= TOGETHER and few(job_ids)
    rows: list[ListingRecord] = []
    for some in [list(job_ids)] if together else [[job_id] for job_id in job_ids]:
        if len(rows) >= limit or (after is not None and some[-1:] < [after.job_id]):
            continue
        part = query.where(ListingRow.job_id.in_(some) if together else ListingRow.job_id == some[0])
        if after is not None and after.job_id in some:
            part = part.where(tuple_(ListingRow.job_id, ListingRow.name) > (after.job_id, after.name))
        if together or few(some):
            part = by_index(part, "updated_at")
        rows += _records(connection, part.order_by(ListingRow.job_id, ListingRow.name).limit(limit - len(rows)))
    return rows


def _are_few(connection: Connection, job_ids: Sequence[int], index: str, condition: ColumnElement[bool]) -> bool:
    """Return whether few listings of these jobs fulfil the condition that the index finds, looking at no more of
    them.
    """
    some = select(ListingRow.job_id).where(ListingRow.job_id.in_(job_ids), condition).limit(FEW + 1)
    found = select(func.count()).select_from(by_index(some, index).subquery())
    return (connection.scalar(found) or 0) <= FEW


def _first(
    connection: Connection,
    job_ids: Sequence[int],
    query: Select[*tuple[Any, ...]],
    *,
    order: Sequence[ColumnElement[Any]],
    limit: int,
    together: bool = False,
) -> list[ListingRecord]:
    """Merge the first rows of each job, along its part of an index; or sort those of all jobs, where they are few."""
    part, names = query.order_by(*order).limit(limit), [str(column.key) for column in order]
    if together:
        return _records(connection, part.where(ListingRow.job_id.in_(job_ids)))
    if len(job_ids) == 1:
        return _records(connection, part.where(ListingRow.job_id == job_ids[0]))
    if connection.dialect.name == "sqlite":
        part = part.where(ListingRow.job_id == bindparam("run"))
        few = {"yield_per": 1 + limit // max(1, len(job_ids))}
        found = [connection.execute(part, {"run": job_id}, execution_options=few) for job_id in job_ids]
        streams = [map(ListingRecord._make, result) for result in found]
        place = attrgetter(*names)
        rows = list(islice(heapq.merge(*streams, key=place), limit))
        for result in found:
            result.close()
        return rows
    runs = func.unnest(literal(list(job_ids), ARRAY(Integer))).table_valued("id", name="runs").render_derived()
    of_run = part.where(ListingRow.job_id == runs.c.id).lateral()
    merged = select(*of_run.c).select_from(runs).join(of_run, true())
    return _records(connection, merged.order_by(*(of_run.c[name] for name in names)).limit(limit))


def get(connection: Connection, job_id: int, name: str) -> ListingRecord | None:
    """Return a listing with a verdict."""
    found = _with_version().where(
        ListingRow.job_id == job_id, ListingRow.name == name, ListingRow.updated_at.is_not(None)
    )
    return next(iter(_records(connection, found)), None)


def _with_version() -> Select[*tuple[Any, ...]]:
    return (
        select(*_COLUMNS)
        .join(JobRow, JobRow.id == ListingRow.job_id)
        .join(VersionRow, VersionRow.id == JobRow.version_id)
    )


def _records(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[ListingRecord]:
    return list(map(ListingRecord._make, connection.execute(query)))
