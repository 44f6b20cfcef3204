"""Records of corrections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from jobs.records.base import Record, Selected, iso

__all__ = ["Correction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Record):
    """The label that a person gave to an image, by the hash of its bytes, and in which job it was seen."""

    content_hash: str
    label: str
    job: str | None
    path: str | None
    created_at: str

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.corrections.page`."""
        return cls(
            content_hash=row.content_hash.hex(),
            label=row.label,
            job=None if row.job_id is None else str(row.job_id),
            path=row.path,
            created_at=iso(row.created_at),
        )
