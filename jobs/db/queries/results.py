"""Statements on results: images joined with their predictions and corrections, filtered, paged, sorted, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    Subquery,
    TableValuedAlias,
    Text,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import NullType

from jobs.db.queries import classes, summaries, walks
from jobs.db.queries.walks import Key, Narrowed, Order
from jobs.db.tables import BatchRow, ClassRow, CorrectionRow, ImageRow, JobRow, OutcomeRow, PredictionRow, VersionRow
from jobs.states import BatchState, Decision, ImageStatus, ResultOrder

__all__ = [
    "Columns",
    "Count",
    "FailedImage",
    "Filter",
    "ResultRecord",
    "columns",
    "counts",
    "errors",
    "in_order",
    "page",
    "records",
    "transposed",
    "unfinished_jobs",
]


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
        yield from self.of_class(PredictionRow)
        if self.version:
            yield VersionRow.name.in_(self.version)
        columns = {
            "decision": PredictionRow.decision,
            "listing": ImageRow.listing,
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

    def of_class(self, row: type[PredictionRow | ClassRow]) -> Iterator[ColumnElement[bool]]:
        """Yield what a prediction's, or a stored class's, parts must fulfil."""
        names = {"label": row.label, "make": row.make, "model": row.model}
        yield from (column.in_(getattr(self, name)) for name, column in names.items() if getattr(self, name))
        if self.year is not None:
            yield row.year == self.year
        if self.body is not None:
            yield func.lower(row.body) == self.body.lower()

    @property
    def unfinished(self) -> bool:
        """Whether only images fit that have no outcome."""
        return self.status in (ImageStatus.PENDING, ImageStatus.CANCELED)

    def narrowed(self, connection: Connection) -> Narrowed:
        """Return it in terms of outcomes."""
        of_class = list(self.of_class(ClassRow))
        versions: tuple[int, ...] | None = None
        if self.version:
            with_jobs = exists().where(JobRow.version_id == VersionRow.id)  # without jobs nothing is to be sought
            named = select(VersionRow.id).where(VersionRow.name.in_(self.version), with_jobs)
            versions = tuple(connection.scalars(named))
        class_ids: tuple[int, ...] | None = None
        if of_class:
            of_version = [ClassRow.version_id.in_(versions)] if versions is not None else []
            class_ids = tuple(classes.fitting(connection, *of_class, *of_version))
        failed = self.status == ImageStatus.FAILED
        sure = (self.decision, self.min_confidence, self.max_confidence)
        predicted = self.status == ImageStatus.OK or class_ids is not None or any(each is not None for each in sure)
        if failed and predicted:
            class_ids = ()
        return Narrowed(
            job_id=self.job_id,
            version_ids=versions,
            class_ids=class_ids,
            decisions=() if failed else (self.decision,) if self.decision else tuple(Decision),
            failures=not predicted,
            min_confidence=self.min_confidence,
            max_confidence=self.max_confidence,
            listing=self.listing,
            since=self.since,
            until=self.until,
        )


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


Columns = Mapping[str, Sequence[Any]]
"""The fields of `ResultRecord`, each with one value per image."""


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


def page(connection: Connection, wanted: Filter, *, after: Key | None, limit: int) -> list[Key]:
    """List the keys of the next images of a job, in the order of their paths."""
    assert wanted.job_id is not None
    narrowed = wanted.narrowed(connection)
    if (narrowed.few_classes or not narrowed.failures or not narrowed.decisions) and wanted.listing is None:
        return walks.keys(connection, narrowed, Order.BY_JOB, after=after, limit=limit)
    query = _joined(select(ImageRow.ordinal)).where(*wanted.conditions()).order_by(ImageRow.ordinal).limit(limit)
    if after is not None:
        query = query.where(ImageRow.ordinal > after.ordinal)
    elif wanted.status == ImageStatus.PENDING:
        query = query.where(ImageRow.ordinal >= _first_open(wanted.job_id))
    return [Key(None, wanted.job_id, ordinal) for ordinal in connection.scalars(query)]


def _first_open(job_id: int) -> ScalarSelect[int]:
    """The first ordinal of the job's batches that are not done: before it nothing is pending."""
    still_open = select(func.min(BatchRow.first)).where(BatchRow.job_id == job_id, BatchRow.state != BatchState.DONE)
    return select(func.coalesce(still_open.scalar_subquery(), 0)).scalar_subquery()


def unfinished_jobs(connection: Connection, wanted: Filter, *, from_job: int | None) -> list[int]:
    """List the jobs that have pending (or canceled) images, newest first, from a job on."""
    pending = JobRow.total - JobRow.ok - JobRow.failed - JobRow.canceled
    having = JobRow.canceled > 0 if wanted.status == ImageStatus.CANCELED else pending > 0
    query = select(JobRow.id).where(having).order_by(JobRow.id.desc())
    return list(connection.scalars(query if from_job is None else query.where(JobRow.id <= from_job)))


def records(connection: Connection, keys: Sequence[Key]) -> list[ResultRecord]:
    """Return what is stored of these images, in this order; those that are deleted meanwhile are left out."""
    return list(map(ResultRecord._make, connection.execute(_looked_up(connection, keys)))) if keys else []


def columns(connection: Connection, keys: Sequence[Key]) -> Columns:
    """Return what `records` returns, a sequence for each field, without an object for each row: PostgreSQL makes them
    itself, and SQLite's times are read once for those that are equal.
    """
    if not keys:
        return transposed([])
    rows = _looked_up(connection, keys).subquery()
    if connection.dialect.name == "sqlite":
        as_text = (type_coerce(column, Text) if column.name == "finished_at" else column for column in rows.c)
        found = transposed(connection.execute(select(*as_text)).all())
        times = found["finished_at"]
        moments = {text: text and datetime.fromisoformat(text).replace(tzinfo=UTC) for text in set(times)}
        return {**found, "finished_at": [moments[text] for text in times]}
    query = select(*(type_coerce(func.array_agg(column), NullType()).label(column.name) for column in rows.c))
    arrays = connection.execute(query, execution_options={"cars_binary": True}).one()
    return {name: values or () for name, values in zip(ResultRecord._fields, arrays, strict=True)}


def transposed(rows: Sequence[Sequence[Any]]) -> Columns:
    """Return records as a sequence for each field."""
    values = zip(*rows, strict=True) if rows else [()] * len(ResultRecord._fields)
    return dict(zip(ResultRecord._fields, values, strict=True))


def _looked_up(connection: Connection, keys: Sequence[Key]) -> Select[*tuple[Any, ...]]:
    places = _places(connection, keys)
    corrected = CorrectionRow.content_hash == ImageRow.content_hash
    query = _joined(select(*_COLUMNS), places).outerjoin(CorrectionRow, corrected)
    return query.order_by(places.c.at)


def _places(connection: Connection, keys: Sequence[Key]) -> TableValuedAlias | Subquery:
    """Return a table of the keys: `job_id`, `ordinal`, and `at`, the place of each."""
    if connection.dialect.name == "sqlite":
        pairs = func.json_each(json.dumps([[key.job_id, key.ordinal] for key in keys])).table_valued("key", "value")
        columns = [func.json_extract(pairs.c.value, f"$[{at}]", type_=Integer) for at in (0, 1)]
        query = select(columns[0].label("job_id"), columns[1].label("ordinal"), pairs.c.key.label("at"))
        return query.subquery("places")
    arrays = [
        literal([key.job_id for key in keys], ARRAY(Integer)),
        literal([key.ordinal for key in keys], ARRAY(Integer)),
    ]
    return func.unnest(*arrays).table_valued("job_id", "ordinal", with_ordinality="at", name="places").render_derived()


def in_order(
    connection: Connection, wanted: Filter, *, order: ResultOrder | None, reverse: bool, limit: int | None, size: int
) -> Iterator[list[ResultRecord]]:
    """Yield all rows in an order, `size` at a time, as the moment of the statement saw them.

    For the orders that no index has, and for jobs that run: a value that is sorted by may change there, so that pages
    by key would miss rows. Without an order the rows are sorted by job and path.
    """
    query = _selected(wanted).order_by(*_sorting(connection, wanted, order=order, reverse=reverse)).limit(limit)
    for rows in connection.execution_options(yield_per=size).execute(query).partitions():
        yield list(map(ResultRecord._make, rows))


def _sorting(
    connection: Connection, wanted: Filter, *, order: ResultOrder | None, reverse: bool
) -> Iterator[ColumnElement[Any]]:
    """Yield what to sort by, as the walks do; rows without the value come last either way."""
    path: Any = ImageRow.path if connection.dialect.name == "sqlite" else ImageRow.path.collate("C")
    backwards = reverse
    match order:
        case ResultOrder.CONFIDENCE:
            yield (PredictionRow.confidence.asc() if reverse else PredictionRow.confidence.desc()).nulls_last()
            backwards = not reverse
        case ResultOrder.TIME:
            yield (ImageRow.finished_at.asc() if reverse else ImageRow.finished_at.desc()).nulls_last()
            backwards = not reverse
        case ResultOrder.PATH if wanted.job_id is None:
            yield path.desc() if reverse else path.asc()
    yield ImageRow.job_id.desc() if backwards else ImageRow.job_id.asc()
    yield ImageRow.ordinal.desc() if backwards else ImageRow.ordinal.asc()


def _selected(wanted: Filter) -> Select[*tuple[Any, ...]]:
    corrected = CorrectionRow.content_hash == ImageRow.content_hash
    return _joined(select(*_COLUMNS)).outerjoin(CorrectionRow, corrected).where(*wanted.conditions())


def _joined(
    query: Select[*tuple[Any, ...]], places: TableValuedAlias | Subquery | None = None
) -> Select[*tuple[Any, ...]]:
    """Join the images (of these places) with their jobs, versions and predictions."""
    if places is None:
        query = query.select_from(ImageRow)
    else:
        here = and_(ImageRow.job_id == places.c.job_id, ImageRow.ordinal == places.c.ordinal)
        query = query.select_from(places).join(ImageRow, here)
    return (
        query.join(JobRow, JobRow.id == ImageRow.job_id)
        .join(VersionRow, VersionRow.id == JobRow.version_id)
        .outerjoin(PredictionRow, _PREDICTED)
    )


def count(connection: Connection, wanted: Filter) -> int:
    """Return how many images fit: from totals where they tell, otherwise one by one.

    Of all jobs those are counted that are finished, unless `status` asks for others.
    """
    if wanted.unfinished and wanted == Filter(job_id=wanted.job_id, status=wanted.status):
        return summaries.unfinished(connection, wanted.job_id)[ImageStatus(wanted.status or "")]
    if not wanted.unfinished:
        narrowed = wanted.narrowed(connection)
        with_unfinished = wanted.job_id is not None and narrowed.failures and wanted.status is None
        if (found := summaries.count(connection, narrowed)) is not None:
            more = sum(summaries.unfinished(connection, wanted.job_id).values()) if with_unfinished else 0
            return found + more
        if not with_unfinished:
            return walks.count(connection, narrowed)
    query = _joined(select(func.count())).where(*wanted.conditions())
    return int(connection.execute(query).scalar_one())


def counts(connection: Connection, wanted: Filter) -> list[Count]:
    """Count the images of each `status`, `decision`, `make` and `error_code`."""
    if wanted == Filter(job_id=wanted.job_id):
        return _all_counts(connection, wanted.job_id)
    groups = (ImageRow.status, PredictionRow.decision, PredictionRow.make, ImageRow.error_code)
    query = _joined(select(*groups, func.count().label("images"))).where(*wanted.conditions()).group_by(*groups)
    return list(map(Count._make, connection.execute(query)))


def _all_counts(connection: Connection, job_id: int | None) -> list[Count]:
    """Count a job's images, or all, from totals."""
    found = [
        Count(ImageStatus.FAILED, None, None, each.outcome, each.images)
        if each.make is None
        else Count(ImageStatus.OK, each.outcome, each.make, None, each.images)
        for each in summaries.tallies(connection, job_id)
    ]
    rest = summaries.unfinished(connection, job_id)
    return found + [Count(status, None, None, None, images) for status, images in rest.items() if images]


def errors(connection: Connection, job_id: int, *, after: int, limit: int) -> list[FailedImage]:
    """List the job's next failed images after an ordinal."""
    columns = (ImageRow.ordinal, ImageRow.path, ImageRow.error_code, ImageRow.error_message)
    failed = and_(OutcomeRow.job_id == job_id, OutcomeRow.error_code.is_not(None), OutcomeRow.ordinal > after)
    same = and_(ImageRow.job_id == OutcomeRow.job_id, ImageRow.ordinal == OutcomeRow.ordinal)
    query = select(*columns).join(OutcomeRow, same).where(failed).order_by(OutcomeRow.ordinal).limit(limit)
    return list(map(FailedImage._make, connection.execute(query)))
