"""Statements on what a new model version changes: sources that it has not tagged yet, and what it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from jobs.db.queries.incremental import ENDED_WELL, is_current
from jobs.db.tables import ImageRow, JobRow, ListingRow, PredictionRow, ScheduleRow
from jobs.states import ImageStatus

__all__ = [
    "ImageDifference",
    "ListingDifference",
    "Tag",
    "image_differences",
    "listing_differences",
    "newest_of_version",
    "stale",
    "unseen",
]


class Tag(NamedTuple):
    """What a version says of an image or a listing."""

    label: str | None
    confidence: float | None
    decision: str | None


class ImageDifference(NamedTuple):
    """An image of which two versions say different things."""

    ordinal: int
    path: str
    listing: str | None
    before: Tag
    after: Tag


class ListingDifference(NamedTuple):
    """A listing of which two runs say different things, and whether its images are not the same in both."""

    name: str
    before: Tag
    after: Tag
    photos_changed: bool


def stale(connection: Connection, version_id: int) -> list[int]:
    """Return the current runs of sources that are of another version, but for those where a run of this version is on
    its way already, and those of schedules that pin a version.
    """
    newest = select(func.max(JobRow.id)).where(is_current()).group_by(JobRow.source)
    coming = aliased(JobRow)
    same_source = and_(coming.source == JobRow.source, coming.version_id == version_id, coming.trial.is_(False))
    on_its_way = select(coming.id).where(same_source, coming.finished_at.is_(None)).exists()
    pinned = select(ScheduleRow.id).where(ScheduleRow.source == JobRow.source, ScheduleRow.model.is_not(None)).exists()
    found = select(JobRow.id).where(JobRow.id.in_(newest), JobRow.version_id != version_id, ~on_its_way, ~pinned)
    return list(connection.scalars(found.order_by(JobRow.id)))


def unseen(connection: Connection, job_id: int, version_id: int) -> int:
    """Return how many classified images of a job have a content that the version has not seen."""
    seen = select(PredictionRow.version_id).where(
        PredictionRow.version_id == version_id, PredictionRow.content_hash == ImageRow.content_hash
    )
    mine = (ImageRow.job_id == job_id) & (ImageRow.status == ImageStatus.OK)
    return connection.execute(select(func.count()).select_from(ImageRow).where(mine, ~seen.exists())).scalar_one()


def newest_of_version(connection: Connection, source: str, manifest: str | None, version_id: int) -> int | None:
    """Return the newest run of a version over a canonical source with this manifest, trials included, that ended
    well.
    """
    whole = or_(JobRow.trial.is_(False), JobRow.incremental.is_(True))  # not of single files
    mine = and_(JobRow.source == source, JobRow.version_id == version_id, JobRow.state.in_(ENDED_WELL))
    same = JobRow.manifest.is_not_distinct_from(manifest)
    return connection.scalar(select(JobRow.id).where(mine, same, whole).order_by(JobRow.id.desc()).limit(1))


def image_differences(
    connection: Connection, job_id: int, versions: tuple[int, int], *, after: int, limit: int
) -> list[ImageDifference]:
    """List a job's next images past an ordinal whose contents both versions have seen and of which they differ in label
    or decision.
    """
    old, new = aliased(PredictionRow), aliased(PredictionRow)

    def said(side: type[PredictionRow], version_id: int) -> ColumnElement[bool]:
        return and_(side.version_id == version_id, side.content_hash == ImageRow.content_hash)

    columns: tuple[InstrumentedAttribute[Any], ...] = (
        *(ImageRow.ordinal, ImageRow.path, ImageRow.listing),
        *(column for side in (old, new) for column in (side.label, side.confidence, side.decision)),
    )
    joined = select(*columns).join(old, said(old, versions[0])).join(new, said(new, versions[1]))
    mine = and_(ImageRow.job_id == job_id, ImageRow.ordinal > after, ImageRow.status == ImageStatus.OK)
    differ = or_(old.label != new.label, old.decision != new.decision)
    rows = connection.execute(joined.where(mine, differ).order_by(ImageRow.ordinal).limit(limit))
    return [ImageDifference(row[0], row[1], row[2], Tag(*row[3:6]), Tag(*row[6:9])) for row in rows]


def listing_differences(
    connection: Connection, runs: tuple[int, int], *, after: str | None, limit: int
) -> list[ListingDifference]:
    """List the next listings past a name that both runs have a verdict on, and of which they differ in label or
    decision.
    """
    old, new = aliased(ListingRow), aliased(ListingRow)
    columns: tuple[InstrumentedAttribute[Any], ...] = (
        old.name,
        *(column for side in (old, new) for column in (side.label, side.confidence, side.decision)),
    )
    both = and_(old.job_id == runs[0], new.job_id == runs[1], old.updated_at.is_not(None), new.updated_at.is_not(None))
    differ = or_(old.label.is_distinct_from(new.label), old.decision != new.decision)
    query = select(*columns).join(new, new.name == old.name).where(both, differ).order_by(old.name).limit(limit)
    if after is not None:
        query = query.where(old.name > after)
    rows = connection.execute(query).all()
    changed = _with_other_images(connection, runs, [row[0] for row in rows])
    return [ListingDifference(row[0], Tag(*row[1:4]), Tag(*row[4:7]), row[0] in changed) for row in rows]


def _with_other_images(connection: Connection, runs: tuple[int, int], names: Sequence[str]) -> set[str]:
    """Return which of these listings have other contents in the one run than in the other."""
    found: dict[str, tuple[set[bytes], set[bytes]]] = {name: (set(), set()) for name in names}
    columns = (ImageRow.listing, ImageRow.job_id, ImageRow.content_hash)
    some = and_(ImageRow.listing.in_(names), ImageRow.job_id.in_(runs), ImageRow.content_hash.is_not(None))
    for listing, job_id, content_hash in connection.execute(select(*columns).where(some)):
        if listing is not None and content_hash is not None:
            found[listing][runs.index(job_id)].add(content_hash)
    return {name for name, (before, after) in found.items() if before != after}
