"""Statements on listings: which there are, whose verdict is due, and the verdicts.

A listing's row is made with its first image, and is due. No counter says how many of its images are pending: the images
themselves are asked, through their index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import InstrumentedAttribute

from jobs.db.database import now
from jobs.db.queries.incremental import is_current
from jobs.db.tables import (
    CorrectionRow,
    ImageRow,
    JobRow,
    ListingRow,
    PredictionRow,
)
from jobs.records import Json
from jobs.states import ImageStatus, JobState

__all__ = [
    "Content",
    "Shared",
    "Verdict",
    "add",
    "any_due",
    "by_index",
    "cancel",
    "claim",
    "contents",
    "current",
    "current_jobs",
    "delete_some",
    "due_jobs",
    "due_of",
    "in_conflict",
    "paths",
    "set_due",
    "set_unfinished_due",
    "settle",
    "shared",
    "touched",
]

TOGETHER = 500  # values named in one statement
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


class Shared(NamedTuple):
    """An image whose content occurs in another listing of its job, too."""

    content_hash: bytes
    listing: str
    path: str


DUE = cast("ColumnElement[bool]", text("listings.due"))
"""Whether a verdict is due, as the index of those says it: SQLite would not use it for `due = 1`."""
_BY_LISTING = "INDEXED BY ix_images_listing"  # SQLite would take the primary key, and so all images of the job


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


def by_index(query: Select[*tuple[Any, ...]], name: str) -> Select[*tuple[Any, ...]]:
    """Name an index of listings for SQLite, which knows nothing of how rows are distributed."""
    return query.with_hint(ListingRow.__table__, f"INDEXED BY ix_listings_{name}", "sqlite")


def due_of(job_id: int | InstrumentedAttribute[int]) -> Select[Any]:
    """Select the names of a job's listings that are due, by the index of those: SQLite would take the primary key."""
    return by_index(select(ListingRow.name).where(ListingRow.job_id == job_id, DUE), "due")


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


def in_conflict(connection: Connection, job_id: int, *, limit: int) -> list[str] | None:
    """Return the names of listings in conflict; None of a job of a release that had no verdicts."""
    if connection.scalar(select(JobRow.listing_depth).where(JobRow.id == job_id)) is None:
        return None
    query = select(ListingRow.name).where(ListingRow.job_id == job_id, ListingRow.conflict.is_(True))
    return list(connection.scalars(by_index(query, "conflict").limit(limit)))


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
