"""Statements on images: adding what a scan finds, and writing down what became of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from jobs.db.database import bulk_insert, now
from jobs.db.queries import batches, jobs, listings, outcomes
from jobs.db.queries.classes import ClassIds
from jobs.db.queries.predictions import Fact
from jobs.db.tables import ImageRow, JobRow
from jobs.sources.base import Entry
from jobs.sources.kinds import merged
from jobs.states import ImageFailure, ImageStatus, JobState

__all__ = ["Outcome", "Settled", "add", "last_path", "pending", "settle"]

TABLE: Any = ImageRow.__table__


class Outcome(NamedTuple):
    """What became of one image: a content hash with a stored prediction, or an error."""

    ordinal: int
    content_hash: bytes | None
    error: ImageFailure | None


class Settled(NamedTuple):
    """What is known of an image without reading it: a content hash with a stored prediction, or an error."""

    content_hash: bytes | None
    error: ImageFailure | None


NOTHING: Mapping[str, Settled] = {}


def last_path(connection: Connection, job_id: int) -> str | None:
    """Return where the scan has come to: the path of the job's last row."""
    return connection.scalar(
        select(ImageRow.path).where(ImageRow.job_id == job_id).order_by(ImageRow.ordinal.desc()).limit(1)
    )


def add(
    connection: Connection,
    job_id: int,
    found: Sequence[Entry],
    *,
    attempt: int,
    batch_size: int,
    skipped: Mapping[str, int],
    unchanged: Mapping[str, Settled] = NOTHING,
    facts: Mapping[bytes, Fact] | None = None,
) -> bool:
    """Add what a scan has found, cut what is pending of it into batches, and count it; False when the scan's lease was
    lost or the job stopped.

    `skipped`: how many files that are not images it has passed over meanwhile, by suffix. An entry with an error is a
    failed image at once, and one whose path is in `unchanged` is settled as that says; `facts`: what the predictions of
    these contents say.
    """
    job = connection.execute(
        select(JobRow.total, JobRow.priority, JobRow.skipped_suffixes, JobRow.version_id, JobRow.listing_depth)
        .where(
            JobRow.id == job_id,
            JobRow.state == JobState.RUNNING,
            JobRow.scan_attempt == attempt,
            JobRow.scan_owner.is_not(None),
        )
        .with_for_update()
    ).one_or_none()
    if job is None:
        return False
    columns = ("job_id", "ordinal", "path", "listing", "status", "crashes", "stamp")
    pending, finished = [], []
    for at, entry in enumerate(found, job.total):
        settled = Settled(None, entry.error) if entry.error else unchanged.get(entry.path)
        if settled is None:
            pending.append(at)
        else:
            finished.append(Outcome(at, *settled))
    status = ImageStatus.PENDING.value
    rows = ((job_id, at, f.path, f.listing, status, 0, f.stamp) for at, f in enumerate(found, job.total))
    bulk_insert(connection, TABLE, columns, rows)
    if job.listing_depth is not None:
        listings.add(connection, job_id, {f.listing for f in found if f.listing is not None})
    settle(connection, job_id, finished, version_id=job.version_id, facts=facts)
    batches.add(connection, job_id, pending, size=batch_size, priority=job.priority)
    failed = sum(outcome.error is not None for outcome in finished)
    ok = len(finished) - failed
    counts = {
        "total": JobRow.total + len(found),
        "ok": JobRow.ok + ok,
        "failed": JobRow.failed + failed,
        "cached": JobRow.cached + ok,
        "unchanged": JobRow.unchanged + ok,
        "skipped": JobRow.skipped + sum(skipped.values()),
        "skipped_suffixes": merged(job.skipped_suffixes, skipped),
    }
    connection.execute(update(JobRow).where(JobRow.id == job_id).values(**counts, **jobs.NOT_WAITING))
    return True


def pending(connection: Connection, claim: batches.Claim) -> list[tuple[int, str]]:
    """List (ordinal, path) of the batch's images that are still pending."""
    of_batch = ImageRow.ordinal.between(claim.first, claim.last)
    query = select(ImageRow.ordinal, ImageRow.path).where(
        ImageRow.job_id == claim.job_id, of_batch, ImageRow.status == ImageStatus.PENDING
    )
    return [(ordinal, path) for ordinal, path in connection.execute(query.order_by(ImageRow.ordinal))]


def settle(
    connection: Connection,
    job_id: int,
    finished: Sequence[Outcome],
    *,
    version_id: int,
    facts: Mapping[bytes, Fact] | None = None,
    class_ids: ClassIds | None = None,
) -> None:
    """Write statuses, hashes and errors of images, and their outcomes. The caller holds the job's lock.

    `facts`: what the predictions of all contents without an error say. `class_ids` spares questions about classes.
    """
    if not finished:
        return
    facts = facts or {}
    moment: datetime = connection.execute(select(now())).scalar_one()
    _update(connection, job_id, finished, moment=moment)
    classes = {facts[o.content_hash].car_class for o in finished if o.error is None and o.content_hash is not None}
    ids = (class_ids or ClassIds()).of(connection, version_id, classes) if classes else {}
    rows = []
    for outcome in finished:
        if outcome.error is not None or outcome.content_hash is None:
            rows.append(outcomes.New(outcome.ordinal, None, None, None, outcome.error.code if outcome.error else None))
            continue
        fact = facts[outcome.content_hash]
        class_id = ids[fact.car_class.label, fact.car_class.make]
        rows.append(outcomes.New(outcome.ordinal, class_id, fact.confidence, fact.decision, None))
    outcomes.add(connection, job_id, rows, version_id=version_id, moment=moment)


def _update(connection: Connection, job_id: int, finished: Sequence[Outcome], *, moment: datetime) -> None:
    if connection.dialect.name == "sqlite":
        stamp = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        sql = (
            "UPDATE images SET status = ?, content_hash = ?, error_code = ?, error_message = ?, finished_at = ? "
            "WHERE job_id = ? AND ordinal = ?"
        )
        connection.exec_driver_sql(
            sql, [(_status(o), o.content_hash, *(o.error or (None, None)), stamp, job_id, o.ordinal) for o in finished]
        )
        return
    columns = (
        [o.ordinal for o in finished],
        [_status(o) for o in finished],
        [o.content_hash for o in finished],
        [o.error.code if o.error else None for o in finished],
        [o.error.message.replace("\0", "") if o.error else None for o in finished],
    )
    sql = (
        "UPDATE images SET status = new.status, content_hash = new.content_hash, error_code = new.code, "
        "error_message = new.message, finished_at = %s "
        "FROM unnest(%b::int[], %b::text[], %b::bytea[], %b::text[], %b::text[]) "
        "AS new(ordinal, status, content_hash, code, message) "
        "WHERE images.job_id = %s AND images.ordinal = new.ordinal AND images.ordinal BETWEEN %s AND %s"
    )
    first, last = min(columns[0]), max(columns[0])  # else all of a job that PostgreSQL takes for small would be read
    connection.exec_driver_sql(sql, (moment, *columns, job_id, first, last))


def _status(outcome: Outcome) -> str:
    return (ImageStatus.FAILED if outcome.error else ImageStatus.OK).value
