"""Statements on predictions: what is known already, storing new ones, dropping those no job refers to."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    Connection,
    CursorResult,
    LargeBinary,
    Select,
    String,
    any_,
    delete,
    except_,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)

from jobs.db.database import now
from jobs.db.queries import jobs
from jobs.db.queries.classes import CarClass
from jobs.db.tables import ImageRow, JobRow, PredictionRow

__all__ = [
    "Fact",
    "Prediction",
    "begin_deletion",
    "count_unused",
    "delete_unused",
    "known",
    "only_of",
    "protect",
    "renew_deletion",
    "store",
    "unused",
    "wait_for_commits",
]

COMMITTING, DELETING = 0x636F6D6D, 0x64656C65  # advisory locks: "comm", "dele"
SEARCH_MEMORY = "64MB"  # for which PostgreSQL compares a million hashes in memory; its own limit sorts them on disk
DELETION_MINUTES = 10  # how long SQLite's header says that a deletion continues, unless it is renewed


class Fact(NamedTuple):
    """What a prediction says, but for its probabilities."""

    car_class: CarClass
    confidence: float
    decision: str


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

    @property
    def fact(self) -> Fact:
        """What it says, but for its probabilities."""
        return Fact(CarClass(self.label, self.make, self.model, self.body, self.year), self.confidence, self.decision)


def known(connection: Connection, version_id: int, hashes: Collection[bytes]) -> set[bytes]:
    """Return which of these contents the version has classified before."""
    if not hashes:
        return set()
    if connection.dialect.name == "sqlite":
        mine = (PredictionRow.version_id == version_id) & PredictionRow.content_hash.in_(list(hashes))
        return set(connection.scalars(select(PredictionRow.content_hash).where(mine)))
    sql = "SELECT content_hash FROM predictions WHERE version_id = %s AND content_hash = ANY(%s)"
    return {bytes(row[0]) for row in connection.exec_driver_sql(sql, (version_id, list(hashes)))}


def protect(connection: Connection, version_id: int, hashes: Collection[bytes]) -> dict[bytes, Fact]:
    """Keep these predictions from being deleted until the end of the transaction, and from a deletion that is under way
    for good; return what they say, without those that are gone already.
    """
    if not hashes:
        return {}
    mine = (PredictionRow.version_id == version_id) & _among(connection, hashes)
    deleting = _is_deleting(connection)
    locked = (
        select(PredictionRow.content_hash, *_FACT)
        .where(mine)
        .order_by(PredictionRow.content_hash)
        .with_for_update(read=not deleting, key_share=True)
    )
    found = connection.execute(locked).all()
    if deleting:
        mine = (PredictionRow.version_id == version_id) & PredictionRow.content_hash.in_([row[0] for row in found])
        connection.execute(update(PredictionRow).where(mine).values(created_at=now()))
    return {bytes(row[0]): Fact(CarClass(*row[1:6]), *row[6:]) for row in found}


def _among(connection: Connection, hashes: Collection[bytes]) -> ColumnElement[bool]:
    """Return the condition of a prediction of one of these contents: in PostgreSQL a single parameter."""
    if connection.dialect.name == "sqlite":
        return PredictionRow.content_hash.in_(sorted(hashes))
    return PredictionRow.content_hash == any_(literal(sorted(hashes), ARRAY(LargeBinary)))


def store(connection: Connection, version_id: int, predictions: Sequence[Prediction]) -> int:
    """Store predictions, leaving alone those that another worker has stored meanwhile; returns how many were new.

    Rows go in by content hash, so that two transactions with common images queue up and never deadlock.
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


def only_of(connection: Connection, job_id: int) -> CursorResult[Any]:
    """Return where the predictions lie that no other job than this refers to, streamed.

    In one pass over the images of jobs with the same version, in memory that grows with the job alone.
    """
    of_job = select(JobRow.version_id).where(JobRow.id == job_id).scalar_subquery()
    others = _referred().where(JobRow.id != job_id, JobRow.version_id == of_job)
    return _streamed(connection, except_(_referred().where(JobRow.id == job_id), others))


def unused(connection: Connection) -> CursorResult[Any]:
    """Return where the predictions lie that no image refers to, streamed."""
    return _streamed(connection, except_(_KEYS, _referred()))


def count_unused(connection: Connection, *, without_jobs_before: datetime) -> int:
    """Return how many predictions no image would refer to if the jobs that ended earlier were gone."""
    kept = or_(JobRow.finished_at.is_(None), ~jobs.is_old(without_jobs_before))
    found = except_(_KEYS, _referred().where(kept)).subquery()
    return connection.execute(select(func.count()).select_from(found)).scalar_one()


def delete_unused(connection: Connection, places: Sequence[Sequence[Any]], *, since: datetime) -> int:
    """Delete those of the predictions at these places that were not stored or taken into use `since`; returns how many.

    Nothing referred to them then. Those that a commit protects at this moment are passed over. While the statement that
    found the places is being read PostgreSQL gives none of them to another row; that row would be a later one anyway.
    """
    if connection.dialect.name == "sqlite":
        old = PredictionRow.created_at < since
        by_version: dict[int, list[bytes]] = {}
        for version_id, content_hash in places:
            by_version.setdefault(version_id, []).append(content_hash)
        return sum(
            connection.execute(
                delete(PredictionRow).where(
                    PredictionRow.version_id == version, PredictionRow.content_hash.in_(some), old
                )
            ).rowcount
            for version, some in by_version.items()
        )
    free = (
        "SELECT ctid FROM predictions WHERE ctid = ANY(CAST(:places AS tid[])) AND created_at < :since "
        "FOR UPDATE SKIP LOCKED"
    )
    values = {"places": [place for (place,) in places], "since": since}
    return connection.execute(text(f"DELETE FROM predictions WHERE ctid = ANY(ARRAY({free}))"), values).rowcount  # noqa: S608


def begin_deletion(connection: Connection) -> None:
    """Let commits know, from now until the transaction ends, that predictions are being deleted.

    In SQLite `wait_for_commits` and `renew_deletion` do that, for some minutes each.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock_shared(DELETING)))


def wait_for_commits(connection: Connection) -> datetime:
    """Wait for the commits that began before `begin_deletion`, a moment only; returns the time at which none was left.

    From that time on a commit dates the predictions that it takes into use (`protect`), so that `delete_unused` leaves
    them, and so no statement has to look through the images again.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '500ms'"))  # others queue up behind this one
        connection.execute(select(func.pg_advisory_xact_lock(COMMITTING)))
    else:
        connection.exec_driver_sql(f"PRAGMA user_version = {_minute() + DELETION_MINUTES}")
    return connection.execute(select(now())).scalar_one()


def renew_deletion(connection: Connection) -> bool:
    """Return whether commits have been informed all the time since `wait_for_commits`; they will be for some minutes
    more.
    """
    if connection.dialect.name == "postgresql":  # for as long as the transaction of `begin_deletion`
        return True
    if not _is_deleting(connection):
        return False
    connection.exec_driver_sql(f"PRAGMA user_version = {_minute() + DELETION_MINUTES}")
    return True


def _is_deleting(connection: Connection) -> bool:
    """Return whether a deletion is under way; it waits for the end of this transaction if it begins only now."""
    if connection.dialect.name == "sqlite":  # has one writer: it is over, or has not begun, or the header says so
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one()) >= _minute()
    sql = "SELECT pg_advisory_xact_lock_shared(%s), CASE WHEN pg_try_advisory_lock(%s) THEN pg_advisory_unlock(%s) END"
    _, free = connection.exec_driver_sql(sql, (COMMITTING, DELETING, DELETING)).one()
    return not free


def _minute() -> int:
    return int(time.time()) // 60


_FACT = (
    *(PredictionRow.label, PredictionRow.make, PredictionRow.model, PredictionRow.body, PredictionRow.year),
    *(PredictionRow.confidence, PredictionRow.decision),
)
_KEYS = select(PredictionRow.version_id, PredictionRow.content_hash)


def _referred() -> Select[*tuple[Any, ...]]:
    """Keys of the predictions that images refer to."""
    joined = select(JobRow.version_id, ImageRow.content_hash).join(JobRow, JobRow.id == ImageRow.job_id)
    return joined.where(ImageRow.content_hash.is_not(None))


def _streamed(connection: Connection, keys: CompoundSelect[*tuple[Any, ...]]) -> CursorResult[Any]:
    """Return the places of those of the keys that have a prediction, in their order: hashes in their own order would
    lead all over the disk. A place is the row's `ctid`, which PostgreSQL reaches without an index; in SQLite the
    key.
    """
    found = keys.subquery()
    same = (PredictionRow.version_id == found.c[0]) & (PredictionRow.content_hash == found.c[1])
    query: Select[*tuple[Any, ...]]
    if connection.dialect.name == "sqlite":
        query = _KEYS.join(found, same).order_by(text("predictions.rowid"))
    else:
        connection.execute(text(f"SET LOCAL work_mem = '{SEARCH_MEMORY}'"))
        place = literal_column("predictions.ctid", String)
        query = select(place).select_from(PredictionRow).join(found, same).order_by(place)
    return connection.execute(query, execution_options={"stream_results": True})
