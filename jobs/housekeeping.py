"""Deleting jobs with all their images, and the predictions that no image refers to any more.

Whatever its size, a job goes in short transactions, so that nobody waits for long: the images first, then the job's own
row, then the predictions. A job whose deletion is interrupted has fewer images, with counters that say so; deleting it
again finishes it. `prune` finds the predictions that an interruption left behind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, CursorResult, select

from jobs.db.database import Database
from jobs.db.paging import pages
from jobs.db.queries import jobs, listings, predictions
from jobs.errors import DatabaseUnavailable

__all__ = ["delete", "delete_predictions", "prune", "would_prune"]

FIRST_ROWS, LEAST_ROWS, MOST_ROWS = 5_000, 2_500, 20_000  # of a transaction: at first, and its limits
SLICE_SECONDS = 0.5  # what a transaction may take before the next one gets fewer rows
PAUSE_SECONDS = 0.1  # SQLite's writers ask for its lock this often, and get it only while it is free
WAIT_SECONDS = 30  # for commits that have begun
JOBS_AT_A_TIME = 100


def delete(database: Database, job_id: int) -> bool:
    """Delete an ended job and the predictions that only its images refer to; False when it is not there or runs."""
    with _deletion(database) as (connection, since), predictions.only_of(connection, job_id) as found:
        # The rows are those of this moment, though they are fetched when the images are gone.
        if not _delete_job(database, job_id):
            return False
        delete_predictions(database, found, since=since)
        return True


def prune(database: Database, older_than: timedelta) -> dict[str, int]:
    """Delete jobs that ended longer ago, and the predictions that no image refers to; return the number of each."""
    moment, removed = datetime.now().astimezone() - older_than, 0

    def ended_before(after: int | None, limit: int) -> list[int]:
        with database.read() as connection:
            return jobs.ended_before(connection, moment, after=after or 0, limit=limit)

    for ids in pages(ended_before, key=lambda job_id: job_id, size=JOBS_AT_A_TIME):
        removed += sum(_delete_job(database, job_id) for job_id in ids)
    with _deletion(database) as (connection, since), predictions.unused(connection) as found:
        return {"jobs": removed, "predictions": delete_predictions(database, found, since=since)}


def would_prune(database: Database, older_than: timedelta) -> dict[str, int]:
    """Return how many jobs and predictions `prune` would delete now."""
    moment = datetime.now().astimezone() - older_than
    with database.snapshot() as connection:
        return {
            "jobs": jobs.count_ended_before(connection, moment),
            "predictions": predictions.count_unused(connection, without_jobs_before=moment),
        }


def _delete_job(database: Database, job_id: int) -> bool:
    slices, after = _Slices(database), -1
    while True:
        with slices.transaction() as (connection, rows):
            if not jobs.lock_ended(connection, job_id):
                return False
            last = jobs.delete_images(connection, job_id, after=after, limit=rows)
            if last is not None:
                after = last
            elif not listings.delete_some(connection, job_id, limit=rows):
                jobs.delete_row(connection, job_id)
                return True


@contextmanager
def _deletion(database: Database) -> Iterator[tuple[Connection, datetime]]:
    """A connection to find predictions with, and the time from which on commits date those that they take into use."""
    with database.snapshot() as connection:
        predictions.begin_deletion(connection)
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                with database.write() as other:
                    since = predictions.wait_for_commits(other)
                break
            except DatabaseUnavailable:  # a commit takes its time
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
        yield connection, since


def delete_predictions(database: Database, found: CursorResult[Any], *, since: datetime) -> int:
    """Delete the predictions whose places are `found`, but for those taken into use `since`; return their number."""
    slices, gone = _Slices(database), 0
    while places := found.fetchmany(slices.rows):
        with slices.transaction() as (connection, _):
            if not predictions.renew_deletion(connection):  # this machine slept: the next `prune` continues
                return gone
            gone += predictions.delete_unused(connection, places, since=since)
            found.connection.execute(select(1))  # raises, and nothing is deleted, if commits have not been told
    return gone


class _Slices:
    """Transactions of as many rows as go in `SLICE_SECONDS` on this machine.

    None waits for the disk while it has locks: if the server loses power, the last ones are to be repeated, as after
    any interruption.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._begun = False
        self._seconds = SLICE_SECONDS / 2 if database.sqlite else SLICE_SECONDS  # which has one writer at a time
        self.rows = FIRST_ROWS

    @contextmanager
    def transaction(self) -> Iterator[tuple[Connection, int]]:
        """A transaction, and how many rows it should take."""
        if self._begun and self._database.sqlite:
            time.sleep(PAUSE_SECONDS)
        self._begun = True
        began = time.monotonic()
        with self._database.write(durable=False) as connection:
            yield connection, self.rows
        seconds = time.monotonic() - began
        if seconds > self._seconds:
            self.rows = max(self.rows // 2, LEAST_ROWS)
        elif seconds < self._seconds / 2:
            self.rows = min(self.rows * 2, MOST_ROWS)
