"""Jobs: submitting one, following it, ending it, and listing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from jobs import housekeeping, model_registry, notifications, results, sources, workers
from jobs.db.paging import pages
from jobs.db.queries import incremental, jobs, listed_files
from jobs.db.queries import results as result_rows
from jobs.errors import (
    ImageNotFound,
    ImageUnavailable,
    JobNotFound,
    KeyInUse,
    NotPossible,
    SettingsInvalid,
    SourceEmpty,
)
from jobs.obstacles import Obstacles
from jobs.polling import WorkerPatience, brief_interrupt, follow, log_or
from jobs.records import FailedImage, JobStatus, SkippedSuffix
from jobs.redaction import redacted
from jobs.sources.files import Listed
from jobs.states import JobState, Priority
from jobs.summary import SummaryRow, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from typing import Unpack

    from sqlalchemy import Connection

    from jobs import report
    from jobs.backend import Backend
    from jobs.results import ResultFilters, Results

__all__ = ["Job", "Request", "check", "check_source", "enqueue", "listing", "submit"]

PAGE = 500
FILES_PAGE = 2_000
MOST_LABELS = 32_000
LONGEST_SOURCE = 2_000  # bytes, which PostgreSQL can index
DEFAULT_DEPTH = 1  # folders of a path that name its listing


class Job:
    """One submission, by id; asks the database each time."""

    def __init__(self, backend: Backend, id: str) -> None:
        self._backend = backend
        self.id = id

    def __repr__(self) -> str:
        return f"Job(id={self.id!r})"

    @property
    def number(self) -> int:
        """The id as the database has it. Raises JobNotFound for what cannot be one."""
        if not (self.id.isascii() and self.id.isdigit()) or len(self.id) > 18:
            raise JobNotFound(f"no job {self.id!r}; `cars jobs` lists them")
        return int(self.id)

    def _row(self) -> jobs.JobRecord:
        with self._backend.database.read() as connection:
            row = jobs.get(connection, self.number)
        if row is None:
            raise JobNotFound(f"no job {self.id!r}; `cars jobs` lists them")
        return row

    def status(self) -> JobStatus:
        """Return how far it is, as one moment saw it. Raises JobNotFound."""
        return JobStatus.from_row(self._row())

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> JobStatus:
        """Wait until the job has ended and return its status; `progress` draws a bar on stderr.

        What keeps the job from continuing is a warning in the log (with `progress`: beside the bar), again every half
        minute; a database that is restarted is waited for. Raises WaitTimeout after `timeout` seconds, NoWorkerAlive
        when for a minute no worker is alive to do the work.
        """
        what = f"job {self.id}"
        obstacles = Obstacles(self._backend.settings, partial(workers.listing, self._backend))
        patience = WorkerPatience(what, kind="worker", command="cars worker")

        def watch(status: JobStatus) -> str | None:
            notice = obstacles.look(status)
            patience.look(alive=obstacles.worker_alive)
            return notice

        if progress:
            from jobs.progress import JobBar
        with (
            brief_interrupt(f"{what} continues; wait for it again, or end it: cars cancel {self.id}"),
            log_or(JobBar() if progress else None) as display,
        ):
            return follow(self.status, what=what, display=display, watch=watch, timeout=timeout)

    def cancel(self) -> JobStatus:
        """Stop the job and return its status; what is done is kept. A job that has ended stays as it is."""
        self.status()
        with self._backend.database.write() as connection:
            jobs.cancel(connection, self.number)
        return self.status()

    def retry(self) -> JobStatus:
        """Continue with whatever is not `ok` and return the status.

        That is failed and canceled images, and a listing that was not finished. Raises NotPossible while the job runs.
        """
        with self._backend.database.write() as connection:
            again = jobs.retry(connection, self.number, batch_size=self._backend.settings.batch_size)
        status = self.status()
        if again is None:
            raise NotPossible(f"job {self.id} is {status.state}: wait for its end, or cancel it")
        if status.state is JobState.RUNNING:
            self._backend.notify("scan", self.number)  # harmless where all is listed
        return status

    def skipped(self) -> list[SkippedSuffix]:
        """List how many files of the source are not images, by suffix, as far as it has been listed."""
        return SkippedSuffix.from_job(self._row())

    def delete(self) -> None:
        """Delete the ended job, its images, and the predictions that no other job refers to.

        Raises NotPossible if it runs.
        """
        status = self.status()
        if not housekeeping.delete(self._backend.database, self.number):
            raise NotPossible(f"job {status.id} is {status.state}: cancel it first")

    def results(self, **wanted: Unpack[ResultFilters]) -> Results:
        """Return the job's results; filters, order and limit as in `Client.results`."""
        self.status()
        return results.find(self._backend, self.number, **wanted)

    def read(self, path: str) -> bytes:
        """Return the bytes of an image, as its source has them now.

        `path` is that of a result. Raises ImageNotFound where it cannot be read (any more), JobNotFound, SourceError.
        """
        settings = self._backend.settings
        with sources.open_source(
            self._row().source, roots=settings.roots, max_file_bytes=settings.max_file_bytes
        ) as source:
            try:
                return source.read(path)
            except ImageUnavailable as exc:
                raise ImageNotFound(f"{path} of job {self.id} cannot be read: {exc.message}") from exc

    def report(self, path: str | os.PathLike[str], *, images: int = 200) -> report.Written:
        """Write a report on the job: one HTML file that opens without a network, with at most so many images in it.

        Return how many there are, and why others are missing. Raises OutputError, SettingsInvalid.
        """
        from jobs import report  # Jinja2 is slow to load

        if not 0 <= images <= report.MOST_IMAGES:
            raise SettingsInvalid(f"images must be from 0 to {report.MOST_IMAGES:,}, not {images}")
        self.status()
        return report.write(self._backend, self, Path(path), images=images)

    def summary(
        self, *, by: str | None = None, since: str | date | datetime | None = None, limit: int | None = None
    ) -> list[SummaryRow]:
        """Sum up the job's finished images; see `Client.summary`."""
        self.status()
        return summarize(self._backend, self.number, by=by, since=since, limit=limit)

    def errors(self) -> Iterator[FailedImage]:
        """Yield the job's failed images."""
        self.status()
        number = self.number

        def fetch(after: int | None, limit: int) -> Sequence[result_rows.FailedImage]:
            with self._backend.database.read() as connection:
                return result_rows.errors(connection, number, after=-1 if after is None else after, limit=limit)

        for rows in pages(fetch, key=lambda row: row.ordinal, size=PAGE):
            yield from (FailedImage.from_row(row, job_id=number) for row in rows)


def listing(backend: Backend, *, state: str | None = None, limit: int | None = None) -> Iterator[JobStatus]:
    """Yield the statuses of jobs, newest first."""

    def fetch(before: int | None, size: int) -> Sequence[jobs.JobRecord]:
        with backend.database.read() as connection:
            return jobs.page(connection, before=before, state=state, limit=size)

    for rows in pages(fetch, key=lambda row: row.id, size=PAGE, limit=limit):
        yield from map(JobStatus.from_row, rows)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One submission, checked. Raises SettingsInvalid for what cannot be used."""

    listed: Listed
    name: str | None
    model: str | None
    top_k: int
    priority: str
    key: str | None
    notify: str | None = None
    schedule_id: int | None = None
    incremental: bool = False
    accept_shrink: bool = False
    trial: bool = False
    listing_depth: int | None = None
    manifest: str | None = None

    def __post_init__(self) -> None:
        if self.priority not in list(Priority):
            raise SettingsInvalid(f"priority must be one of {', '.join(Priority)}, not {self.priority!r}")
        if self.top_k < 1:
            raise SettingsInvalid(f"top_k must be at least 1, not {self.top_k}")
        if self.key is not None and not 0 < len(self.key) <= 200:
            raise SettingsInvalid("key must have 1 to 200 characters")
        if self.accept_shrink and not self.incremental:
            raise SettingsInvalid("accept_shrink (--accept-shrink) is for incremental runs: give --incremental, too")
        if self.incremental and self.listed.files is not None:
            raise SettingsInvalid("an incremental run (--incremental) needs a folder or URL, not single images")
        if len(self.listed.source.encode()) > LONGEST_SOURCE:
            raise SettingsInvalid(f"the source has more than {LONGEST_SOURCE:,} bytes: move it, or link to it")
        self._check_listings()

    def _check_listings(self) -> None:
        if self.listing_depth is not None and not 0 <= self.listing_depth <= sources.LARGEST_DEPTH:
            raise SettingsInvalid(f"listing_depth must be 0 to {sources.LARGEST_DEPTH}, not {self.listing_depth}")
        if self.manifest is None:
            return
        if self.listing_depth is not None:
            raise SettingsInvalid("give either listing_depth or a manifest, which says what the listings are")
        if self.listed.files is not None:
            raise SettingsInvalid("a manifest lists the images of a folder: give the folder, not single images")
        try:
            sources.manifest_path(self.manifest)
        except ValueError as exc:
            raise SettingsInvalid(str(exc)) from exc

    @property
    def manifest_path(self) -> str | None:
        """The manifest's path as jobs have it."""
        return None if self.manifest is None else sources.manifest_path(self.manifest)

    @property
    def row(self) -> dict[str, object]:
        """The job's columns, but for its version."""
        return {
            "source": self.listed.source,
            "name": self.name or self._default_name(),
            "key": self.key,
            "top_k": min(self.top_k, MOST_LABELS),
            "priority": Priority(self.priority).rank,
            "notify": self.notify,
            "schedule_id": self.schedule_id,
            "incremental": self.incremental,
            "accept_shrink": self.accept_shrink,
            "trial": self.trial or self.listed.files is not None,
            "listing_depth": DEFAULT_DEPTH if self.listing_depth is None else self.listing_depth,
            "manifest": self.manifest_path,
        }

    def _default_name(self) -> str:
        files = self.listed.files or ()
        source = files[0] if len(files) == 1 else redacted(self.listed.source).rstrip("/")
        return source.rpartition("/")[2] or source or "/"

    def store_files(self, connection: Connection, job_id: int) -> None:
        """Store the list of files, if that is the source; the scan says what listings they are of."""
        if self.listed.files is not None:
            files = (listed_files.ListedFile(None, path) for path in self.listed.files)
            listed_files.add(connection, job_id, files)

    def differences(self, connection: Connection, job_id: int) -> Iterator[str]:
        """Yield in what a job differs from the request; a name or version that is not asked for is not a difference."""
        job = jobs.get(connection, job_id)
        if job is None:  # deleted meanwhile, as its handle will say
            return
        wanted = self.row | {"priority": self.priority, "notify": redacted(self.notify or "")}
        known = job._asdict() | {"priority": Priority.of(job.priority).value, "notify": redacted(job.notify or "")}
        fields = ["source", "top_k", "priority", "listing_depth", "manifest", "incremental", "accept_shrink"]
        fields += [name for name in ("name", "notify") if getattr(self, name)]
        yield from (f"its {f} is {known[f]}, not {wanted[f]}" for f in fields if known[f] != wanted[f])
        if self.model not in (None, "production", job.model_version):
            yield f"its model version is {job.model_version}, not {self.model}"
        if (
            job.source == self.listed.source
            and self.manifest is None
            and _files(connection, job_id) != self.listed.files
        ):
            yield "its files are others"


def _files(connection: Connection, job_id: int) -> tuple[str, ...] | None:
    """The job's list of files, sorted, or None if it has all that its source holds."""
    if not listed_files.any_of(connection, job_id):
        return None

    def fetch(after: str | None, limit: int) -> Sequence[listed_files.ListedFile]:
        return listed_files.page(connection, job_id, after=after, limit=limit)

    return tuple(row.path for rows in pages(fetch, key=lambda row: row.path, size=FILES_PAGE) for row in rows)


def submit(backend: Backend, request: Callable[[], Request], *, key: str | None, reuse: bool) -> Job:
    """Enqueue a request, or return the job that has its key; see `Client.submit`.

    `request` is made, and so checked, only where no job is reused.
    """
    if reuse and key is not None and (known := _by_key(backend, key)) is not None:
        return Job(backend, str(known))
    wanted = request()
    if key is not None and (known := _by_key(backend, key)) is not None:
        return _same(backend, known, wanted)
    check(backend, wanted)
    job_id, new = _add(backend, wanted)
    if not new:
        return Job(backend, str(job_id)) if reuse else _same(backend, job_id, wanted)
    backend.notify("scan", job_id)
    return Job(backend, str(job_id))


def _has_base(backend: Backend, request: Request) -> bool:
    """Whether an earlier run says what the source should have, so that an empty one is the job's failure."""
    with backend.database.read() as connection:
        run = incremental.current_run(connection, request.listed.source, manifest=request.manifest_path)
        return request.incremental and run is not None


def _by_key(backend: Backend, key: str) -> int | None:
    with backend.database.read() as connection:
        return jobs.by_key(connection, key)


def _same(backend: Backend, job_id: int, request: Request) -> Job:
    """The job that has the request's key. Raises KeyInUse if it is another request."""
    with backend.database.read() as connection:
        differences = list(request.differences(connection, job_id))
    if differences:
        raise KeyInUse(str(request.key), str(job_id), differences)
    return Job(backend, str(job_id))


def check(backend: Backend, request: Request) -> None:
    """Raise a SourceError unless the request's source can be used, SettingsInvalid where its URL may not be told."""
    if request.notify is not None:
        notifications.check(backend.settings, request.notify)
    whole = request.listed.files is None and request.manifest is None and not _has_base(backend, request)
    check_source(backend, request.listed.source, whole=whole)


def check_source(backend: Backend, canonical: str, *, whole: bool) -> None:
    """Raise a SourceError unless the source can be opened and, as a whole, has images."""
    with sources.open_source(
        canonical, roots=backend.settings.roots, max_file_bytes=backend.settings.max_file_bytes
    ) as source:
        if whole and not sources.has_images(source):
            raise SourceEmpty(f"{redacted(canonical)} has no images: {sources.what_it_has(source)}; check the folder")


def enqueue(connection: Connection, request: Request) -> int:
    """Write a job's rows and return its id; workers are to be notified after the commit.

    Raises VersionNotFound or NotPossible, and then nothing is written.
    """
    version = model_registry.usable(connection, request.model)
    row = request.row
    if request.incremental:
        row |= incremental.columns(
            connection, request.listed.source, manifest=request.manifest_path, accept_shrink=request.accept_shrink
        )
    job_id = jobs.add(connection, {**row, "version_id": version.id})
    request.store_files(connection, job_id)
    return job_id


def _add(backend: Backend, request: Request) -> tuple[int, bool]:
    """The id of a new job, or of the one that has got the key meanwhile; and whether it is new."""
    try:
        with backend.database.write() as connection:
            return enqueue(connection, request), True
    except IntegrityError:
        known = _by_key(backend, request.key) if request.key else None
        if known is None:
            raise
        return known, False
