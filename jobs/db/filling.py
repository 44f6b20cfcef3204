"""Filling the outcomes of a database from before there were any: a slice of a job per transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from jobs.db.database import Database
from jobs.db.queries import classes, outcomes, totals
from jobs.db.tables import ImageRow, JobRow, OutcomeRow, TotalRow

__all__ = ["TABLES", "Report", "fill"]

TABLES = "0007"  # the migration that makes the tables; the next one needs them full
SLICE = 20_000  # images per transaction

Report = Callable[[int, int], None]
Lock = Callable[[Connection], AbstractContextManager[None]]


class _Progress(NamedTuple):
    """How many finished images of a job have outcomes, how many should, and the last ordinal."""

    job_id: int
    filled: int
    finished: int
    last: int


def fill(database: Database, *, lock: Lock, report: Report | None) -> None:
    """Add the outcomes that are missing; what is there, and so how far it is, the totals tell.

    `lock` keeps other processes that do the same away for a transaction.
    """
    with database.write() as connection, lock(connection):
        classes.fill(connection)
        jobs = _progress(connection)
    done, total = sum(job.filled for job in jobs), sum(job.finished for job in jobs)
    for job in jobs:
        filled, after = job.filled, -1
        while filled < job.finished and after < job.last:
            with database.write() as connection, lock(connection):
                after = _slice(connection, job.job_id, after)
                now_filled = totals.images_of(connection, job.job_id)
            done, filled = done + now_filled - filled, now_filled
            if report is not None:
                report(done, total)


def _progress(connection: Connection) -> list[_Progress]:
    finished = JobRow.ok + JobRow.failed
    counted = select(func.coalesce(func.sum(TotalRow.images), 0)).where(TotalRow.job_id == JobRow.id).scalar_subquery()
    last = select(func.coalesce(func.max(ImageRow.ordinal), -1)).where(ImageRow.job_id == JobRow.id).scalar_subquery()
    query = select(JobRow.id, counted, finished, last).where(finished > counted).order_by(JobRow.id)
    return list(map(_Progress._make, connection.execute(query)))


def _slice(connection: Connection, job_id: int, after: int) -> int:
    """Fill the next ordinals after `after` and after those that have outcomes; return the last of them."""
    newest = connection.scalar(select(func.max(OutcomeRow.ordinal)).where(OutcomeRow.job_id == job_id))
    first = max(after, -1 if newest is None else newest) + 1
    last = first + SLICE - 1
    outcomes.fill(connection, job_id, first=first, last=last)
    return last
