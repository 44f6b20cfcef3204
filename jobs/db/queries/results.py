"""Statements on results: images joined with their predictions and corrections, filtered, paged, sorted, counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, tuple_

from jobs.db.tables import CorrectionRow, ImageRow, JobRow, PredictionRow, VersionRow
from jobs.states import ImageStatus, ResultOrder

__all__ = ["Count", "FailedImage", "Filter", "ResultRecord", "counts", "errors", "in_order", "page", "stored_names"]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What to look for; None does not narrow. Of several spellings of a name any fits; `body` fits in any case."""

    job_id: int | None = None
    label: tuple[str, ...] | None = None
    make: tuple[str, ...] | None = None
    model: tuple[str, ...] | None = None
    body: str | None = None
    year: int | None = None
    decision: str | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    listing: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    version: tuple[str, ...] | None = None
    status: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield what a row must fulfil."""
        names = {
            "label": PredictionRow.label,
            "make": PredictionRow.make,
            "model": PredictionRow.model,
            "version": VersionRow.name,
        }
        yield from (column.in_(getattr(self, name)) for name, column in names.items() if getattr(self, name))
        columns = {
            "year": PredictionRow.year,
            "decision": PredictionRow.decision,
            "listing": ImageRow.listing,
            "status": ImageRow.status,
            "job_id": ImageRow.job_id,
        }
        yield from (
            column == getattr(self, name) for name, column in columns.items() if getattr(self, name) is not None
        )
        if self.body is not None:
            yield func.lower(PredictionRow.body) == self.body.lower()
        if self.min_confidence is not None:
            yield PredictionRow.confidence >= self.min_confidence
        if self.max_confidence is not None:
            yield PredictionRow.confidence <= self.max_confidence
        if self.since is not None:  # the job's end lets whole jobs be passed over
            yield and_(
                ImageRow.finished_at >= self.since, or_(JobRow.finished_at.is_(None), JobRow.finished_at >= self.since)
            )
        if self.until is not None:
            yield and_(ImageRow.finished_at < self.until, JobRow.created_at < self.until)


class ResultRecord(NamedTuple):
    """An image with its prediction and correction, in the order of `_COLUMNS`."""

    job_id: int
    ordinal: int
    path: str
    listing: str | None
    status: str
    content_hash: bytes | None
    error_code: str | None
    error_message: str | None
    finished_at: datetime | None
    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    confidence: float | None
    decision: str | None
    probabilities: bytes | None
    top_k: int
    version_id: int
    model_version: str
    correction: str | None


class FailedImage(NamedTuple):
    """A failed image of a job."""

    ordinal: int
    path: str
    error_code: str
    error_message: str | None


class Count(NamedTuple):
    """How many images have these values."""

    status: str
    decision: str | None
    make: str | None
    error_code: str | None
    images: int


_PREDICTED = and_(
    ImageRow.status == ImageStatus.OK,
    PredictionRow.version_id == JobRow.version_id,
    PredictionRow.content_hash == ImageRow.content_hash,
)
_COLUMNS = (
    *(ImageRow.job_id, ImageRow.ordinal, ImageRow.path, ImageRow.listing, ImageRow.status),
    *(ImageRow.content_hash, ImageRow.error_code, ImageRow.error_message, ImageRow.finished_at),
    *(PredictionRow.label, PredictionRow.make, PredictionRow.model, PredictionRow.body, PredictionRow.year),
    *(PredictionRow.confidence, PredictionRow.decision, PredictionRow.probabilities),
    *(JobRow.top_k, JobRow.version_id, VersionRow.name.label("model_version")),
    CorrectionRow.label.label("correction"),
)


def page(connection: Connection, wanted: Filter, *, after: tuple[int, int] | None, limit: int) -> list[ResultRecord]:
    """List the next rows after the key (job id, ordinal), in the order of that key."""
    query = _selected(wanted).order_by(ImageRow.job_id, ImageRow.ordinal).limit(limit)
    if after is not None:
        if wanted.job_id is None:
            query = query.where(tuple_(ImageRow.job_id, ImageRow.ordinal) > after)
        else:
            query = query.where(ImageRow.ordinal > after[1])
    return list(map(ResultRecord._make, connection.execute(query)))


def in_order(
    connection: Connection, wanted: Filter, *, order: ResultOrder | None, reverse: bool, limit: int | None, size: int
) -> Iterator[list[ResultRecord]]:
    """Yield all rows in an order, `size` at a time, as the moment of the statement saw them.

    A value that is sorted by may change while a job runs, so that pages by key would miss rows. Without an order the
    rows are sorted by job and path.
    """
    query = _selected(wanted).order_by(*_keys(connection, wanted, order=order, reverse=reverse)).limit(limit)
    for rows in connection.execution_options(yield_per=size).execute(query).partitions():
        yield list(map(ResultRecord._make, rows))


def _keys(
    connection: Connection, wanted: Filter, *, order: ResultOrder | None, reverse: bool
) -> Iterator[ColumnElement[Any]]:
    """Yield what to sort by; rows without the value come last either way, equal ones by job and path."""
    path: Any = ImageRow.path if connection.dialect.name == "sqlite" else ImageRow.path.collate("C")
    match order:
        case ResultOrder.CONFIDENCE:
            yield (PredictionRow.confidence.asc() if reverse else PredictionRow.confidence.desc()).nulls_last()
        case ResultOrder.TIME:
            yield (ImageRow.finished_at.asc() if reverse else ImageRow.finished_at.desc()).nulls_last()
        case ResultOrder.PATH if wanted.job_id is None:
            yield path.desc() if reverse else path.asc()
    backwards = reverse and order in (None, ResultOrder.PATH)
    yield ImageRow.job_id.desc() if backwards else ImageRow.job_id.asc()
    yield ImageRow.ordinal.desc() if backwards else ImageRow.ordinal.asc()


def _selected(wanted: Filter) -> Select[*tuple[Any, ...]]:
    corrected = CorrectionRow.content_hash == ImageRow.content_hash
    return _joined(select(*_COLUMNS)).outerjoin(CorrectionRow, corrected).where(*wanted.conditions())


def _joined(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Join the images with their jobs, versions and predictions."""
    return (
        query.select_from(ImageRow)
        .join(JobRow, JobRow.id == ImageRow.job_id)
        .join(VersionRow, VersionRow.id == JobRow.version_id)
        .outerjoin(PredictionRow, _PREDICTED)
    )


def counts(connection: Connection, wanted: Filter) -> list[Count]:
    """Count the images of each `status`, `decision`, `make` and `error_code`."""
    groups = (ImageRow.status, PredictionRow.decision, PredictionRow.make, ImageRow.error_code)
    query = _joined(select(*groups, func.count().label("images"))).where(*wanted.conditions()).group_by(*groups)
    return list(map(Count._make, connection.execute(query)))


def stored_names(connection: Connection, field: Literal["label", "make"]) -> list[str]:
    """Return every label or make that a stored prediction has: a walk along its index, from each to the next."""
    column = {"label": PredictionRow.label, "make": PredictionRow.make}[field]
    walk = select(func.min(column).label("name")).cte("walk", recursive=True)
    following = select(func.min(column)).where(column > walk.c.name).correlate(walk).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.name.is_not(None)))
    return list(connection.scalars(select(walk.c.name).where(walk.c.name.is_not(None))))


def errors(connection: Connection, job_id: int, *, after: int, limit: int) -> list[FailedImage]:
    """List the job's next failed images after an ordinal."""
    columns = (ImageRow.ordinal, ImageRow.path, ImageRow.error_code, ImageRow.error_message)
    failed = (ImageRow.job_id == job_id) & (ImageRow.status == ImageStatus.FAILED) & (ImageRow.ordinal > after)
    query = select(*columns).where(failed).order_by(ImageRow.ordinal).limit(limit)
    return list(map(FailedImage._make, connection.execute(query)))
