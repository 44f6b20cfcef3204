"""Statements on runs that read only what changed: the run to compare with, and its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, select, update

from jobs.db.tables import ImageRow, JobRow
from jobs.states import ImageErrorCode, ImageFailure, ImageStatus, JobState

__all__ = [
    "Base",
    "BaseImage",
    "base",
    "columns",
    "current_run",
    "first_from",
    "is_current",
    "last",
    "note_reader",
    "page",
]

ENDED_WELL = (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS)


class Base(NamedTuple):
    """The run that another one is compared with. `read_with`: the release and limits of the workers that read it."""

    total: int
    read_with: str | None


class BaseImage(NamedTuple):
    """An image of a base that has a stamp, and what became of it: a content hash, an error, or both."""

    ordinal: int
    path: str
    stamp: str
    content_hash: bytes | None
    error: ImageFailure | None


def is_current() -> ColumnElement[bool]:
    """Return the condition of a job that counts for its source, if no newer one does: it ended well and not on
    trial.
    """
    return and_(JobRow.state.in_(ENDED_WELL), JobRow.trial.is_(False))


def current_run(connection: Connection, source: str, *, manifest: str | None = None) -> int | None:
    """Return the current run of a canonical source with this manifest: the newest that ended well and is not a
    trial.
    """
    mine = select(JobRow.id).where(
        JobRow.source == source, JobRow.manifest.is_not_distinct_from(manifest), is_current()
    )
    return connection.scalar(mine.order_by(JobRow.id.desc()).limit(1))


def columns(
    connection: Connection, source: str, *, manifest: str | None = None, accept_shrink: bool = False
) -> Mapping[str, Any]:
    """Return the columns by which a new job over this source reads only what changed since its current run."""
    base_id = current_run(connection, source, manifest=manifest)
    return {"incremental": True, "accept_shrink": accept_shrink, "base_id": base_id}


def base(connection: Connection, job_id: int) -> Base | None:
    """Return the base of this id; None if it was deleted."""
    row = connection.execute(select(JobRow.total, JobRow.read_with).where(JobRow.id == job_id)).one_or_none()
    return Base(*row) if row else None


def last(connection: Connection, job_id: int) -> int:
    """Return the last ordinal of a job's images; -1 where it has none."""
    found = connection.scalar(select(func.max(ImageRow.ordinal)).where(ImageRow.job_id == job_id))
    return -1 if found is None else found


def first_from(connection: Connection, job_id: int, ordinal: int) -> tuple[int, str] | None:
    """Return (ordinal, path) of a job's first image from an ordinal on.

    Folders that could not be listed are passed over: their rows alone may come after those of what they hold.
    """
    rest = (ImageRow.job_id == job_id) & (ImageRow.ordinal >= ordinal) & ImageRow.path.not_like("%/")
    query = select(ImageRow.ordinal, ImageRow.path).where(rest).order_by(ImageRow.ordinal).limit(1)
    row = connection.execute(query).one_or_none()
    return (row.ordinal, row.path) if row else None


def page(connection: Connection, job_id: int, *, after: int, limit: int) -> list[BaseImage]:
    """List a job's next images after an ordinal that have a stamp and were classified or failed."""
    selected = select(
        *(ImageRow.ordinal, ImageRow.path, ImageRow.stamp, ImageRow.content_hash),
        *(ImageRow.error_code, ImageRow.error_message),
    )
    rest = (ImageRow.job_id == job_id) & (ImageRow.ordinal > after) & ImageRow.stamp.is_not(None)
    done = ImageRow.status.in_([ImageStatus.OK, ImageStatus.FAILED])
    rows = connection.execute(selected.where(rest, done).order_by(ImageRow.ordinal).limit(limit))
    return [
        BaseImage(
            ordinal,
            path,
            stamp or "",
            content_hash,
            ImageFailure(ImageErrorCode(code), message or "") if code else None,
        )
        for ordinal, path, stamp, content_hash, code, message in rows
    ]


def note_reader(connection: Connection, job_id: int, reader: str) -> None:
    """Write down with what release and limits a job is read; nothing is known of one that several ones have read."""
    same = case((JobRow.total == 0, reader), (JobRow.read_with == reader, reader), else_=None)
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(read_with=same))
