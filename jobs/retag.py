"""What a new model version changes: tagging sources again with it, and comparing what two versions say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from jobs import job, model_registry
from jobs.db.paging import pages
from jobs.db.queries import incremental, jobs
from jobs.db.queries import retag as queries
from jobs.errors import JobNotFound, NotPossible, SettingsInvalid, SourceError
from jobs.records import Difference, Retagging
from jobs.redaction import redacted
from jobs.sources.files import Listed
from jobs.states import JobState, Priority

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.backend import Backend
    from jobs.db.queries.jobs import JobRecord
    from jobs.db.queries.versions import VersionRecord

__all__ = ["diff", "retag"]

PAGE = 1_000


def retag(
    backend: Backend, job_id: int | None, *, stale: bool, model: str | None, trial: bool, dry_run: bool
) -> list[Retagging]:
    """Submit incremental runs with a version, or say what they would have to read; see `Client.retag`."""
    if (job_id is None) is not stale:
        raise SettingsInvalid("give either a job, or --stale (stale=True) for every source whose run is not current")
    with backend.database.read() as connection:
        version = model_registry.usable(connection, model)
        if job_id is not None:
            rows = [_row(connection, job_id)]
        else:
            found = (jobs.get(connection, one) for one in queries.stale(connection, version.id))
            rows = [row for row in found if row is not None]  # one may be deleted at this moment
    return [_retag(backend, row, version, trial=trial, dry_run=dry_run, lenient=stale) for row in rows]


def _row(connection: Connection, job_id: int) -> JobRecord:
    row = jobs.get(connection, job_id)
    if row is None:
        raise JobNotFound(f"no job '{job_id}'; `cars jobs` lists them")
    return row


def _retag(
    backend: Backend, row: JobRecord, version: VersionRecord, *, trial: bool, dry_run: bool, lenient: bool
) -> Retagging:
    """Tag a job's source again, with its options. `lenient`: a source that cannot be used is an error in the record."""
    if _of_files(row):
        raise NotPossible(f"job {row.id} is of single images: submit them again, with --model {version.name}")
    with backend.database.read() as connection:
        current = incremental.current_run(connection, row.source, manifest=row.manifest)
        base = jobs.get(connection, current) if current is not None else None
        unseen = queries.unseen(connection, (base or row).id, version.id)
    submitted, error = None, None
    if not dry_run:
        try:
            submitted = _submit(backend, row, version, trial=trial)
        except SourceError as exc:
            if not lenient:
                raise
            error = str(exc)
    return Retagging(
        job=submitted,
        source=redacted(row.source),
        base=str((base or row).id),
        before=(base or row).model_version,
        after=version.name,
        images=(base or row).total,
        unseen=unseen,
        error=error,
    )


def _of_files(row: JobRecord) -> bool:
    return row.trial and not row.incremental


def _submit(backend: Backend, row: JobRecord, version: VersionRecord, *, trial: bool) -> str:
    def request() -> job.Request:
        return job.Request(
            listed=Listed(row.source),
            name=row.name,
            model=version.name,
            top_k=row.top_k,
            priority=next(priority.value for priority in Priority if priority.rank == row.priority),
            key=None,
            listing_depth=row.listing_depth if row.manifest is None else None,
            manifest=row.manifest,
            incremental=True,
            trial=trial,
        )

    return job.submit(backend, request, key=None, reuse=False).id


def diff(backend: Backend, job_id: int, names: tuple[str, str]) -> Iterator[Difference]:
    """Return what two versions say differently of a job's images and listings; see `Client.diff`. Errors are raised at
    once.
    """
    with backend.database.read() as connection:
        row = _row(connection, job_id)
        if not JobState(row.state).terminal:
            raise NotPossible(f"job {row.id} is {row.state}: wait for its end (cars wait {row.id})")
        versions = [model_registry.resolve(connection, name) for name in names]
        if versions[0].id == versions[1].id:
            raise SettingsInvalid(f"{versions[0].name} is both versions: name two that differ")
        before, after = (_run(connection, row, version) for version in versions)
    return chain(_images(backend, row, (versions[0].id, versions[1].id)), _listings(backend, row, (before, after)))


def _run(connection: Connection, row: JobRecord, version: VersionRecord) -> int:
    """Return the run that says what a version says: the job itself, or the newest one over its source."""
    if row.version_id == version.id:
        return row.id
    found = queries.newest_of_version(connection, row.source, row.manifest, version.id)
    if found is None:
        raise NotPossible(
            f"no run of {version.name} over the source of job {row.id} has ended; retag first: "
            f"cars retag {row.id} --model {version.name} --trial"
        )
    return found


def _images(backend: Backend, row: JobRecord, versions: tuple[int, int]) -> Iterator[Difference]:
    def fetch(after: int | None, limit: int) -> Sequence[queries.ImageDifference]:
        with backend.database.read() as connection:
            start = -1 if after is None else after
            return queries.image_differences(connection, row.id, versions, after=start, limit=limit)

    for found in pages(fetch, key=lambda one: one.ordinal, size=PAGE):
        yield from (Difference.of_image(one, job_id=row.id) for one in found)


def _listings(backend: Backend, row: JobRecord, runs: tuple[int, int]) -> Iterator[Difference]:
    def fetch(after: str | None, limit: int) -> Sequence[queries.ListingDifference]:
        with backend.database.read() as connection:
            return queries.listing_differences(connection, runs, after=after, limit=limit)

    for found in pages(fetch, key=lambda one: one.name, size=PAGE):
        yield from (Difference.of_listing(one, job_id=row.id) for one in found)
