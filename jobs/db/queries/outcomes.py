"""Statements on outcomes: adding what became of images, and removing what is to be done again or deleted.

Every function that adds or removes outcomes changes the job's totals with them; the caller holds the job's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, null, or_, select

from jobs.db.queries import totals
from jobs.db.tables import ClassRow, ImageRow, JobRow, OutcomeRow, PredictionRow
from jobs.states import ImageErrorCode, ImageStatus

__all__ = ["New", "add", "add_failures", "delete_failures", "delete_range", "fill"]

_COLUMNS = "job_id, ordinal, version_id, class_id, confidence, finished_at, decision, error_code"


class New(NamedTuple):
    """What became of one image: a class with its confidence and decision, or an error."""

    ordinal: int
    class_id: int | None
    confidence: float | None
    decision: str | None
    error_code: str | None


def add(connection: Connection, job_id: int, rows: Sequence[New], *, version_id: int, moment: datetime) -> None:
    """Add what became of images that are settled at this `moment`."""
    if not rows:
        return
    at = moment.astimezone(UTC).replace(tzinfo=None)
    if connection.dialect.name == "sqlite":
        stamp = at.strftime("%Y-%m-%d %H:%M:%S.%f")
        values = [
            (job_id, r.ordinal, version_id, r.class_id, r.confidence, stamp, r.decision, r.error_code) for r in rows
        ]
        connection.exec_driver_sql(f"INSERT INTO outcomes ({_COLUMNS}) VALUES (?{', ?' * 7})", values)  # noqa: S608
    else:
        arrays = "%b::int[], %b::int[], %b::float8[], %b::text[], %b::text[]"
        sql = (
            f"INSERT INTO outcomes ({_COLUMNS}) "  # noqa: S608 - only names of our own
            "SELECT %s, new.ordinal, %s, new.class_id, new.confidence, %s, new.decision, new.code "
            f"FROM unnest({arrays}) AS new(ordinal, class_id, confidence, decision, code)"
        )
        columns = (list(column) for column in zip(*rows, strict=True))
        connection.exec_driver_sql(sql, (job_id, version_id, at, *columns))
    finished = (totals.Finished(r.decision or r.error_code or "", r.class_id, r.confidence) for r in rows)
    totals.add(connection, job_id, at.date(), finished)


def add_failures(
    connection: Connection,
    job_id: int,
    ordinals: Sequence[int],
    *,
    version_id: int,
    code: ImageErrorCode,
    moment: datetime,
) -> None:
    """Add that images have failed with this code."""
    rows = [New(ordinal, None, None, None, code.value) for ordinal in ordinals]
    add(connection, job_id, rows, version_id=version_id, moment=moment)


def delete_failures(connection: Connection, job_id: int) -> None:
    """Forget the failures of a job: its failed images are pending again."""
    failed = (OutcomeRow.job_id == job_id) & OutcomeRow.error_code.is_not(None)
    connection.execute(delete(OutcomeRow).where(failed))
    totals.delete_failures(connection, job_id)


def delete_range(connection: Connection, job_id: int, *, first: int, last: int) -> None:
    """Delete the outcomes of these ordinals, whose images are deleted."""
    totals.count_out(connection, job_id, first=first, last=last)
    connection.execute(delete(OutcomeRow).where(OutcomeRow.job_id == job_id, OutcomeRow.ordinal.between(first, last)))


def fill(connection: Connection, job_id: int, *, first: int, last: int) -> None:
    """Add the outcomes of images that were settled before there were outcomes."""
    ok = ImageRow.status == ImageStatus.OK
    predicted = and_(
        ok,
        PredictionRow.version_id == JobRow.version_id,
        PredictionRow.content_hash == ImageRow.content_hash,
    )
    same_class = and_(
        ClassRow.version_id == PredictionRow.version_id,
        ClassRow.label == PredictionRow.label,
        ClassRow.make == PredictionRow.make,
    )
    found = (
        select(
            *(ImageRow.job_id, ImageRow.ordinal, JobRow.version_id, ClassRow.id, PredictionRow.confidence),
            *(_naive(connection, func.coalesce(ImageRow.finished_at, JobRow.created_at)), PredictionRow.decision),
            case((ok, null()), else_=ImageRow.error_code),
        )
        .select_from(ImageRow)
        .join(JobRow, JobRow.id == ImageRow.job_id)
        .outerjoin(PredictionRow, predicted)
        .outerjoin(ClassRow, same_class)
        .where(
            ImageRow.job_id == job_id,
            ImageRow.ordinal.between(first, last),
            or_(and_(ok, PredictionRow.label.is_not(None)), ImageRow.status == ImageStatus.FAILED),
        )
    )
    connection.execute(insert(OutcomeRow).from_select(_COLUMNS.split(", "), found))
    totals.count_in(connection, job_id, first=first, last=last)


def _naive(connection: Connection, moment: ColumnElement[datetime]) -> ColumnElement[datetime]:
    """Return a moment as the column has it: UTC without a zone."""
    return moment if connection.dialect.name == "sqlite" else func.timezone("UTC", moment)
