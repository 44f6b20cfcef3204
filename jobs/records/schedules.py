"""Records of schedules: when they are due, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Self

from jobs.durations import written
from jobs.records.base import Json, Record, Selected, iso
from jobs.redaction import redacted
from jobs.states import FireOutcome

__all__ = ["Fire", "Schedule", "ScheduleDetail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Record):
    """A source that is classified again and again, and what came of its newest due time. Times are ISO 8601 in UTC.

    Either `cron` and `timezone` are given, or `every`; `next_at` is None while it is paused.
    """

    name: str
    source: str
    cron: str | None
    every: str | None
    timezone: str | None
    paused: bool
    next_at: str | None
    last_at: str | None
    last_outcome: FireOutcome | None
    last_reason: str | None
    last_job: str | None

    @classmethod
    def from_row(cls, row: Selected, **more: Any) -> Self:
        """Make one of a row of `queries.schedules`."""
        return cls(
            name=row.name,
            source=redacted(row.source),
            cron=row.cron,
            every=None if row.every is None else written(timedelta(seconds=row.every)),
            timezone=row.timezone,
            paused=row.paused,
            next_at=None if row.paused else iso(row.next_at),
            last_at=iso(row.last_at),
            last_outcome=row.last_outcome and FireOutcome(row.last_outcome),
            last_reason=row.last_reason,
            last_job=None if row.last_job is None else str(row.last_job),
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire(Record):
    """A row of a schedule's ledger: what came of a due time. `reason` says why it was skipped; `job` is None for a job
    that was deleted, too.
    """

    due_at: str
    outcome: FireOutcome
    reason: str | None
    job: str | None

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.schedules.ledger`."""
        job = None if row.job_id is None else str(row.job_id)
        return cls(due_at=iso(row.due_at), outcome=FireOutcome(row.outcome), reason=row.reason, job=job)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDetail(Schedule):
    """A schedule with the newest rows of its ledger, newest first."""

    ledger: Sequence[Fire]

    def to_dict(self) -> Json:
        """Return the schedule as a JSON object, with its ledger."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"ledger": [row.to_dict() for row in self.ledger]}
