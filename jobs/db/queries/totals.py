"""Statements on totals: the number of images that commits have finished, by job, day, outcome and class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from typing import NamedTuple

from sqlalchemy import Connection, Date, delete, func, select

from jobs.db.tables import OutcomeRow, TotalRow

__all__ = ["Finished", "Total", "add", "count_in", "count_out", "delete_failures", "images_of"]

NO_CLASS = 0  # of a failure


class Finished(NamedTuple):
    """A finished image, as totals count it: `outcome` is its decision or its error code."""

    outcome: str
    class_id: int | None
    confidence: float | None


class Total(NamedTuple):
    """How many images have an outcome and a class on a day, and the sum of their confidences."""

    day: date
    outcome: str
    class_id: int
    images: int
    confidence: float


def add(connection: Connection, job_id: int, day: date, finished: Iterable[Finished]) -> None:
    """Count images that are finished now. The caller holds the job's lock."""
    images: dict[tuple[str, int], int] = defaultdict(int)
    confidence: dict[tuple[str, int], float] = defaultdict(float)
    for each in finished:
        group = (each.outcome, each.class_id or NO_CLASS)
        images[group] += 1
        confidence[group] += each.confidence or 0.0
    _change(connection, job_id, [Total(day, *group, images[group], confidence[group]) for group in sorted(images)])


def count_in(connection: Connection, job_id: int, *, first: int, last: int) -> None:
    """Count the outcomes of these ordinals, which are not counted yet."""
    _change(connection, job_id, _grouped(connection, job_id, first, last))


def count_out(connection: Connection, job_id: int, *, first: int, last: int) -> None:
    """Take the outcomes of these ordinals off the totals: they are about to be deleted."""
    grouped = _grouped(connection, job_id, first, last)
    _change(connection, job_id, [row._replace(images=-row.images, confidence=-row.confidence) for row in grouped])
    connection.execute(delete(TotalRow).where(TotalRow.job_id == job_id, TotalRow.images <= 0))


def _grouped(connection: Connection, job_id: int, first: int, last: int) -> list[Total]:
    groups = (
        func.date(OutcomeRow.finished_at, type_=Date()),
        func.coalesce(OutcomeRow.decision, OutcomeRow.error_code),
        func.coalesce(OutcomeRow.class_id, NO_CLASS),
    )
    sums = (func.count(), func.coalesce(func.sum(OutcomeRow.confidence), 0.0))
    those = (OutcomeRow.job_id == job_id) & OutcomeRow.ordinal.between(first, last)
    return list(map(Total._make, connection.execute(select(*groups, *sums).where(those).group_by(*groups))))


def _change(connection: Connection, job_id: int, rows: Sequence[Total]) -> None:
    if not rows:
        return
    into = "INSERT INTO totals (job_id, day, outcome, class_id, images, confidence)"
    added = "images = totals.images + excluded.images, confidence = totals.confidence + excluded.confidence"
    upsert = f"ON CONFLICT (job_id, day, outcome, class_id) DO UPDATE SET {added}"
    if connection.dialect.name == "sqlite":
        values = [(job_id, row.day.isoformat(), *row[1:]) for row in rows]
        connection.exec_driver_sql(f"{into} VALUES (?, ?, ?, ?, ?, ?) {upsert}", values)
        return
    new = "unnest(%b::date[], %b::text[], %b::int[], %b::int[], %b::float8[]) AS new"
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.exec_driver_sql(f"{into} SELECT %s, new.* FROM {new} {upsert}", (job_id, *columns))  # noqa: S608


def images_of(connection: Connection, job_id: int) -> int:
    """Return how many finished images of a job are counted."""
    query = select(func.coalesce(func.sum(TotalRow.images), 0)).where(TotalRow.job_id == job_id)
    return int(connection.execute(query).scalar_one())


def delete_failures(connection: Connection, job_id: int) -> None:
    """Forget the failures of a job: its failed images are pending again."""
    connection.execute(delete(TotalRow).where(TotalRow.job_id == job_id, TotalRow.class_id == NO_CLASS))


def delete_all(connection: Connection, job_id: int) -> None:
    """Forget a job's totals."""
    connection.execute(delete(TotalRow).where(TotalRow.job_id == job_id))
