"""Statements on results: images joined with their predictions, filtered, paged by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select, tuple_

from jobs.status import ImageStatus
from jobs.tables import ImageRow, JobRow, PredictionRow, VersionRow

__all__ = ["Filter", "errors", "page"]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What to look for; None does not narrow."""

    job_id: int | None = None
    label: str | None = None
    make: str | None = None
    model: str | None = None
    body: str | None = None
    year: int | None = None
    decision: str | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    listing: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    version: str | None = None
    status: str | None = None

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        columns = {
            "label": PredictionRow.label,
            "make": PredictionRow.make,
            "model": PredictionRow.model,
            "body": PredictionRow.body,
            "year": PredictionRow.year,
            "decision": PredictionRow.decision,
            "listing": ImageRow.listing,
            "version": VersionRow.name,
            "status": ImageRow.status,
            "job_id": ImageRow.job_id,
        }
        yield from (
            column == getattr(self, name) for name, column in columns.items() if getattr(self, name) is not None
        )
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


def page(connection: Connection, wanted: Filter, *, after: tuple[int, int] | None, limit: int) -> Sequence[Any]:
    """The next rows after the key (job id, ordinal), in the order of that key."""
    query = _joined().where(*wanted.conditions()).order_by(ImageRow.job_id, ImageRow.ordinal).limit(limit)
    if after is not None:
        if wanted.job_id is None:
            query = query.where(tuple_(ImageRow.job_id, ImageRow.ordinal) > after)
        else:
            query = query.where(ImageRow.ordinal > after[1])
    return connection.execute(query).all()


def _joined() -> Any:
    predicted = and_(
        ImageRow.status == ImageStatus.OK,
        PredictionRow.version_id == JobRow.version_id,
        PredictionRow.content_hash == ImageRow.content_hash,
    )
    columns = (
        *(ImageRow.job_id, ImageRow.ordinal, ImageRow.path, ImageRow.listing, ImageRow.status),
        *(ImageRow.content_hash, ImageRow.error_code, ImageRow.error_message),
        *(PredictionRow.label, PredictionRow.make, PredictionRow.model, PredictionRow.body, PredictionRow.year),
        *(PredictionRow.confidence, PredictionRow.decision, PredictionRow.probabilities),
        *(JobRow.top_k, JobRow.version_id, VersionRow.name.label("model_version")),
    )
    query: Any = (
        select(*columns)
        .join(JobRow, JobRow.id == ImageRow.job_id)
        .join(VersionRow, VersionRow.id == JobRow.version_id)
        .outerjoin(PredictionRow, predicted)
    )
    return query


def errors(connection: Connection, job_id: int, *, after: int, limit: int) -> Sequence[Any]:
    """The job's next failed images after an ordinal: `ordinal`, `path`, `error_code`, `error_message`."""
    columns = (ImageRow.ordinal, ImageRow.path, ImageRow.error_code, ImageRow.error_message)
    failed = (ImageRow.job_id == job_id) & (ImageRow.status == ImageStatus.FAILED) & (ImageRow.ordinal > after)
    query = select(*columns).where(failed).order_by(ImageRow.ordinal).limit(limit)
    return connection.execute(query).all()
