"""The tables, typed. Times are UTC; content hashes are SHA-256 of the bytes that were decoded."""

from __future__ import annotations

from datetime import UTC, date, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.records import Json

__all__ = [
    "NEEDS_REVIEW",
    "Base",
    "BatchRow",
    "ClassRow",
    "CorrectionRow",
    "FireRow",
    "ImageRow",
    "JobRow",
    "ListedFileRow",
    "ListingRow",
    "NotificationRow",
    "OutcomeRow",
    "PredictionRow",
    "PromotionRow",
    "ScheduleRow",
    "TotalRow",
    "TrainingRunRow",
    "Utc",
    "VersionRow",
    "WorkerRow",
]


NEEDS_REVIEW = "conflict OR (source = 'model' AND decision <> 'model')"
"""Which listings a person should look at, as their index says it."""


class Utc(TypeDecorator[datetime]):
    """A point in time: `timestamptz` in PostgreSQL, text in UTC in SQLite; always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what the database stores."""
        if value is None:
            return None
        return value.astimezone(UTC) if dialect.name == "postgresql" else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return what Python sees."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class NaiveUtc(Utc):
    """A point in time that every database stores as UTC without a zone; always aware in Python."""

    impl = DateTime(timezone=False)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return what the database stores."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)


Word = Text().with_variant(Text(collation="C"), "postgresql")  # compared byte by byte
Id = BigInteger().with_variant(Integer, "sqlite")
JsonColumn = JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """The tables, with the names of their constraints and the types of their columns."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy as it is
        datetime: Utc,
        date: Date,
        str: Text,
        bytes: LargeBinary,
        float: Float(53),
        Json: JsonColumn,
    }


def _failures(name: str, *columns: str) -> Index:
    failed = text("error_code IS NOT NULL")
    return Index(name, *columns, postgresql_where=failed, sqlite_where=failed)


class VersionRow(Base):
    """A model version that workers can load: its card, and where its files lie."""

    __tablename__ = "model_versions"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    state: Mapped[str] = mapped_column(String(20))
    location: Mapped[str] = mapped_column(String(20))  # "bundled" with the program, or in the "store"
    digest: Mapped[str] = mapped_column(String(64))  # SHA-256 of card.json, which holds the hashes of the other files
    card: Mapped[Json]
    registered_at: Mapped[datetime]


class PromotionRow(Base):
    """Which version was live from when: the newest row names production."""

    __tablename__ = "promotions"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    version_id: Mapped[int] = mapped_column(Id, ForeignKey("model_versions.id"), index=True)
    reason: Mapped[str] = mapped_column(String(20))  # initial, promote, rollback, training
    promoted_at: Mapped[datetime]


class JobRow(Base):
    """One submission. `pending` is not stored: it is what `total` leaves over."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("ok + failed + canceled <= total", name="counts"),
        Index(
            "ix_jobs_open", "id", postgresql_where=text("finished_at IS NULL"), sqlite_where=text("finished_at IS NULL")
        ),
        Index(
            "ix_jobs_schedule",
            "schedule_id",
            "id",
            postgresql_where=text("schedule_id IS NOT NULL"),
            sqlite_where=text("schedule_id IS NOT NULL"),
        ),
        Index("ix_jobs_source_id", "source", "id"),
        {"sqlite_autoincrement": True},  # an id is never given twice, not even after a deletion
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str]
    key: Mapped[str | None] = mapped_column(String(200), unique=True)
    source: Mapped[str]
    state: Mapped[str] = mapped_column(String(30))
    version_id: Mapped[int] = mapped_column(Id, ForeignKey("model_versions.id"), index=True)
    top_k: Mapped[int] = mapped_column(SmallInteger)
    priority: Mapped[int] = mapped_column(SmallInteger)
    total: Mapped[int] = mapped_column(Integer, server_default="0")
    ok: Mapped[int] = mapped_column(Integer, server_default="0")
    failed: Mapped[int] = mapped_column(Integer, server_default="0")
    canceled: Mapped[int] = mapped_column(Integer, server_default="0")
    cached: Mapped[int] = mapped_column(Integer, server_default="0")  # of ok: predicted before
    unchanged: Mapped[int] = mapped_column(Integer, server_default="0")  # of cached: not even read
    reclaimed: Mapped[int] = mapped_column(Integer, server_default="0")  # leases of its batches
    engine_seconds: Mapped[float] = mapped_column(server_default="0")  # that inference took, of what is committed
    skipped: Mapped[int] = mapped_column(Integer, server_default="0")  # files that are not images
    skipped_suffixes: Mapped[Json] = mapped_column(server_default="{}")  # how many of them have which
    listing_depth: Mapped[int | None] = mapped_column(SmallInteger)  # None: of a release that had no verdicts
    manifest: Mapped[str | None]  # path, in the source, of the file that lists the images
    error: Mapped[str | None]
    waiting: Mapped[str | None]  # why nothing of it can be done at present
    waiting_since: Mapped[datetime | None]
    incremental: Mapped[bool] = mapped_column(Boolean, server_default=false())  # reads only what changed since its base
    base_id: Mapped[int | None] = mapped_column(Id)  # the job that was current; it may be gone since
    accept_shrink: Mapped[bool] = mapped_column(Boolean, server_default=false())  # may have far fewer images than it
    trial: Mapped[bool] = mapped_column(
        Boolean, server_default=false()
    )  # never current: to compare, or of single files
    read_with: Mapped[str | None]  # release and limits of the workers that read it, if they are the same
    scan_owner: Mapped[str | None] = mapped_column(String(120))
    scan_attempt: Mapped[int] = mapped_column(Integer, server_default="0")
    scan_expires_at: Mapped[datetime | None]
    scanned_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    schedule_id: Mapped[int | None] = mapped_column(Id)  # what made it; None again when that is removed
    notify: Mapped[str | None]  # the URL that is told of its end


class BatchRow(Base):
    """The pending images of a job between two ordinals: one message, one lease, one transaction of results."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("ix_batches_job", "job_id", "state", "id"),
        Index("ix_batches_queue", "state", "priority", "sent_at"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    first: Mapped[int] = mapped_column(Integer)
    last: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(10))
    priority: Mapped[int] = mapped_column(SmallInteger)
    attempt: Mapped[int] = mapped_column(Integer, server_default="0")  # grows with each claim: the fencing token
    owner: Mapped[str | None] = mapped_column(String(120))
    expires_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]  # when it entered the window; it is not claimed before
    failures: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # times its only image made the engine fail
    loading: Mapped[bool] = mapped_column(Boolean, server_default=false())  # its worker loads the model: no image yet


class ImageRow(Base):
    """One file of a job, in the order of the listing; its prediction is found by the job's version and the content
    hash.

    No column that changes is in an index, and in PostgreSQL pages are left half empty: settling an image then rewrites
    its row in place and touches no index, which is the larger part of the database's work in a job.
    """

    __tablename__ = "images"
    __table_args__ = (
        Index(
            "ix_images_listing",
            "listing",
            "job_id",
            "ordinal",
            postgresql_where=text("listing IS NOT NULL"),
            sqlite_where=text("listing IS NOT NULL"),
        ),
        {"sqlite_with_rowid": False},
    )

    job_id: Mapped[int] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    path: Mapped[str]
    listing: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(10))
    crashes: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # processes that crashed while working on it
    stamp: Mapped[str | None]  # what the listing said of the file that changes with its bytes
    content_hash: Mapped[bytes | None]
    error_code: Mapped[str | None] = mapped_column(String(20))
    error_message: Mapped[str | None]
    finished_at: Mapped[datetime | None]


class ListedFileRow(Base):
    """One file of a job whose source is a list of files, not all that a folder holds.

    Those of a manifest are deleted when all are images.
    """

    __tablename__ = "listed_files"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    job_id: Mapped[int] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    listing: Mapped[str | None]
    path: Mapped[str] = mapped_column(Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True)


class ListingRow(Base):
    """The images of one car for sale, and the verdict on them: there is none before `updated_at`.

    `due`: a verdict is to be given or given anew, once no image is pending. What is not sure is null.
    """

    __tablename__ = "listings"
    __table_args__ = (
        Index("ix_listings_conflict", "job_id", "conflict", "confidence"),
        Index("ix_listings_label", "job_id", "label", "name"),
        Index("ix_listings_make", "job_id", "make", "name"),
        Index("ix_listings_decision", "job_id", "decision", "name"),
        Index("ix_listings_updated_at", "job_id", "updated_at"),
        Index("ix_listings_due", "job_id", postgresql_where=text("due"), sqlite_where=text("due")),
        Index(
            "ix_listings_review",
            *("job_id", "conflict", "confidence"),
            postgresql_where=text(NEEDS_REVIEW),
            sqlite_where=text(NEEDS_REVIEW),
        ),
        {"sqlite_with_rowid": False},
    )

    job_id: Mapped[int] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True)
    due: Mapped[bool] = mapped_column(Boolean, server_default=true())
    complete: Mapped[bool] = mapped_column(Boolean, server_default=true())  # no image of it was canceled
    label: Mapped[str | None]
    make: Mapped[str | None]
    model: Mapped[str | None]
    body: Mapped[str | None]
    year: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[float] = mapped_column(server_default="0")
    decision: Mapped[str] = mapped_column(String(10), server_default="unknown")
    agreement: Mapped[float | None]
    photos: Mapped[int] = mapped_column(Integer, server_default="0")
    used: Mapped[int] = mapped_column(Integer, server_default="0")
    failed: Mapped[int] = mapped_column(Integer, server_default="0")
    conflict: Mapped[bool] = mapped_column(Boolean, server_default=false())
    photo: Mapped[str | None]
    source: Mapped[str] = mapped_column(String(10), server_default="model")
    top: Mapped[list[Json]] = mapped_column(JsonColumn, server_default="[]")
    updated_at: Mapped[datetime | None]


class PredictionRow(Base):
    """What one model version says of one image content."""

    __tablename__ = "predictions"

    version_id: Mapped[int] = mapped_column(Id, ForeignKey("model_versions.id"), primary_key=True)
    content_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    label: Mapped[str]
    make: Mapped[str]
    model: Mapped[str]
    body: Mapped[str | None]
    year: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[float]
    decision: Mapped[str] = mapped_column(String(10))
    probabilities: Mapped[bytes]  # float16, little-endian, one per class in the card's order
    created_at: Mapped[datetime]


class ClassRow(Base):
    """A class that a model version has predicted, taken apart; `make` may be another where only that one is sure."""

    __tablename__ = "classes"
    __table_args__ = (UniqueConstraint("version_id", "label", "make", name="uq_classes_version_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    version_id: Mapped[int] = mapped_column(Id, ForeignKey("model_versions.id"))
    label: Mapped[str]
    make: Mapped[str]
    model: Mapped[str]
    body: Mapped[str | None]
    year: Mapped[int | None] = mapped_column(SmallInteger)


class OutcomeRow(Base):
    """What became of one image, a decision or an error: added when it is finished, never changed, and read through its
    indexes.

    The same transaction settles the image. Foreign keys would cost a look at another table for each row; whatever
    removes an image removes its outcome.
    """

    __tablename__ = "outcomes"
    __table_args__ = (
        Index("ix_outcomes_time", "finished_at", "job_id", "ordinal"),
        Index("ix_outcomes_class", "class_id", "finished_at", "job_id", "ordinal"),
        Index("ix_outcomes_decision", "decision", "finished_at", "job_id", "ordinal"),
        Index("ix_outcomes_confidence", "decision", "confidence", "job_id", "ordinal", "finished_at"),
        Index("ix_outcomes_job_class", "job_id", "class_id", "ordinal"),
        _failures("ix_outcomes_failed_time", "finished_at", "job_id", "ordinal"),
        _failures("ix_outcomes_failed", "job_id", "ordinal"),
        {"sqlite_with_rowid": False},
    )

    job_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    version_id: Mapped[int] = mapped_column(Integer)
    class_id: Mapped[int | None] = mapped_column(Integer)
    confidence: Mapped[float | None]
    finished_at: Mapped[datetime] = mapped_column(NaiveUtc)  # as the view `results` shows it, which can use the indexes
    decision: Mapped[str | None] = mapped_column(Word)
    error_code: Mapped[str | None] = mapped_column(Word)


class TotalRow(Base):
    """How many images of a job had an outcome (a decision or an error code) and a class on a day (UTC), and the sum of
    their confidences.

    `class_id` is 0 where they failed.
    """

    __tablename__ = "totals"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    job_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(Word, primary_key=True)
    class_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    images: Mapped[int] = mapped_column(Integer)
    confidence: Mapped[float]


class WorkerRow(Base):
    """One worker process (the parent); alive while its heartbeat is under 15 s old."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    host: Mapped[str]
    pid: Mapped[int] = mapped_column(Integer)
    queues: Mapped[str]
    concurrency: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(40))
    release: Mapped[str] = mapped_column(String(40))
    broken: Mapped[str | None]  # why it takes no batches
    images_per_second: Mapped[float | None]  # of late
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class TrainingRunRow(Base):
    """One execution of the training task. `token` tells it from runs of other databases that share a model store."""

    __tablename__ = "training_runs"
    __table_args__ = (
        Index(
            "ix_training_runs_open",
            "id",
            postgresql_where=text("finished_at IS NULL"),
            sqlite_where=text("finished_at IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    token: Mapped[str] = mapped_column(String(8))
    state: Mapped[str] = mapped_column(String(20))
    dataset: Mapped[str]
    recipe: Mapped[str] = mapped_column(String(40))
    init: Mapped[str]  # scratch, imagenet, a version's name, or the path of a file
    epochs: Mapped[int | None] = mapped_column(Integer)
    options: Mapped[Json]
    progress: Mapped[Json]
    candidate: Mapped[Json | None]  # numbers on the holdout
    production: Mapped[Json | None]  # those of the version that was live, on the same images
    version_id: Mapped[int | None] = mapped_column(Id, ForeignKey("model_versions.id"), index=True)
    promoted: Mapped[bool] = mapped_column(Boolean, server_default=false())
    reason: Mapped[str | None]
    error: Mapped[str | None]
    owner: Mapped[str | None] = mapped_column(String(120))
    attempt: Mapped[int] = mapped_column(Integer, server_default="0")  # grows with each claim: the fencing token
    crashes: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # since the last whole epoch
    expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class CorrectionRow(Base):
    """What a person says an image shows. Its bytes are stored beside the model versions, by their hash."""

    __tablename__ = "corrections"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    content_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    label: Mapped[str]
    job_id: Mapped[int | None] = mapped_column(Id)  # where the image was seen; the job may be gone since
    path: Mapped[str | None]
    author: Mapped[str | None]
    created_at: Mapped[datetime]


class ScheduleRow(Base):
    """When a source is classified again, and how. Due times follow from `cron` in `timezone`, or from `every` (seconds)
    since `anchor`.
    """

    __tablename__ = "schedules"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - the ids of jobs refer to it after it is gone

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    source: Mapped[str]
    cron: Mapped[str | None]
    timezone: Mapped[str | None]
    every: Mapped[float | None]
    anchor: Mapped[datetime]
    model: Mapped[str | None]  # a version's name; None: what is in production then
    top_k: Mapped[int] = mapped_column(SmallInteger, server_default="5")
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    listing_depth: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    manifest: Mapped[str | None]
    keep: Mapped[int | None] = mapped_column(Integer)  # how many of its ended runs stay
    notify: Mapped[str | None]
    paused: Mapped[bool] = mapped_column(Boolean, server_default=false())
    next_at: Mapped[datetime | None] = mapped_column(index=True)  # the first due time without a ledger row
    created_at: Mapped[datetime]


class FireRow(Base):
    """The ledger: one row per due time of a schedule, with what came of it."""

    __tablename__ = "fires"
    __table_args__ = (Index("ix_fires_schedule", "schedule_id", "due_at", unique=True), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    schedule_id: Mapped[int] = mapped_column(Id, ForeignKey("schedules.id", ondelete="CASCADE"))
    due_at: Mapped[datetime]
    outcome: Mapped[str] = mapped_column(String(10))
    reason: Mapped[str | None]
    job_id: Mapped[int | None] = mapped_column(Id, ForeignKey("jobs.id", ondelete="SET NULL"), index=True)


class NotificationRow(Base):
    """What a URL is told of one ending of a job, until it is delivered or given up."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index(
            "ix_notifications_due",
            "next_at",
            postgresql_where=text("state = 'pending'"),
            sqlite_where=text("state = 'pending'"),
        ),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    webhook_id: Mapped[str] = mapped_column(String(64), unique=True)  # the same on every attempt
    url: Mapped[str]
    body: Mapped[str]  # JSON, as it is sent and signed
    state: Mapped[str] = mapped_column(String(10))
    attempt: Mapped[int] = mapped_column(Integer, server_default="0")
    owner: Mapped[str | None] = mapped_column(String(120))
    next_at: Mapped[datetime]  # of the next attempt; until when its owner has this one; when it was settled
    last_error: Mapped[str | None]
