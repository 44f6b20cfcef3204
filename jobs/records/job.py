"""Records of jobs: how far one is, and what it has left out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from jobs.records.base import Record, Selected, iso
from jobs.redaction import redacted
from jobs.states import JobState

__all__ = ["JobStatus", "SkippedSuffix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSuffix(Record):
    """How many files of a job's source are not images and end in `suffix` (None: have none)."""

    job: str
    suffix: str | None
    files: int

    @classmethod
    def from_job(cls, row: Selected) -> list[Self]:
        """List those of a row of `queries.jobs.get`, the most files first."""
        counts = sorted(row.skipped_suffixes.items(), key=lambda item: (-item[1], item[0]))
        return [cls(job=str(row.id), suffix=suffix or None, files=files) for suffix, files in counts]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(Record):
    """How far a job is, as one moment saw it. Times are ISO 8601 in UTC.

    `images_per_second` is the rate of the whole job so far; `waiting` says why nothing of it can be done at present;
    `notified` is how far it is that its URL is told of its end: None, `pending`, `delivered` or `given_up`.
    `cached` images, of `ok`, had a prediction already; `unchanged` ones, of `cached`, were not even read (None where
    the job is not incremental).
    """

    id: str
    name: str
    state: JobState
    source: str
    model_version: str
    total: int
    ok: int
    failed: int
    canceled: int
    pending: int
    cached: int
    skipped: int
    images_per_second: float | None
    eta_seconds: float | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    waiting: str | None
    unchanged: int | None = None
    notified: str | None = None
    error: str | None

    @property
    def done(self) -> int:
        """How many images have a result; a canceled one has none."""
        return self.ok + self.failed

    @property
    def how_far(self) -> str:
        """The state and the count of images in words."""
        return f"it is {self.state}, {self.total - self.pending:,} of {self.total:,} images are done"

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.jobs.get`."""
        done = row.ok + row.failed
        pending = row.total - done - row.canceled
        end = row.finished_at or row.now
        seconds = (end - row.started_at).total_seconds() if row.started_at else 0.0
        rate = done / seconds if seconds > 0 and done else None
        running = row.finished_at is None
        return cls(
            id=str(row.id),
            name=row.name,
            state=JobState(row.state),
            source=redacted(row.source),
            model_version=row.model_version,
            total=row.total,
            ok=row.ok,
            failed=row.failed,
            canceled=row.canceled,
            pending=pending,
            cached=row.cached,
            skipped=row.skipped,
            images_per_second=round(rate, 2) if rate else None,
            eta_seconds=round(pending / rate, 1) if running and rate else (None if running else 0.0),
            created_at=iso(row.created_at),
            started_at=iso(row.started_at),
            finished_at=iso(row.finished_at),
            waiting=_waiting(row),
            notified=row.notified,
            unchanged=row.unchanged if row.incremental else None,
            error=row.error,
        )


def _waiting(row: Selected) -> str | None:
    """Why nothing of the job can be done at present, and since when, by this machine's clock."""
    if row.waiting is None:
        return None
    since = row.waiting_since.astimezone()
    form = "%H:%M" if row.now - row.waiting_since < timedelta(hours=12) else "%Y-%m-%d %H:%M"
    return f"since {since.strftime(form)}: {row.waiting}"
