"""Listing a job's source: streamed into rows and batches, a slice at a time."""

from __future__ import annotations

import logging
import time
from itertools import islice

from jobs.broker import CLASSIFY_BATCH, SCAN_JOB
from jobs.errors import CarClassifierError, DatabaseError
from jobs.queries import batches, images, jobs
from workers import logs
from workers.finish import finish_job
from workers.lease import Lease, LeaseLost
from workers.runtime import BATCHES_AN_ENGINE, Runtime

__all__ = ["scan_job"]

logger = logging.getLogger(__name__)
SLICE_SECONDS = 6.0  # then other messages of the queue get their turn; a new slice lists its folder from the start
CHUNK = 4_096  # rows a transaction, about


def scan_job(runtime: Runtime, job_id: int) -> None:
    """List a slice of the job's source and ring for the next one; harmless when another process does, or all is
    listed."""
    with runtime.database.write() as connection:
        attempt = jobs.claim_scan(connection, job_id, owner=runtime.owner, seconds=runtime.settings.lease_seconds)
    if attempt is None:
        return
    logs.bind(job=job_id)

    def renew() -> bool:
        with runtime.database.write(durable=False) as connection:
            return jobs.renew_scan(connection, job_id, attempt=attempt, seconds=runtime.settings.lease_seconds)

    try:
        # No stall ends it: how long a folder of a million names takes to answer, nobody knows.
        with Lease(renew, seconds=runtime.settings.lease_seconds, stall_seconds=float("inf")) as lease:
            done = _slice(runtime, job_id, lease, attempt=attempt)
    except LeaseLost:
        return
    except DatabaseError:
        raise  # the lease runs out, and another tries again
    except (CarClassifierError, OSError) as exc:
        logger.warning("job %d cannot be listed: %s", job_id, exc)
        with runtime.database.write() as connection:
            jobs.fail(connection, job_id, str(exc))
        return
    with runtime.database.write() as connection:
        jobs.release_scan(connection, job_id, attempt=attempt, done=done)
    if done:
        finish_job(runtime, job_id)
    else:
        runtime.ring(SCAN_JOB, job_id)


def _slice(runtime: Runtime, job_id: int, lease: Lease, *, attempt: int) -> bool:
    """List until the slice's time is up; True at the listing's end. Raises LeaseLost, also when the job was stopped."""
    with runtime.database.read() as connection:
        job = jobs.get(connection, job_id)
        after = images.last_path(connection, job_id)
    if job is None:
        raise LeaseLost
    size = runtime.settings.batch_size
    full = max(1, CHUNK // size) * size
    deadline = time.monotonic() + SLICE_SECONDS
    chunk = min(full, BATCHES_AN_ENGINE * size) if job.total == 0 else full  # the first batches start soon
    with runtime.source(job.source) as source:
        entries = source.scan(after=after)
        counted = 0
        try:
            while True:
                found = [images.Found(*entry) for entry in islice(entries, chunk)]
                skipped, counted = source.skipped - counted, source.skipped
                _add(runtime, job_id, found, attempt=attempt, skipped=skipped)
                lease.check()
                if len(found) < chunk:
                    return True
                if time.monotonic() > deadline:
                    return False
                chunk = full
        finally:
            entries.close()


def _add(runtime: Runtime, job_id: int, found: list[images.Found], *, attempt: int, skipped: int) -> None:
    size = runtime.settings.batch_size
    with runtime.database.write() as connection:
        if not images.add(connection, job_id, found, attempt=attempt, batch_size=size, skipped=skipped):
            raise LeaseLost
        sent = batches.dispatch(connection, job_id, window=runtime.window(connection))
    for batch_id in sent:
        runtime.ring(CLASSIFY_BATCH, job_id, batch_id)
