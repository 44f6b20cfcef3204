"""Summaries: how many images there are of each make, decision or day, how sure the model is, what share is decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from jobs.db.queries import summaries
from jobs.errors import SettingsInvalid
from jobs.filters import moment, not_in_future, one_of
from jobs.records import Record
from jobs.states import SummaryKey

if TYPE_CHECKING:
    from jobs.backend import Backend

__all__ = ["SummaryRow", "summarize"]

LISTINGS = 100  # of which a summary by listing names the first


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow(Record):
    """The finished images that have a value in common.

    `by` and `value` are None for all of them together. `decided` is the fraction of those `ok` whose decision is
    `model` or `make`, `mean_confidence` the mean of their labels' confidences; both are None where none is `ok`.
    """

    by: str | None
    value: str | int | None
    images: int
    ok: int
    failed: int
    mean_confidence: float | None
    decided: float | None

    @classmethod
    def from_group(cls, group: summaries.Group, by: SummaryKey | None) -> SummaryRow:
        """Make one of a group of `queries.summaries`."""
        ok = int(group.ok)
        return cls(
            by=by,
            value=group.value.isoformat() if isinstance(group.value, date) else group.value,
            images=ok + int(group.failed),
            ok=ok,
            failed=int(group.failed),
            mean_confidence=round(group.confidence / ok, 6) if ok else None,
            decided=round(int(group.decided) / ok, 6) if ok else None,
        )


def summarize(
    backend: Backend,
    job_id: int | None,
    *,
    by: str | None = None,
    since: str | date | datetime | None = None,
    limit: int | None = None,
) -> list[SummaryRow]:
    """Sum up the finished images of a job, or of all; see `Client.summary`."""
    key = None if by is None else SummaryKey(one_of(SummaryKey, by, name="by"))
    if limit is not None and limit < 1:
        raise SettingsInvalid(f"limit must be at least 1, not {limit}")
    day = None if since is None else _day(since)
    if key is SummaryKey.LISTING:
        with backend.database.snapshot() as connection:
            found = summaries.listings(connection, job_id, since=day, limit=limit or LISTINGS)
    else:
        with backend.database.read() as connection:
            found = summaries.groups(connection, job_id, by=key, since=day)[:limit]
    return [SummaryRow.from_group(group, key) for group in found]


def _day(since: str | date | datetime) -> date:
    """Return the day of a time, in UTC, since totals are kept by the day."""
    return not_in_future("since", moment(since)).astimezone(UTC).date()
