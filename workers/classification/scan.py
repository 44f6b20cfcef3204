"""Listing a job's source: streamed into rows and batches, a slice at a time."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Generator, Mapping
from itertools import islice, repeat

from jobs.db.queries import batches, images, incremental, jobs, listed_files
from jobs.errors import CarClassifierError, DatabaseError, ImageUnavailable, SourceError
from jobs.queues import CLASSIFY_BATCH, SCAN_JOB
from jobs.sources import Entry, ManifestInvalid, Source, listing_of, read_manifest
from jobs.states import ImageErrorCode
from workers import events, logs
from workers.classification.finish import finish_job
from workers.classification.unchanged import BaseWalk, keep, reader, shrunk
from workers.lease import Lease, LeaseLost
from workers.runtime import BATCHES_PER_ENGINE, Runtime

__all__ = ["scan_job"]

logger = logging.getLogger(__name__)
SLICE_SECONDS = 6.0  # then other messages of the queue get their turn; a new slice lists its folder from the start
CHUNK = 4_096  # rows per transaction, about


def scan_job(runtime: Runtime, job_id: int) -> None:
    """List a slice of the job's source and send a message for the next one; harmless when another process does, or
    all is listed.
    """
    if job_id in runtime.scan_backoff.blocked():
        return
    with runtime.database.write() as connection:
        attempt = jobs.claim_scan(connection, job_id, owner=runtime.owner, seconds=runtime.settings.lease_seconds)
        if attempt is not None:
            incremental.note_reader(connection, job_id, reader(runtime.settings))
    if attempt is None:
        return
    logs.bind(job=job_id)

    def renew() -> bool:
        with runtime.database.write(durable=False) as connection:
            return jobs.renew_scan(connection, job_id, attempt=attempt, seconds=runtime.settings.lease_seconds)

    try:
        # No stall ends it: a folder of a million names may take any time to answer.
        with Lease(renew, seconds=runtime.settings.lease_seconds, stall_seconds=float("inf")) as lease:
            done = _slice(runtime, job_id, lease, attempt=attempt)
    except LeaseLost:
        return
    except DatabaseError:
        raise  # the lease expires, and another process tries again
    except ManifestInvalid as exc:
        _fail(runtime, job_id, str(exc), attempt=attempt)
        return
    except Exception as exc:
        _put_off(runtime, job_id, exc, attempt=attempt)
        return
    runtime.scan_backoff.worked(job_id)
    _release(runtime, job_id, attempt=attempt, done=done)


def _release(runtime: Runtime, job_id: int, *, attempt: int, done: bool) -> None:
    """End the slice; the job, too, where all is done, or where the source has shrunk so much that it may be away."""
    with runtime.database.write() as connection:
        reason = shrunk(connection, job_id) if done else None
        mine = jobs.release_scan(connection, job_id, attempt=attempt, done=done and reason is None)
        failed = mine and reason is not None and jobs.fail(connection, job_id, reason)
        row = jobs.get(connection, job_id) if failed else None
    if row is not None:
        events.publish(events.JobFinished.of(row))
    elif reason is None and done:
        finish_job(runtime, job_id)
    elif reason is None:
        runtime.notify(SCAN_JOB, job_id)


def _put_off(runtime: Runtime, job_id: int, error: Exception, *, attempt: int) -> None:
    """Let the job wait: what is wrong may pass, and another worker may be able to list the source."""
    seconds = runtime.scan_backoff.failed(job_id)
    expected = isinstance(error, CarClassifierError | OSError)
    logger.warning("job %d cannot be listed; tried again in %.1f s: %s", job_id, seconds, error, exc_info=not expected)
    reason = str(error) if expected else f"{type(error).__name__}: {error}"
    with runtime.database.write() as connection:
        if jobs.release_scan(connection, job_id, attempt=attempt, done=False):
            jobs.wait_for(connection, job_id, reason)


def _fail(runtime: Runtime, job_id: int, error: str, *, attempt: int) -> None:
    """End a job whose manifest cannot be used."""
    with runtime.database.write() as connection:
        released = jobs.release_scan(connection, job_id, attempt=attempt, done=False)
        ended = released and jobs.fail(connection, job_id, error)
        row = jobs.get(connection, job_id) if ended else None
    if row is not None:
        events.publish(events.JobFinished.of(row))


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
    chunk = min(full, BATCHES_PER_ENGINE * size) if job.total == 0 else full  # the first batches start soon
    walk = _base_walk(runtime, job, after=after)
    with runtime.sources.open(job.source) as source:
        if job.manifest is not None and job.total == 0:
            _store_manifest(runtime, job, source, lease, attempt=attempt)
        entries = _entries(runtime, job, source, after=after)
        counted: Counter[str] = Counter()
        try:
            while True:
                found = list(islice(entries, chunk))
                if len(found) < chunk or any(f.error for f in found):
                    runtime.sources.check(job.source)  # what is missing or cannot be read may only be away
                skipped, counted = source.left_out - counted, Counter(source.left_out)
                _add(runtime, job, found, attempt=attempt, skipped=skipped, walk=walk)
                lease.check()
                if len(found) < chunk:
                    return True
                if time.monotonic() > deadline:
                    return False
                chunk = full
        finally:
            entries.close()


def _store_manifest(runtime: Runtime, job: jobs.JobRecord, source: Source, lease: Lease, *, attempt: int) -> None:
    """Store what the job's manifest lists, in place of what an earlier attempt has stored. Raises ManifestInvalid."""
    name = job.manifest or ""
    try:
        content = source.read(name)
    except ImageUnavailable as exc:
        runtime.sources.check(job.source)  # it may only be away
        if exc.code is ImageErrorCode.UNREADABLE:
            raise SourceError(f"the manifest {name} cannot be read: {exc.message}") from exc
        raise ManifestInvalid(f"the manifest {name} cannot be used: {exc.message}") from exc
    listed = [listed_files.ListedFile(entry.listing, entry.path) for entry in read_manifest(content, name)]
    with runtime.database.write() as connection:
        if not jobs.renew_scan(connection, job.id, attempt=attempt, seconds=runtime.settings.lease_seconds):
            raise LeaseLost
        listed_files.replace(connection, job.id, listed)
    lease.check()


def _entries(
    runtime: Runtime, job: jobs.JobRecord, source: Source, *, after: str | None
) -> Generator[Entry, None, None]:
    """Yield what the source has, or the files that a manifest or the submission lists, each with its listing."""
    found = _found(runtime, job, source, after=after)
    if job.manifest is not None or job.listing_depth is None:
        yield from found
        return
    for entry in found:
        yield entry._replace(listing=listing_of(entry.path, depth=job.listing_depth))


def _found(runtime: Runtime, job: jobs.JobRecord, source: Source, *, after: str | None) -> Generator[Entry, None, None]:
    with runtime.database.read() as connection:
        listed = listed_files.any_of(connection, job.id)
    if not listed:
        yield from source.scan(after=after)
        return
    while True:
        with runtime.database.read() as connection:
            rows = listed_files.page(connection, job.id, after=after, limit=CHUNK)
        stamps = repeat(None) if job.manifest is None else source.stamps([row.path for row in rows])
        yield from (Entry(row.path, row.listing, stamp=stamp) for row, stamp in zip(rows, stamps, strict=False))
        if len(rows) < CHUNK:
            return
        after = rows[-1].path


def _base_walk(runtime: Runtime, job: jobs.JobRecord, *, after: str | None) -> BaseWalk | None:
    if job.base_id is None:
        return None
    return BaseWalk(runtime.database, job, reader=reader(runtime.settings), after=after)


def _add(
    runtime: Runtime,
    job: jobs.JobRecord,
    found: list[Entry],
    *,
    attempt: int,
    skipped: Mapping[str, int],
    walk: BaseWalk | None,
) -> None:
    size = runtime.settings.batch_size
    known = {} if walk is None else walk.known(found)
    with runtime.database.write() as connection:
        unchanged, facts = keep(connection, job.version_id, known)
        added = images.add(
            connection,
            job.id,
            found,
            attempt=attempt,
            batch_size=size,
            skipped=skipped,
            unchanged=unchanged,
            facts=facts,
        )
        if not added:
            raise LeaseLost
        sent = batches.dispatch(connection, job.id, window=runtime.window(connection))
    for batch_id in sent:
        runtime.notify(CLASSIFY_BATCH, job.id, batch_id)
