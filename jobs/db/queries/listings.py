"""Statements on listings: which there are, whose verdict is due, and the verdicts.

A listing's row is made with its first image, and is due. No counter says how many of its images are pending: the images
themselves are asked, through their index.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, Literal, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute

from jobs.db.database import now
from jobs.db.queries.incremental import is_current
from jobs.db.tables import (
    NEEDS_REVIEW,
    CorrectionRow,
    ImageRow,
    JobRow,
    ListingRow,
    PredictionRow,
    VersionRow,
)
from jobs.records import Json
from jobs.states import ImageStatus, JobState

__all__ = [
    "Content",
    "Filter",
    "ListingRecord",
    "Place",
    "Shared",
    "Verdict",
    "add",
    "any_due",
    "cancel",
    "claim",
    "contents",
    "current",
    "current_jobs",
    "delete_some",
    "due_jobs",
    "due_of",
    "get",
    "page",
    "paths",
    "set_due",
    "set_unfinished_due",
    "settle",
    "shared",
    "touched",
]

TOGETHER = 500  # values named in one statement
FEW = 5000  # rows that are sorted rather than met in their order
_OPEN = (JobState.QUEUED, JobState.RUNNING)
_OWN_END = (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS)


class Content(NamedTuple):
    """An image of a listing with what its job's version and a person say of it."""

    listing: str
    ordinal: int
    status: str
    content_hash: bytes | None
    decision: str | None
    probabilities: bytes | None
    correction: str | None
    corrected_at: datetime | None


class Place(NamedTuple):
    """Where a page has ended: after which listing, in the order of the filter."""

    job_id: int
    conflict: bool
    confidence: float
    name: str


class Verdict(NamedTuple):
    """What is to be written of one listing; the fields are the table's columns."""

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
    source: Literal["model", "human"]
    top: list[Json]


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


class Shared(NamedTuple):
    """An image whose content occurs in another listing of its job, too."""

    content_hash: bytes
    listing: str
    path: str


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

    def named(self) -> tuple[str, ColumnElement[bool]] | None:
        """Return the index that has the wanted names together, and the condition."""
        if self.label is not None:
            return "label", _one_of(ListingRow.label, self.label)
        return None if self.make is None else ("make", _one_of(ListingRow.make, self.make))

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


DUE = cast("ColumnElement[bool]", text("listings.due"))
"""Whether a verdict is due, as the index of those says it: SQLite would not use it for `due = 1`."""
_REVIEW = cast("ColumnElement[bool]", text(f"({NEEDS_REVIEW.replace('source', 'listings.source')})"))
_BY_LISTING = "INDEXED BY ix_images_listing"  # SQLite would take the primary key, and so all images of the job
_VERDICT = tuple(getattr(ListingRow, name) for name in ListingRecord._fields[1:-1])
_COLUMNS = (ListingRow.job_id, *_VERDICT, VersionRow.name.label("model_version"))


def add(connection: Connection, job_id: int, names: Collection[str]) -> None:
    """Make the rows of listings that have none yet; their verdicts are due."""
    if not names:
        return
    ordered = sorted(names)
    if connection.dialect.name == "sqlite":
        sql = "INSERT OR IGNORE INTO listings (job_id, name) VALUES (?, ?)"
        connection.exec_driver_sql(sql, [(job_id, name) for name in ordered])
        return
    sql = (
        "INSERT INTO listings (job_id, name) SELECT %s, new.name FROM unnest(%b::text[]) AS new(name) "
        "ON CONFLICT DO NOTHING"
    )
    connection.exec_driver_sql(sql, (job_id, ordered))


def touched(connection: Connection, job_id: int, *, first: int, last: int) -> list[str]:
    """Return the listings of the images from the ordinal `first` to `last`."""
    some = and_(ImageRow.job_id == job_id, ImageRow.ordinal.between(first, last), ImageRow.listing.is_not(None))
    return [name for name in connection.scalars(select(ImageRow.listing).where(some).distinct()) if name is not None]


def any_due(connection: Connection, job_id: int) -> bool:
    """Return whether a verdict of this job is due."""
    return connection.scalar(due_of(job_id).limit(1)) is not None


def due_of(job_id: int | InstrumentedAttribute[int]) -> Select[Any]:
    """Select the names of a job's listings that are due, by the index of those: SQLite would take the primary key."""
    return _by_index(select(ListingRow.name).where(ListingRow.job_id == job_id, DUE), "due")


def _by_index(query: Select[*tuple[Any, ...]], name: str) -> Select[*tuple[Any, ...]]:
    """Name the index for SQLite, which knows nothing of how rows are distributed."""
    return query.with_hint(ListingRow.__table__, f"INDEXED BY ix_listings_{name}", "sqlite")


def due_jobs(connection: Connection) -> list[int]:
    """Return the jobs with verdicts that can be given: all is listed and accounted for, or they have ended.

    A walk along the index of what is due, from each job to the next.
    """
    walk = select(func.min(ListingRow.job_id).label("id")).where(DUE).cte("walk", recursive=True)
    following = select(func.min(ListingRow.job_id)).where(DUE, ListingRow.job_id > walk.c.id)
    walk = walk.union_all(select(following.correlate(walk).scalar_subquery()).where(walk.c.id.is_not(None)))
    settled = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled == 0
    ready = or_(JobRow.finished_at.is_not(None), and_(JobRow.scanned_at.is_not(None), settled))
    return list(connection.scalars(select(JobRow.id).join(walk, walk.c.id == JobRow.id).where(ready)))


def claim(connection: Connection, job_id: int, *, names: Sequence[str] | None = None, limit: int) -> list[str]:
    """Lock listings that are due and have no pending image, and return them; those that others have locked are passed
    over.

    No correction is written until the end of the transaction: one that is committed by then is seen, a later one makes
    them due again.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE corrections IN ROW EXCLUSIVE MODE"))
    pending = _last_pending(connection)
    due = due_of(job_id).where(pending.is_(None))
    if names is not None:
        due = due.where(ListingRow.name.in_(names))
    return list(connection.scalars(due.limit(limit).with_for_update(skip_locked=True)))


def _last_pending(connection: Connection) -> ScalarSelect[int]:
    """Select a pending image of a listing, from the end: that is where most of those are that are left.

    By the index of listings: left alone, both databases would go through all images of the job.
    """
    name: ColumnElement[str] = ListingRow.name.expression
    if connection.dialect.name == "postgresql":
        name = name.collate("default")  # as the index of images is; it has no use for another
    return (
        select(ImageRow.ordinal)
        .with_hint(ImageRow.__table__, _BY_LISTING, "sqlite")
        .where(
            ImageRow.listing == name,
            ImageRow.job_id == ListingRow.job_id,
            ImageRow.status == ImageStatus.PENDING,
        )
        .order_by(ImageRow.ordinal.desc())
        .limit(1)
        .correlate(ListingRow)
        .scalar_subquery()
    )


def contents(connection: Connection, job_id: int, version_id: int, names: Sequence[str]) -> Iterator[Content]:
    """Yield the images of these listings, by listing and ordinal."""
    predicted = and_(
        ImageRow.status == ImageStatus.OK,
        PredictionRow.version_id == version_id,
        PredictionRow.content_hash == ImageRow.content_hash,
    )
    query = (
        select(
            *(ImageRow.listing, ImageRow.ordinal, ImageRow.status, ImageRow.content_hash),
            *(PredictionRow.decision, PredictionRow.probabilities, CorrectionRow.label, CorrectionRow.created_at),
        )
        .outerjoin(PredictionRow, predicted)
        .outerjoin(CorrectionRow, CorrectionRow.content_hash == ImageRow.content_hash)
        .with_hint(ImageRow.__table__, _BY_LISTING, "sqlite")
        .where(ImageRow.job_id == job_id, ImageRow.listing.in_(names))
        .order_by(ImageRow.listing, ImageRow.ordinal)
    )
    yield from map(Content._make, connection.execute(query, execution_options={"yield_per": TOGETHER}))


def paths(connection: Connection, job_id: int, ordinals: Collection[int]) -> Mapping[int, str]:
    """Return the paths of images by their ordinals."""
    found: dict[int, str] = {}
    listed = sorted(ordinals)
    for start in range(0, len(listed), TOGETHER):
        part = listed[start : start + TOGETHER]
        # The range, too: PostgreSQL reads all images of a job that it takes for small, being newer than its statistics.
        some = and_(ImageRow.job_id == job_id, ImageRow.ordinal.in_(part), ImageRow.ordinal.between(part[0], part[-1]))
        found |= {
            row.ordinal: row.path for row in connection.execute(select(ImageRow.ordinal, ImageRow.path).where(some))
        }
    return found


def settle(connection: Connection, job_id: int, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts, which are then not due any more. The caller has claimed the listings."""
    if not verdicts:
        return
    named = and_(ListingRow.job_id == job_id, ListingRow.name == bindparam("of"))
    values: dict[str, Any] = {field: bindparam(f"new_{field}") for field in Verdict._fields if field != "name"}
    statement = update(ListingRow.__table__).where(named).values(**values, due=False, updated_at=now())  # type: ignore[arg-type]
    rows = [
        {"of": one.name, **{f"new_{field}": value for field, value in one._asdict().items() if field != "name"}}
        for one in verdicts
    ]
    connection.execute(statement, rows)


def cancel(connection: Connection, job_id: int) -> None:
    """Note that the listings without a verdict will never be complete; what they have is decided. The caller has
    stopped the job.
    """
    due = and_(ListingRow.job_id == job_id, DUE)
    connection.execute(update(ListingRow).where(due).values(complete=False))


def set_unfinished_due(connection: Connection, job_id: int) -> None:
    """Make the listings of failed and canceled images due. The caller makes these pending."""
    not_ok = ImageRow.status.in_([ImageStatus.FAILED, ImageStatus.CANCELED])
    names = select(ImageRow.listing).where(ImageRow.job_id == job_id, not_ok, ImageRow.listing.is_not(None))
    connection.execute(
        update(ListingRow).where(ListingRow.job_id == job_id, ListingRow.name.in_(names)).values(due=True)
    )


def set_due(connection: Connection, hashes: Collection[bytes], *, of_jobs: Collection[int]) -> int:
    """Make the listings due that hold one of these contents, in these jobs, in current runs, and in jobs that have
    not ended; return how many. Their images are read through: no index has the contents.
    """
    wanted = or_(JobRow.id.in_(list(of_jobs)), JobRow.id.in_(current_jobs()), JobRow.state.in_(_OPEN))
    ids = list(connection.scalars(select(JobRow.id).where(wanted, JobRow.listing_depth.is_not(None))))
    ordered, changed = sorted(set(hashes)), 0
    for start in range(0, len(ordered), TOGETHER):
        holding = select(ImageRow.job_id, ImageRow.listing).where(
            ImageRow.job_id.in_(ids),
            ImageRow.listing.is_not(None),
            ImageRow.content_hash.in_(ordered[start : start + TOGETHER]),
        )
        found = tuple_(ListingRow.job_id, ListingRow.name).in_(holding)
        changed += connection.execute(update(ListingRow).where(found).values(due=True)).rowcount
    return changed


def current_jobs() -> Select[int]:
    """Select the current run of each source: the newest that came to its own end, be it with failed images, and is not
    a trial.
    """
    return select(func.max(JobRow.id)).where(is_current()).group_by(JobRow.source)


def current(connection: Connection) -> list[int]:
    """Return the current run of each source; see `current_jobs`."""
    return [job_id for job_id in connection.scalars(current_jobs()) if job_id is not None]


def page(
    connection: Connection, job_ids: Sequence[int], wanted: Filter, *, after: Place | None, limit: int
) -> list[ListingRecord]:
    """List the next listings of these jobs with a verdict, in the order of the filter: of equal doubt by job and
    name.
    """
    query = _with_version().where(*wanted.conditions())
    if wanted.since is not None:
        job_ids = _with_verdicts_since(connection, job_ids, wanted.since)
    index = wanted.index
    if index is None:
        return _in_turn(connection, job_ids, query, since=wanted.since, after=after, limit=limit)
    named = wanted.named() if wanted.by_doubt and len(job_ids) <= TOGETHER else None
    few = named is not None and _are_few(connection, job_ids, *named)
    query = _by_index(query, named[0] if named is not None and few else index)
    by_name: list[ColumnElement[Any]] = [ListingRow.job_id.expression, ListingRow.name.expression]
    if not wanted.by_doubt:
        if after is not None:
            job_ids = [job_id for job_id in job_ids if job_id >= after.job_id]
            query = query.where(or_(ListingRow.job_id > after.job_id, ListingRow.name > after.name))
        return _first(connection, job_ids, query, order=by_name, limit=limit)
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
            part = _by_index(part, "updated_at")
        rows += _records(connection, part.order_by(ListingRow.job_id, ListingRow.name).limit(limit - len(rows)))
    return rows


def _are_few(connection: Connection, job_ids: Sequence[int], index: str, condition: ColumnElement[bool]) -> bool:
    """Return whether few listings of these jobs fulfil the condition that the index finds, looking at no more of
    them.
    """
    some = select(ListingRow.job_id).where(ListingRow.job_id.in_(job_ids), condition).limit(FEW + 1)
    found = select(func.count()).select_from(_by_index(some, index).subquery())
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


def shared(connection: Connection, job_id: int) -> Iterator[Shared]:
    """Yield the images whose content occurs in several listings of the job, by content, listing and place."""
    mine = and_(ImageRow.job_id == job_id, ImageRow.listing.is_not(None), ImageRow.content_hash.is_not(None))
    several = (
        select(ImageRow.content_hash)
        .where(mine)
        .group_by(ImageRow.content_hash)
        .having(func.min(ImageRow.listing) != func.max(ImageRow.listing))
    )
    query = (
        select(ImageRow.content_hash, ImageRow.listing, ImageRow.path)
        .where(mine, ImageRow.content_hash.in_(several))
        .order_by(ImageRow.content_hash, ImageRow.listing, ImageRow.ordinal)
    )
    yield from map(Shared._make, connection.execute(query, execution_options={"yield_per": TOGETHER}))


def delete_some(connection: Connection, job_id: int, *, limit: int) -> int:
    """Delete up to `limit` listings of an ended job; return how many. The caller holds the job's lock."""
    some = select(ListingRow.name).where(ListingRow.job_id == job_id).limit(limit)
    gone = delete(ListingRow).where(ListingRow.job_id == job_id, ListingRow.name.in_(some))
    return connection.execute(gone).rowcount
