"""Records of corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jobs.records.base import Record, Selected, iso

__all__ = ["Correction", "ImportedCorrections"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Record):
    """The label that a person gave to an image, by the hash of its bytes, in which job it was seen, and whose word it
    is.
    """

    content_hash: str
    label: str
    job: str | None
    path: str | None
    created_at: str
    author: str | None = None

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.corrections.page`."""
        return cls(
            content_hash=row.content_hash.hex(),
            label=row.label,
            job=None if row.job_id is None else str(row.job_id),
            path=row.path,
            created_at=iso(row.created_at),
            author=row.author,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCorrections(Record):
    """How many corrections of a file were taken, and what is wrong with the lines that were not."""

    taken: int
    bad: Sequence[str] = ()
