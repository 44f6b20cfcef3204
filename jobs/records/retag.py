"""Records of what a new model version changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from jobs.records.base import Json, Record, Selected

__all__ = ["Difference", "Retagging", "TagSaid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retagging(Record):
    """A source that is tagged again: by which job (None where it only would be, or for the reason in `error`), and how
    many of the `images` of the run before have a content that the version has not seen.
    """

    job: str | None
    source: str
    base: str
    before: str
    after: str
    images: int
    unseen: int
    error: str | None = None

    _json_names: ClassVar[Mapping[str, str]] = {"before": "from", "after": "to"}  # one is a keyword of Python


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSaid(Record):
    """What a model version says of an image or a listing; None where it says nothing that is sure."""

    label: str | None
    confidence: float | None
    decision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Record):
    """An image or a listing (`kind`) of a job, of which two model versions say different things.

    `photos_changed`: the listing's images are not the same in the runs of both versions.
    """

    kind: Literal["image", "listing"]
    job: str
    listing: str | None
    path: str | None
    before: TagSaid
    after: TagSaid
    photos_changed: bool = False

    _json_names: ClassVar[Mapping[str, str]] = {"before": "from", "after": "to"}

    def to_dict(self) -> Json:
        """Return it as a JSON object, with `photos_changed` only where they are."""
        found = Record.to_dict(self)
        if not self.photos_changed:
            del found["photos_changed"]
        return found

    @classmethod
    def of_image(cls, row: Selected, *, job_id: int) -> Self:
        """Make one of a row of `queries.retag.image_differences`."""
        return cls(
            kind="image",
            job=str(job_id),
            listing=row.listing,
            path=row.path,
            before=TagSaid(**row.before._asdict()),
            after=TagSaid(**row.after._asdict()),
        )

    @classmethod
    def of_listing(cls, row: Selected, *, job_id: int) -> Self:
        """Make one of a row of `queries.retag.listing_differences`."""
        return cls(
            kind="listing",
            job=str(job_id),
            listing=row.name,
            path=None,
            before=TagSaid(**row.before._asdict()),
            after=TagSaid(**row.after._asdict()),
            photos_changed=row.photos_changed,
        )
