"""Statements on predictions: what is known already, storing new ones, dropping those no job refers to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, select, tuple_

from jobs.database import now
from jobs.tables import ImageRow, JobRow, PredictionRow

__all__ = ["Prediction", "hold", "known", "prune", "store"]


class Prediction(NamedTuple):
    """One row to store; the fields are the table's columns."""

    content_hash: bytes
    label: str
    make: str
    model: str
    body: str | None
    year: int | None
    confidence: float
    decision: str
    probabilities: bytes


def known(connection: Connection, version_id: int, hashes: Collection[bytes]) -> set[bytes]:
    """Which of these contents the version has classified before."""
    if not hashes:
        return set()
    if connection.dialect.name == "sqlite":
        mine = (PredictionRow.version_id == version_id) & PredictionRow.content_hash.in_(list(hashes))
        return set(connection.scalars(select(PredictionRow.content_hash).where(mine)))
    sql = "SELECT content_hash FROM predictions WHERE version_id = %s AND content_hash = ANY(%s)"
    return {bytes(row[0]) for row in connection.exec_driver_sql(sql, (version_id, list(hashes)))}


def hold(connection: Connection, version_id: int, hashes: Collection[bytes]) -> bool:
    """Keep these predictions from being pruned until the end of the transaction; False when one is gone already."""
    if not hashes:
        return True
    mine = (PredictionRow.version_id == version_id) & PredictionRow.content_hash.in_(sorted(hashes))
    held = (
        select(PredictionRow.content_hash)
        .where(mine)
        .order_by(PredictionRow.content_hash)
        .with_for_update(read=True, key_share=True)
    )
    return len(connection.scalars(held).all()) == len(set(hashes))


def store(connection: Connection, version_id: int, predictions: Sequence[Prediction]) -> int:
    """Store predictions, leaving alone those that another worker has stored meanwhile; returns how many were new.

    Rows go in by content hash, so that two transactions with common photos queue up and never deadlock.
    """
    rows = sorted(predictions, key=lambda p: p.content_hash)
    if not rows:
        return 0
    names = "content_hash, label, make, model, body, year, confidence, decision, probabilities"
    if connection.dialect.name == "sqlite":
        stamp = now().compile(dialect=connection.dialect)
        sql = f"INSERT OR IGNORE INTO predictions (version_id, {names}, created_at) VALUES (?{', ?' * 9}, {stamp})"  # noqa: S608
        return connection.exec_driver_sql(sql, [(version_id, *row) for row in rows]).rowcount
    types = ("bytea", "text", "text", "text", "text", "smallint", "float8", "text", "bytea")
    arrays = ", ".join(f"%b::{kind}[]" for kind in types)  # binary: quoting text arrays costs more
    sql = (
        f"INSERT INTO predictions (version_id, {names}, created_at) "  # noqa: S608 - only names and types of our own
        f"SELECT %s, new.*, clock_timestamp() FROM unnest({arrays}) AS new({names}) "
        "ORDER BY new.content_hash ON CONFLICT DO NOTHING"
    )
    columns = (list(column) for column in zip(*rows, strict=True))
    return connection.exec_driver_sql(sql, (version_id, *columns)).rowcount


def prune(connection: Connection, *, limit: int) -> int:
    """Delete up to `limit` predictions that no image refers to; returns how many. Call until it gives 0.

    The candidates are locked first and judged again by a second statement, which sees what others have committed
    meanwhile.
    """
    key = (PredictionRow.version_id, PredictionRow.content_hash)
    unused = _unused(connection)
    locked = select(*key).where(unused).order_by(*key).limit(limit).with_for_update(skip_locked=True)
    candidates = connection.execute(locked).all()
    if not candidates:
        return 0
    chosen = tuple_(*key).in_([tuple(row) for row in candidates])
    return connection.execute(delete(PredictionRow).where(chosen, unused)).rowcount


def _unused(connection: Connection) -> ColumnElement[bool]:
    """No image of a job with this version has this content. Each database in the words that it answers in one pass."""
    joined = select(JobRow.version_id, ImageRow.content_hash).join(JobRow, JobRow.id == ImageRow.job_id)
    if connection.dialect.name == "sqlite":
        used = joined.where(ImageRow.content_hash.is_not(None))
        return tuple_(PredictionRow.version_id, PredictionRow.content_hash).not_in(used)
    same = (ImageRow.content_hash == PredictionRow.content_hash) & (JobRow.version_id == PredictionRow.version_id)
    return ~joined.where(same).exists()
