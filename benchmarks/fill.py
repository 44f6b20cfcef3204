"""A database as months of work leave it: many images in 50 jobs, written with COPY into the product's own tables.

One job has 30 % of the images and the last one still runs; two model versions share the jobs; makes and labels are
skewed, 5 % of the images failed, listings have 12 images, and all of it lies in the 90 days before now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, func, insert, select, update

from jobs.db.database import Database, bulk_insert
from jobs.db.queries import totals, versions
from jobs.db.tables import BatchRow, ClassRow, CorrectionRow, ImageRow, JobRow, OutcomeRow, PredictionRow
from jobs.states import BatchState, ImageStatus, JobState
from model.labels import Label, parse

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
OUTCOME_COLUMNS = (
    "job_id", "ordinal", "version_id", "class_id", "confidence", "finished_at", "decision", "error_code",
)  # fmt: skip
LARGE = ("images", "predictions", "outcomes")
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
    moments: list[Any]  # when each was committed, as the driver stores it
    naive: list[Any]  # the same for columns without a time zone


def fill(database: Database, rows: int, *, seed: int = 0) -> list[Span]:
    """Fill an empty, migrated database with `rows` images; return its jobs."""
    random = np.random.default_rng(seed)
    with database.write() as connection:
        spans = _jobs(connection, rows)
        first = versions.by_id(connection, spans[0].version)
        assert first is not None
        labels = [parse(name) for name in first.card["classes"]]
        class_ids = {version: _classes(connection, version, labels) for version in {span.version for span in spans}}
    popularity = _popularity(random, len(labels))
    with _loose(database):
        for span in spans:
            with database.write() as connection:
                _fill_job(connection, span, random=random, labels=labels, popularity=popularity, class_ids=class_ids)
    with database.write() as connection:
        for span in spans:
            totals.count_in(connection, span.job, first=0, last=span.images)
        _correct(connection, [label.name for label in labels])
    settle_down(database)
    return spans


def _fill_job(
    connection: Connection,
    span: Span,
    *,
    random: np.random.Generator,
    labels: list[Label],
    popularity: np.ndarray,
    class_ids: dict[int, list[int]],
) -> None:
    counted: Counter[str] = Counter()
    for first in range(0, span.images, CHUNK):
        drawn = _draw(random, span, range(first, min(first + CHUNK, span.images)), popularity)
        _time(drawn, span, text=connection.dialect.name == "sqlite")
        counted.update(drawn.statuses.tolist())
        for table, columns, rows in (
            (ImageRow.__table__, IMAGE_COLUMNS, _images(span, drawn)),
            (PredictionRow.__table__, PREDICTION_COLUMNS, _predictions(span, drawn, random=random, labels=labels)),
            (OutcomeRow.__table__, OUTCOME_COLUMNS, _outcomes(span, drawn, class_ids[span.version])),
            (BatchRow.__table__, BATCH_COLUMNS, _batches(span, drawn)),
        ):
            bulk_insert(connection, table, columns, rows)  # type: ignore[arg-type]
    _settle(connection, span, counted)


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
        version_id = first.id if at < JOBS * 3 // 5 else second
        values = {
            "name": f"night {at}", "source": f"/photos/{at}", "state": JobState.RUNNING, "top_k": 5, "priority": 1,
            "version_id": version_id, "created_at": began, "started_at": began,
            "scanned_at": began, "total": size,
        }  # fmt: skip
        job = connection.execute(insert(JobRow).values(values).returning(JobRow.id)).scalar_one()
        spans.append(Span(job, version_id, size, began, began + 0.8 * step, last))
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
    return Drawn(at, classes, confidences.astype(np.float16).astype(float), statuses, codes, hashes, repeats, [], [])


def _time(drawn: Drawn, span: Span, *, text: bool) -> None:
    """Give the images the times at which their batches were committed, as `text` for SQLite."""
    count = -(-span.images // BATCH)
    which = (drawn.ordinals // BATCH).tolist()
    moments = {at: span.began + (span.ended - span.began) * ((at + 1) / count) for at in set(which)}
    naive: dict[int, Any] = {at: moment.replace(tzinfo=None) for at, moment in moments.items()}
    if text:
        naive = {at: f"{moment:%Y-%m-%d %H:%M:%S.%f}" for at, moment in moments.items()}
    drawn.naive = [naive[at] for at in which]
    drawn.moments = drawn.naive if text else [moments[at] for at in which]


def _classes(connection: Connection, version: int, labels: list[Label]) -> list[int]:
    """Store the classes of a version; return their ids in the card's order."""
    parts = [{"version_id": version, "label": label.name, **_parts(label)} for label in labels]
    connection.execute(insert(ClassRow), parts)
    rows = connection.execute(select(ClassRow.label, ClassRow.id).where(ClassRow.version_id == version))
    ids = dict(rows.tuples().all())
    return [ids[label.name] for label in labels]


def _parts(label: Label) -> dict[str, Any]:
    return {"make": label.make, "model": label.model, "body": label.body, "year": label.year}


def _decision(confidence: float) -> str:
    return "model" if confidence > 0.7 else "make" if confidence > 0.5 else "unknown"


def _images(span: Span, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
    columns = (drawn.ordinals.tolist(), drawn.statuses.tolist(), drawn.codes.tolist(), drawn.hashes, drawn.moments)
    for at, status, code, digest, moment in zip(*columns, strict=True):
        listing = f"car {span.job}-{at // LISTING:07}"
        path = f"{listing}/{at % LISTING:02}.jpg"
        if status == "ok":
            yield span.job, at, path, listing, status, 0, digest, None, None, moment
        elif status == "failed":
            yield span.job, at, path, listing, status, 0, digest, code, f"{path} is not what it seems", moment
        else:
            yield span.job, at, path, listing, status, 0, None, None, None, None


def _outcomes(span: Span, drawn: Drawn, class_ids: list[int]) -> Iterator[tuple[Any, ...]]:
    columns = (
        drawn.ordinals.tolist(), drawn.statuses.tolist(), drawn.codes.tolist(), drawn.classes.tolist(),
        drawn.confidences.tolist(), drawn.naive,
    )  # fmt: skip
    for at, status, code, of_class, confidence, moment in zip(*columns, strict=True):
        if status == "ok":
            decision = _decision(confidence)
            yield span.job, at, span.version, class_ids[of_class], confidence, moment, decision, None
        elif status == "failed":
            yield span.job, at, span.version, None, None, moment, None, code


def _predictions(
    span: Span, drawn: Drawn, *, random: np.random.Generator, labels: list[Label]
) -> Iterator[tuple[Any, ...]]:
    width = len(labels)
    bits = random.integers(0, 0x1000, (len(drawn.ordinals), width), dtype=np.uint16)  # below 0.0005
    bits[np.arange(len(bits)), drawn.classes] = drawn.confidences.astype(np.float16).view(np.uint16)
    data = bits.astype("<u2").tobytes()
    chosen = np.flatnonzero((drawn.statuses == ImageStatus.OK.value) & ~drawn.repeats).tolist()
    classes, confidences = drawn.classes.tolist(), drawn.confidences.tolist()
    for i in chosen:
        label, confidence = labels[classes[i]], confidences[i]
        yield (
            span.version, drawn.hashes[i], label.name, label.make, label.model, label.body, label.year, confidence,
            _decision(confidence), data[2 * width * i : 2 * width * (i + 1)], drawn.moments[i],
        )  # fmt: skip


def _batches(span: Span, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
    """Yield the batches that begin in the chunk."""
    for first, status, moment in zip(drawn.ordinals.tolist(), drawn.statuses.tolist(), drawn.moments, strict=True):
        if first % BATCH == 0:
            done = status != ImageStatus.PENDING
            state, last = BatchState.DONE if done else BatchState.WAITING, min(first + BATCH, span.images) - 1
            yield span.job, first, last, state.value, 1, int(done), 0, False, moment if done else None


def _settle(connection: Connection, span: Span, counted: Counter[str]) -> None:
    values: dict[str, Any] = {"ok": counted[ImageStatus.OK], "failed": counted[ImageStatus.FAILED]}
    if not span.open:
        state = JobState.COMPLETED_WITH_ERRORS if values["failed"] else JobState.COMPLETED
        values |= {"state": state, "finished_at": span.ended}
    connection.execute(update(JobRow).where(JobRow.id == span.job).values(values))


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
def _loose(database: Database) -> Iterator[None]:
    """Take the indexes of the large tables away while they are filled: millions of hashes in no order go in slowly one
    by one.
    """
    with database.write() as connection:
        gone, back = _indexes(connection)
        for statement in gone:
            connection.exec_driver_sql(statement)
    yield
    with database.write() as connection:
        connection.exec_driver_sql(
            "PRAGMA cache_size=-1000000" if database.sqlite else "SET LOCAL maintenance_work_mem = '1GB'"
        )
        for statement in back:
            connection.exec_driver_sql(statement)


def _indexes(connection: Connection) -> tuple[list[str], list[str]]:
    """Return the statements that drop the indexes and constraints of the large tables, and those that make them."""
    if connection.dialect.name == "sqlite":
        sql = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN "
        found = connection.exec_driver_sql(f"{sql} {LARGE}").all()
        return [f"DROP INDEX {name}" for name, _ in found], [made for _, made in found]
    sql = (
        "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint "
        f"WHERE conrelid::regclass::text IN {LARGE} AND contype IN ('p', 'f') ORDER BY contype DESC"
    )
    constraints = connection.exec_driver_sql(sql).all()
    sql = (
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() "
        f"AND tablename IN {LARGE} AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    indexes = connection.exec_driver_sql(sql).all()
    gone = [f"ALTER TABLE {table} DROP CONSTRAINT {name}" for name, table, _ in constraints]
    back = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {made}" for name, table, made in constraints]
    return [*gone, *(f"DROP INDEX {name}" for name, _ in indexes)], [*(made for _, made in indexes), *back]
