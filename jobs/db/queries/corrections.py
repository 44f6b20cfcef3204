"""Statements on corrections: what people say is on photos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, text, update

from jobs.db.database import now
from jobs.db.tables import CorrectionRow, ImageRow

__all__ = ["Correction", "by_hash", "images", "page", "put"]

TOGETHER = 500  # paths asked for in one statement


class Correction(NamedTuple):
    """One photo, by the hash of its bytes, and its right class."""

    content_hash: bytes
    label: str
    job_id: int | None = None
    path: str | None = None


def put(connection: Connection, corrections: Iterable[Correction]) -> None:
    """Write corrections; a later word about the same photo replaces the earlier one.

    One transaction at a time: all of its words are later than another's, or all are earlier.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE corrections IN SHARE ROW EXCLUSIVE MODE"))
    for one in corrections:
        values = {**one._asdict(), "created_at": now()}
        known = update(CorrectionRow).where(CorrectionRow.content_hash == one.content_hash)
        if not connection.execute(known.values(values)).rowcount:
            connection.execute(insert(CorrectionRow).values(values))


def page(connection: Connection, *, after: int, limit: int) -> Sequence[Any]:
    """The next corrections after an id, in the order in which the photos were first corrected."""
    columns = CorrectionRow.__table__.columns
    query = select(*columns).where(CorrectionRow.id > after).order_by(CorrectionRow.id).limit(limit)
    return connection.execute(query).all()


def by_hash(connection: Connection, content_hash: bytes) -> Any:
    """Return the correction of these bytes, which there is."""
    found = CorrectionRow.content_hash == content_hash
    return connection.execute(select(*CorrectionRow.__table__.columns).where(found)).one()


def images(connection: Connection, job_id: int, paths: Sequence[str]) -> Mapping[str, Any]:
    """Of a job's images, by path: `status` and `content_hash`. Paths that are not there are left out."""
    found: dict[str, Any] = {}
    columns = (ImageRow.path, ImageRow.status, ImageRow.content_hash)
    for start in range(0, len(paths), TOGETHER):
        some = ImageRow.path.in_(paths[start : start + TOGETHER])
        rows = connection.execute(select(*columns).where(ImageRow.job_id == job_id, some))
        found |= {row.path: row for row in rows}
    return found
