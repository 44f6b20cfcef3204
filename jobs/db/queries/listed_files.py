"""Statements on the files of jobs whose source is a list, or has a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select

from jobs.db.database import bulk_insert
from jobs.db.tables import ListedFileRow

__all__ = ["ListedFile", "add", "any_of", "page", "replace"]

TABLE: Any = ListedFileRow.__table__


class ListedFile(NamedTuple):
    """A file of a job whose source is a list."""

    listing: str | None
    path: str


def add(connection: Connection, job_id: int, files: Iterable[ListedFile]) -> None:
    """Store a job's list, each path once."""
    rows = ((job_id, file.listing, file.path) for file in files)
    bulk_insert(connection, TABLE, ("job_id", "listing", "path"), rows)


def replace(connection: Connection, job_id: int, files: Iterable[ListedFile]) -> None:
    """Store a job's list in place of what there is of it."""
    connection.execute(delete(ListedFileRow).where(ListedFileRow.job_id == job_id))
    add(connection, job_id, files)


def any_of(connection: Connection, job_id: int) -> bool:
    """Return whether the job's source is a list."""
    return connection.scalar(select(ListedFileRow.path).where(ListedFileRow.job_id == job_id).limit(1)) is not None


def page(connection: Connection, job_id: int, *, after: str | None, limit: int) -> list[ListedFile]:
    """List the next files after a path, by path."""
    mine = select(ListedFileRow.listing, ListedFileRow.path).where(ListedFileRow.job_id == job_id)
    if after is not None:
        mine = mine.where(ListedFileRow.path > after)
    return [ListedFile(*row) for row in connection.execute(mine.order_by(ListedFileRow.path).limit(limit))]
