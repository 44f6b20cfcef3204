"""A database as months of work leave it: many images in 50 jobs, written with COPY into the product's own tables.

One job has 30 % of the images and the last one still runs; two model versions share the jobs; makes and labels are
skewed, 5 % of the images failed, listings have 12 images, and all of it lies in the 90 days before now.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, func, insert, select, text

from jobs.db.database import Database, bulk_insert
from jobs.db.queries import versions
from jobs.db.tables import Base, BatchRow, CorrectionRow, ImageRow, JobRow, PredictionRow, VersionRow
from jobs.states import BatchState, ImageStatus, JobState
from model.labels import parse

JOBS, LARGEST, LARGEST_FRACTION = 50, 24, 0.3  # how many, and which of them (from 0) has the large fraction
DAYS = 90
BATCH, LISTING = 128, 12
FAILED, REPEATED, PENDING, CORRECTED = 0.05, 0.02, 0.1, 500
CODES = {"undecodable": 0.55, "truncated": 0.2, "unreadable": 0.1, "damaged": 0.1, "vanished": 0.05}
SECOND_VERSION = "second"
CHUNK = 20_000
IMAGE_COLUMNS = (
    "job_id", "ordinal", "path", "listing", "status", "crashes", "content_hash", "error_code", "error_message",
    "finished_at",
)  # fmt: skip
PREDICTION_COLUMNS = (
    "version_id", "content_hash", "label", "make", "model", "body", "year", "confidence", "decision", "probabilities",
    "created_at",
)  # fmt: skip
BATCH_COLUMNS = ("job_id", "first", "last", "state", "priority", "attempt", "failures", "loading", "sent_at")


class Span(NamedTuple):
    """A job to fill: its id, its version, how many images it has, from when until when it ran; whether it ended."""

    job: int
    version: int
    images: int
    began: datetime
    ended: datetime
    open: bool


@dataclass
class Drawn:
    """What a chunk of one job's images came to: arrays of the same length, one element per image."""

    ordinals: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    statuses: np.ndarray  # of str
    codes: np.ndarray  # of str, where the status is `failed`
    hashes: list[bytes]
    repeats: np.ndarray  # bool: the same bytes as the image before


def fill(database: Database, rows: int, *, seed: int = 0) -> list[Span]:
    """Fill an empty, migrated database with `rows` images; return its jobs."""
    random = np.random.default_rng(seed)
    with database.write() as connection, _loose(connection):
        spans = _jobs(connection, rows)
        classes = versions.by_id(connection, spans[0].version)
        assert classes is not None
        labels = [parse(name) for name in classes.card["classes"]]
        popularity = _popularity(random, len(labels))
        for span in spans:
            counted = dict.fromkeys(ImageStatus, 0)
            for first in range(0, span.images, CHUNK):
                drawn = _draw(random, span, range(first, min(first + CHUNK, span.images)), popularity)
                for status in counted:
                    counted[status] += int((drawn.statuses == status).sum())
                _write(connection, database, span, drawn, random=random, labels=labels)
            _settle(connection, span, counted)
        _correct(connection, [label.name for label in labels])
    settle_down(database)
    return spans


def settle_down(database: Database) -> None:
    """Let the database look at what it holds, as it does by itself in time."""
    if database.sqlite:
        with database.write() as connection:
            connection.exec_driver_sql("ANALYZE")
        return
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def _jobs(connection: Connection, rows: int) -> list[Span]:
    """Register the second version and write the jobs, oldest first."""
    first = versions.production(connection)
    assert first is not None
    second, _ = versions.register(
        connection, name=SECOND_VERSION, card=first.card, digest="0" * 64, location="store", state=first.state
    )
    weights = 1 / (np.arange(JOBS) + 5.0)
    weights[LARGEST] = 0
    sizes = np.maximum((weights / weights.sum() * (1 - LARGEST_FRACTION) * rows).astype(int), 1)
    sizes[LARGEST] = 0
    sizes[LARGEST] = max(rows - int(sizes.sum()), 1)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / JOBS
    spans = []
    for at, size in enumerate(map(int, sizes)):
        began, last = start + at * step, at == JOBS - 1
        values = {
            "name": f"night {at}", "source": f"/photos/{at}", "state": JobState.RUNNING, "top_k": 5, "priority": 1,
            "version_id": first.id if at < JOBS * 3 // 5 else second, "created_at": began, "started_at": began,
            "scanned_at": began, "total": size,
        }  # fmt: skip
        job = connection.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
        spans.append(Span(job, values["version_id"], size, began, began + 0.8 * step, last))
    return spans


def _popularity(random: np.random.Generator, classes: int) -> np.ndarray:
    weights = 1 / np.arange(1, classes + 1) ** 1.1
    return random.permutation(weights / weights.sum())


def _draw(random: np.random.Generator, span: Span, ordinals: range, popularity: np.ndarray) -> Drawn:
    count = len(ordinals)
    at = np.arange(ordinals.start, ordinals.stop)
    failed = random.random(count) < FAILED
    statuses = np.where(failed, ImageStatus.FAILED.value, ImageStatus.OK.value).astype("U8")
    if span.open:
        statuses[at >= int(span.images * (1 - PENDING)) // BATCH * BATCH] = ImageStatus.PENDING.value
    data = random.bytes(32 * count)
    hashes = [data[i : i + 32] for i in range(0, len(data), 32)]
    settled = statuses == ImageStatus.OK.value
    repeats = (random.random(count) < REPEATED) & settled
    repeats[1:] &= settled[:-1] & ~repeats[:-1]
    repeats[0] = False
    for i in np.flatnonzero(repeats):
        hashes[i] = hashes[i - 1]
    classes = random.choice(len(popularity), count, p=popularity)
    confidences = np.clip(random.beta(6, 1.2, count), 0.05, 0.999)
    classes[repeats] = classes[np.flatnonzero(repeats) - 1]
    confidences[repeats] = confidences[np.flatnonzero(repeats) - 1]
    codes = random.choice(list(CODES), count, p=list(CODES.values()))
    return Drawn(at, classes, confidences.astype(np.float16).astype(float), statuses, codes, hashes, repeats)


def _write(
    connection: Connection, database: Database, span: Span, drawn: Drawn, *, random: np.random.Generator, labels: Any
) -> None:
    times = _times(database, span)
    moments = [times[at // BATCH] for at in drawn.ordinals.tolist()]
    images = _images(span, drawn, moments)
    bulk_insert(connection, ImageRow.__table__, IMAGE_COLUMNS, images)  # type: ignore[arg-type]
    predictions = _predictions(span, drawn, moments, random=random, labels=labels)
    bulk_insert(connection, PredictionRow.__table__, PREDICTION_COLUMNS, predictions)  # type: ignore[arg-type]
    batches = _batches(span, drawn, times)
    bulk_insert(connection, BatchRow.__table__, BATCH_COLUMNS, batches)  # type: ignore[arg-type]


def _times(database: Database, span: Span) -> list[Any]:
    """Return when each batch of the job was committed, as the driver stores it."""
    count = -(-span.images // BATCH)
    moments = [span.began + (span.ended - span.began) * ((at + 1) / count) for at in range(count)]
    return [f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in moments] if database.sqlite else moments


def _images(span: Span, drawn: Drawn, moments: list[Any]) -> Iterator[tuple[Any, ...]]:
    columns = (
        drawn.ordinals.tolist(),
        drawn.statuses.tolist(),
        drawn.codes.tolist(),
        drawn.hashes,
        moments,
    )
    for at, status, code, digest, moment in zip(*columns, strict=True):
        listing = f"car {span.job}-{at // LISTING:07}"
        path = f"{listing}/{at % LISTING:02}.jpg"
        if status == "ok":
            yield span.job, at, path, listing, status, 0, digest, None, None, moment
        elif status == "failed":
            yield span.job, at, path, listing, status, 0, digest, code, f"{path} is not what it seems", moment
        else:
            yield span.job, at, path, listing, status, 0, None, None, None, None


def _predictions(
    span: Span, drawn: Drawn, moments: list[Any], *, random: np.random.Generator, labels: Any
) -> Iterator[tuple[Any, ...]]:
    width = len(labels)
    bits = random.integers(0, 0x1000, (len(moments), width), dtype=np.uint16)  # below 0.0005
    bits[np.arange(len(bits)), drawn.classes] = drawn.confidences.astype(np.float16).view(np.uint16)
    data = bits.astype("<u2").tobytes()
    chosen = np.flatnonzero((drawn.statuses == ImageStatus.OK.value) & ~drawn.repeats).tolist()
    classes, confidences = drawn.classes.tolist(), drawn.confidences.tolist()
    for i in chosen:
        label, confidence = labels[classes[i]], confidences[i]
        decision = "model" if confidence > 0.7 else "make" if confidence > 0.5 else "unknown"
        yield (
            span.version, drawn.hashes[i], label.name, label.make, label.model, label.body, label.year, confidence,
            decision, data[2 * width * i : 2 * width * (i + 1)], moments[i],
        )  # fmt: skip


def _batches(span: Span, drawn: Drawn, times: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the batches that begin in the chunk."""
    starts = drawn.ordinals[drawn.ordinals % BATCH == 0].tolist()
    pending = set(drawn.ordinals[drawn.statuses == ImageStatus.PENDING.value].tolist())
    for first in starts:
        state = BatchState.WAITING if first in pending else BatchState.DONE
        last = min(first + BATCH, span.images) - 1
        done = state == BatchState.DONE
        yield span.job, first, last, state.value, 1, int(done), 0, False, times[first // BATCH] if done else None


def _settle(connection: Connection, span: Span, counted: dict[ImageStatus, int]) -> None:
    job = connection.execute(select(JobRow.__table__).where(JobRow.id == span.job)).one()
    assert sum(counted.values()) == job.total
    values: dict[str, Any] = {"ok": counted[ImageStatus.OK], "failed": counted[ImageStatus.FAILED]}
    if not span.open:
        state = JobState.COMPLETED_WITH_ERRORS if values["failed"] else JobState.COMPLETED
        values |= {"state": state, "finished_at": span.ended}
    connection.execute(JobRow.__table__.update().where(JobRow.id == span.job).values(values))  # type: ignore[attr-defined]


def _correct(connection: Connection, names: list[str]) -> None:
    """Correct a few images, spread over all jobs."""
    step = max(1, (connection.execute(select(func.count()).select_from(ImageRow)).scalar_one()) // CORRECTED)
    found = select(ImageRow.content_hash, func.max(ImageRow.path).label("path"), func.max(ImageRow.job_id).label("job"))
    found = found.where(ImageRow.ordinal % step == 1, ImageRow.status == "ok").group_by(ImageRow.content_hash)
    rows = [
        {
            "content_hash": row.content_hash, "label": names[at % len(names)], "job_id": row.job, "path": row.path,
            "created_at": datetime.now(UTC),
        }
        for at, row in enumerate(connection.execute(found.limit(CORRECTED)).all())
    ]  # fmt: skip
    if rows:
        connection.execute(insert(CorrectionRow), rows)


@contextmanager
def _loose(connection: Connection) -> Iterator[None]:
    """Take the indexes of the large tables away while they are filled: millions of hashes in no order go in slowly one
    by one.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size=-1000000")
        yield
        return
    sql = text(
        "SELECT conname AS name, conrelid::regclass::text AS at, pg_get_constraintdef(oid) AS definition "
        "FROM pg_constraint WHERE conrelid::regclass::text IN ('images', 'predictions') AND contype IN ('p', 'f') "
        "ORDER BY contype DESC"
    )
    constraints = connection.execute(sql).all()
    sql = text(
        "SELECT indexname AS name, indexdef AS definition FROM pg_indexes WHERE schemaname = current_schema() AND "
        "tablename IN ('images', 'predictions') AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    indexes = connection.execute(sql).all()
    for one in constraints:
        connection.exec_driver_sql(f"ALTER TABLE {one.at} DROP CONSTRAINT {one.name}")
    for one in indexes:
        connection.exec_driver_sql(f"DROP INDEX {one.name}")
    yield
    connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '1GB'")
    for one in indexes:
        connection.exec_driver_sql(one.definition)
    for one in constraints:
        connection.exec_driver_sql(f"ALTER TABLE {one.at} ADD CONSTRAINT {one.name} {one.definition}")


def spans(database: Database) -> list[Span]:
    """Return the jobs of a database that was filled before."""
    with database.read() as connection:
        rows = connection.execute(select(JobRow.__table__, VersionRow.name.label("version")).join(VersionRow))
        return [
            Span(row.id, row.version_id, row.total, row.created_at, row.finished_at, row.finished_at is None)
            for row in rows
        ]


def tables() -> list[str]:
    """Return the names of the product's tables."""
    return [table.name for table in Base.metadata.sorted_tables]
