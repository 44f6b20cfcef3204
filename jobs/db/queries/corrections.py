"""Statements on corrections: what people say that images show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, text, update

from jobs.db.database import now
from jobs.db.tables import CorrectionRow, ImageRow

__all__ = ["CorrectedImage", "Correction", "CorrectionRecord", "by_hash", "images", "page", "put", "remove"]

TOGETHER = 500  # paths asked for in one statement


class Correction(NamedTuple):
    """One image, by the hash of its bytes, and the label that it should have."""

    content_hash: bytes
    label: str
    job_id: int | None = None
    path: str | None = None
    author: str | None = None


class CorrectionRecord(NamedTuple):
    """A stored correction."""

    id: int
    content_hash: bytes
    label: str
    job_id: int | None
    path: str | None
    author: str | None
    created_at: datetime


class CorrectedImage(NamedTuple):
    """An image of a job that is to be corrected."""

    path: str
    status: str
    content_hash: bytes | None


def put(connection: Connection, corrections: Iterable[Correction]) -> None:
    """Write corrections; a later one of the same content replaces the earlier one.

    One transaction at a time, so that all of its corrections are later than another's, or all are earlier.
    """
    _lock(connection)
    for one in corrections:
        values = {**one._asdict(), "created_at": now()}
        known = update(CorrectionRow).where(CorrectionRow.content_hash == one.content_hash)
        if not connection.execute(known.values(values)).rowcount:
            connection.execute(insert(CorrectionRow).values(values))


def remove(connection: Connection, content_hash: bytes) -> CorrectionRecord | None:
    """Remove the correction of these bytes and return it, None where there is none."""
    _lock(connection)
    row = connection.execute(select(*CorrectionRow.__table__.columns).where(CorrectionRow.content_hash == content_hash))
    found = row.one_or_none()
    if found is None:
        return None
    connection.execute(delete(CorrectionRow).where(CorrectionRow.content_hash == content_hash))
    return CorrectionRecord(**found._asdict())


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE corrections IN SHARE ROW EXCLUSIVE MODE"))


def page(connection: Connection, *, after: int, limit: int) -> list[CorrectionRecord]:
    """List the next corrections after an id, in the order in which the images were first corrected."""
    columns = CorrectionRow.__table__.columns
    query = select(*columns).where(CorrectionRow.id > after).order_by(CorrectionRow.id).limit(limit)
    return [CorrectionRecord(**row._asdict()) for row in connection.execute(query)]


def by_hash(connection: Connection, content_hash: bytes) -> CorrectionRecord:
    """Return the correction of these bytes, which there is."""
    found = CorrectionRow.content_hash == content_hash
    row = connection.execute(select(*CorrectionRow.__table__.columns).where(found)).one()
    return CorrectionRecord(**row._asdict())


def images(connection: Connection, job_id: int, paths: Sequence[str]) -> Mapping[str, CorrectedImage]:
    """Return a job's images by path, without those that it does not have."""
    found: dict[str, CorrectedImage] = {}
    columns = (ImageRow.path, ImageRow.status, ImageRow.content_hash)
    for start in range(0, len(paths), TOGETHER):
        some = ImageRow.path.in_(paths[start : start + TOGETHER])
        rows = connection.execute(select(*columns).where(ImageRow.job_id == job_id, some))
        found |= {row.path: CorrectedImage(*row) for row in rows}
    return found
