"""Records of verdicts on listings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from jobs.records.base import Json, Record, Selected, iso
from jobs.records.results import Result, TopLabel

__all__ = ["Listing", "ListingDetails", "SharedContent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Record):
    """The verdict on a listing. What is not sure is None: with the decision `make` all but the make, with `unknown` the
    make, too.

    `confidence` is the label's, where the decision is `make` the make's; `agreement` the fraction of the evidence
    whose best make is the verdict's; `used` the number of contents that say something, of `photos` images; `photo` the
    path of the one that shows the label best; `source` is `model` or `human`. It is not `complete` where images were
    canceled.
    """

    job: str
    listing: str
    complete: bool
    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    confidence: float
    decision: str
    agreement: float | None
    photos: int
    used: int
    failed: int
    conflict: bool
    photo: str | None
    source: str
    model_version: str
    updated_at: str

    @property
    def needs_review(self) -> bool:
        """Whether a person should look at it: it is in conflict, or neither a person's word nor sure."""
        return self.conflict or (self.source == "model" and self.decision != "model")

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.listing_pages.page`."""
        fields = {name: getattr(row, name) for name in cls.__slots__ if name not in ("job", "listing", "updated_at")}
        return cls(job=str(row.job_id), listing=row.name, updated_at=iso(row.updated_at), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingDetails(Record):
    """A listing with the five most probable labels, whether sure or not, and its images."""

    verdict: Listing
    top: list[TopLabel]
    images: list[Result]

    def to_dict(self) -> Json:
        """Return the verdict as a JSON object that has `top` and `images`, too."""
        return {**self.verdict.to_dict(), "top": self.top, "images": [image.to_dict() for image in self.images]}


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedContent(Record):
    """Images of several listings that have the same bytes."""

    job: str
    content_hash: str
    listings: list[str]
    paths: list[str]
