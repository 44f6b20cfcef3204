"""Records of images: their results and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

from jobs.records.base import Json, Record, Selected, iso
from jobs.states import ImageErrorCode, ImageFailure, ImageStatus

__all__ = ["FailedImage", "Result", "TopLabel", "top_labels"]


class TopLabel(TypedDict):
    """One of the most probable labels."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Record):
    """What is known of one image of one job.

    `label` to `decision` are None unless `status` is `ok`; `finished_at` (ISO 8601 in UTC) is None while it is
    `pending`; `correction` is the label that a person gave to this content.
    """

    job: str
    path: str
    listing: str | None
    status: str
    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    confidence: float | None
    decision: str | None
    top: list[TopLabel]
    model_version: str
    content_hash: str | None
    finished_at: str | None
    correction: str | None
    error: ImageFailure | None

    def to_dict(self) -> Json:
        """Return the result as a JSON object; there may be millions, so that only `error` is asked what it is."""
        found = {name: getattr(self, name) for name in self.__slots__}
        if self.error is not None:
            found["error"] = self.error.to_dict()
        return found

    @classmethod
    def from_row(cls, row: Selected, *, classes: Sequence[str], top_k: int | None) -> Self:
        """Make one of a row of `queries.results.page` and the classes of its model version in the card's order."""
        failed = row.status == ImageStatus.FAILED
        predicted = row.probabilities is not None
        return cls(
            job=str(row.job_id),
            path=row.path,
            listing=row.listing,
            status=row.status,
            label=row.label,
            make=row.make,
            model=row.model,
            body=row.body,
            year=row.year,
            confidence=row.confidence,
            decision=row.decision,
            top=top_labels(row.probabilities, classes=classes, k=top_k or row.top_k) if predicted else [],
            model_version=row.model_version,
            content_hash=row.content_hash.hex() if row.content_hash is not None else None,
            finished_at=iso(row.finished_at),
            correction=row.correction,
            error=ImageFailure(code=ImageErrorCode(row.error_code), message=row.error_message or "")
            if failed
            else None,
        )


def top_labels(probabilities: bytes, *, classes: Sequence[str], k: int) -> list[TopLabel]:
    """Return the k most probable labels, the best first; equal ones in the card's order."""
    import numpy as np  # slow to load, and no status needs it

    values = np.frombuffer(probabilities, dtype="<f2").astype(np.float64)
    best = np.argsort(-values, kind="stable")[:k]
    return [{"label": classes[i], "confidence": float(values[i])} for i in best]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedImage(Record):
    """A failed image of a job."""

    job: str
    path: str
    code: str
    message: str

    @classmethod
    def from_row(cls, row: Selected, *, job_id: int) -> Self:
        """Make one of a row of `queries.results.errors`."""
        return cls(job=str(job_id), path=row.path, code=row.error_code, message=row.error_message or "")
