"""The Python face: `Client` submits jobs and queries results, `Job` follows one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from sqlalchemy.exc import IntegrityError

from jobs import corrections, housekeeping, model_registry, records, sources, training_run
from jobs import settings as configuration
from jobs.db import migrate
from jobs.db.database import Database
from jobs.db.queries import jobs, results, workers
from jobs.errors import ClientClosed, JobNotFound, KeyInUse, NotPossible, SettingsInvalid, SourceEmpty
from jobs.filters import checked_order, make_filter
from jobs.job import Request
from jobs.polling import brief_interrupt, wait
from jobs.queues import SCAN_JOB, TRAIN_MODEL
from jobs.redaction import redacted
from jobs.results import Results
from jobs.settings import Settings
from jobs.states import JobState
from jobs.training_run import Training
from jobs.wake import wake

if TYPE_CHECKING:
    from jobs.notifier import Notifier

__all__ = ["Client", "Job"]

logger = logging.getLogger(__name__)
PAGE = 500


class Client:
    """Submits jobs, follows them, queries results. Use it in a `with` block or call `close()`.

    Without arguments it takes CARS_* from the environment: by default SQLite in CARS_HOME, which it migrates itself.
    Raises SettingsInvalid, DatabaseUnavailable, SchemaMissing, SchemaTooNew or ForeignDatabase.
    """

    def __init__(
        self, *, database_url: str | None = None, broker_url: str | None = None, settings: Settings | None = None
    ) -> None:
        if settings is not None and (database_url or broker_url):
            raise SettingsInvalid("give either settings, or database_url and broker_url")
        self.settings = settings or configuration.load(database_url=database_url, broker_url=broker_url)
        self._database: Database | None = Database(self.settings.database)
        self._notifier: Notifier | None = None
        self._checked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back; the client cannot be used any more."""
        if self._database is not None:
            self._database.close()
        if self._notifier is not None:
            self._notifier.close()
        self._database = self._notifier = None

    @property
    def database(self) -> Database:
        """The database, migrated if it is the embedded one, else checked (once a client)."""
        if self._database is None:
            raise ClientClosed("this client is closed; make a new one")
        if not self._checked:
            migrate.prepare(self._database)
            self._checked = True
        return self._database

    # -- jobs --------------------------------------------------------------------------------------------------------

    def submit(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        name: str | None = None,
        model: str | None = None,
        top_k: int = 5,
        priority: Literal["low", "normal", "high"] = "normal",
        key: str | None = None,
        reuse: bool = False,
    ) -> Job:
        """Enqueue a folder (a local path or an fsspec URL), or local files, and return the job at once.

        `model` pins a model version (default: the one in production); `top_k` labels are kept in each result;
        the same `key` gives the same job, if it is the same request: else KeyInUse is raised, unless `reuse` takes the
        old job whatever it was. Of files, the source is the folder that they have in common. Raises SourceMissing,
        SourceNotAllowed, SourceEmpty, VersionNotFound or SettingsInvalid.
        """
        if reuse and key is not None and (known := self._by_key(key)) is not None:
            return Job(self, str(known))
        request = Request(
            listed=sources.listed(source), name=name, model=model, top_k=top_k, priority=priority, key=key
        )
        if key is not None and (known := self._by_key(key)) is not None:
            return self._same(known, request)
        self._check_source(request.listed.source, whole=request.listed.files is None)
        job_id, new = self._add_job(request)
        if not new:
            return Job(self, str(job_id)) if reuse else self._same(job_id, request)
        self._notify("scan", job_id)
        return Job(self, str(job_id))

    def _by_key(self, key: str) -> int | None:
        with self.database.read() as connection:
            return jobs.by_key(connection, key)

    def _same(self, job_id: int, request: Request) -> Job:
        """The job that has the request's key. Raises KeyInUse if it is another request."""
        with self.database.read() as connection:
            differences = list(request.differences(connection, job_id))
        if differences:
            raise KeyInUse(str(request.key), str(job_id), differences)
        return Job(self, str(job_id))

    def _check_source(self, canonical: str, *, whole: bool) -> None:
        """Raises unless the source can be opened and, as a whole, has images."""
        with sources.open_source(
            canonical, roots=self.settings.roots, max_file_bytes=self.settings.max_file_bytes
        ) as source:
            if whole and not sources.has_images(source):
                raise SourceEmpty(
                    f"{redacted(canonical)} has no images: {sources.what_it_has(source)}; check the folder"
                )

    def _add_job(self, request: Request) -> tuple[int, bool]:
        """The id of a new job, or of the one that has got the key meanwhile; and whether it is new."""
        try:
            with self.database.write() as connection:
                version = model_registry.usable(connection, request.model)
                job_id = jobs.add(connection, {**request.row, "version_id": version.id})
                request.store_files(connection, job_id)
                return job_id, True
        except IntegrityError:
            known = self._by_key(request.key) if request.key else None
            if known is None:
                raise
            return known, False

    def _notify(self, work: Literal["scan", "train"], number: int) -> None:
        if self.settings.embedded:
            wake(self.settings.home)
            return
        from jobs.notifier import Notifier  # Celery is slow to load, and most commands send no message

        if self._notifier is None:
            self._notifier = Notifier(self.settings)
        self._notifier.notify({"scan": SCAN_JOB, "train": TRAIN_MODEL}[work], number)

    def job(self, id: str) -> Job:
        """The job with this id. Raises JobNotFound."""
        job = Job(self, str(id))
        job.status()
        return job

    def jobs(self, *, state: str | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Statuses of jobs, newest first."""
        before: int | None = None
        left = limit if limit is not None else -1
        while left != 0:
            size = PAGE if left < 0 else min(PAGE, left)
            with self.database.read() as connection:
                rows = jobs.page(connection, before=before, state=state, limit=size)
            yield from (records.status(row) for row in rows)
            if len(rows) < size:
                return
            before, left = rows[-1].id, left - len(rows)

    def delete(self, job: str | Job) -> None:
        """Delete an ended job, its images, and the predictions that no other job refers to. Raises NotPossible if it
        runs."""
        status = self.job(_text(job)).status()
        if not housekeeping.delete(self.database, self._id(job)):
            raise NotPossible(f"job {status['id']} is {status['state']}: cancel it first")

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
        """Delete jobs that ended longer ago, and predictions no job refers to; returns how many of each.

        `dry_run` deletes nothing and returns how many there are now.
        """
        act = housekeeping.would_prune if dry_run else housekeeping.prune
        return act(self.database, older_than)

    def _id(self, job: str | Job) -> int:
        text = _text(job)
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise JobNotFound(f"no job {text!r}; `cars jobs` lists them")
        return int(text)

    # -- results -----------------------------------------------------------------------------------------------------

    def results(
        self,
        job: str | Job | None = None,
        *,
        top_k: int | None = None,
        sort: Literal["confidence", "path", "time"] | None = None,
        reverse: bool = False,
        limit: int | None = None,
        **filters: Any,
    ) -> Results:
        """Results, of one job or of all, streamed in the order of job and path.

        Filters: label, make, model, body, year, decision, min_confidence, max_confidence, listing, since, until,
        version (the model version), status. Names may be written in any case, but for a listing's. Times are ISO 8601
        text, `today`, `yesterday`, an age such as `2d`, dates or datetimes (UTC unless they say otherwise).

        `sort`: the surest, the newest or the first path comes first; `reverse` turns it round; `limit`: at most so
        many. Raises JobNotFound, SettingsInvalid, and LabelNotFound or VersionNotFound for a name that nothing has.
        """
        for name, value in (("top_k", top_k), ("limit", limit)):
            if value is not None and value < 1:
                raise SettingsInvalid(f"{name} must be at least 1, not {value}")
        order = checked_order(sort)
        job_id = None
        if job is not None:
            job_id = self._id(job)
            self.job(_text(job))
        wanted = make_filter(self.database, job_id, **filters)
        return Results(self.database, wanted, top_k=top_k, order=order, reverse=reverse, limit=limit)

    def errors(self, job: str | Job) -> Iterator[dict[str, str]]:
        """The job's failed images: job, path, code, message."""
        job_id = self._id(job)
        self.job(_text(job))
        after = -1
        while True:
            with self.database.read() as connection:
                rows = results.errors(connection, job_id, after=after, limit=PAGE)
            yield from (records.failure(row, job_id) for row in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1].ordinal

    # -- model versions ----------------------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """The registered model versions, newest first."""
        return model_registry.listing(self.database)

    def model(self, name: str = "production") -> dict[str, Any]:
        """A version's card with its registry fields. Raises VersionNotFound."""
        return model_registry.describe(self.database, name)

    def promote(self, name: str) -> None:
        """Make a version production for the jobs submitted from now on. Raises VersionNotFound, NotPossible."""
        model_registry.promote(self.database, name)

    def retire(self, name: str, *, undo: bool = False) -> None:
        """Take a version out of use for new jobs; `undo` brings it back. Raises VersionNotFound, NotPossible."""
        model_registry.retire(self.database, name, undo=undo)

    def rollback(self) -> str:
        """Go back to the version that was production before; returns its name. Raises NotPossible."""
        return model_registry.rollback(self.database)

    def history(self) -> list[dict[str, Any]]:
        """Which version was live from when until when, oldest first."""
        return model_registry.history(self.database)

    # -- training ----------------------------------------------------------------------------------------------------

    def train(
        self,
        dataset: str | os.PathLike[str],
        *,
        recipe: Literal["original", "scratch", "finetune", "distill"] = "finetune",
        init: str | None = None,
        teacher: str | None = None,
        epochs: int | None = None,
        min_gain: float = 0.0,
        force: bool = False,
        promote: bool = True,
        min_photos: int | None = None,
        other: str | os.PathLike[str] | None = None,
        seed: int = 0,
        plan: Mapping[str, Any] | None = None,
    ) -> Training:
        """Enqueue a training run on labelled photos and return it at once; a worker of the queue `train` takes it.

        `init`: what it starts from: a version's name, `imagenet`, `scratch` or a .safetensors file; by default
        production for `finetune` and `distill`, `imagenet` for `original`. `teacher`: what `distill` learns from, a
        version's name or an .onnx file with its JSON beside it. What comes out is judged on the data's holdout beside
        the version in production, and goes live if its top-1 is higher, by `min_gain` (a share) at least; else it is
        kept as `rejected`. `force` lets it go live whatever it is worth; without `promote` it never does. Classes with
        fewer than `min_photos` different photos to learn from are left out, which the run notes; without it, one that
        is too small to split is an error. `other`: a folder of photos that show no car, with a labels.csv (file, what,
        split), which `unknown` is fitted to. `plan` replaces fields of the recipe's plan.

        Raises SettingsInvalid, SourceMissing, SourceNotAllowed, VersionNotFound or NotPossible; what is wrong with the
        photos themselves is the `error` of the run.
        """
        options = {"force": force, "promote": promote, "min_photos": min_photos, "seed": seed}
        run = training_run.enqueue(
            self,
            dataset,
            recipe=recipe,
            init=init,
            teacher=teacher,
            other=other,
            epochs=epochs,
            min_gain=min_gain,
            options={**options, "plan": dict(plan or {})},
        )
        self._notify("train", int(run.id))
        return run

    def training(self, id: str) -> Training:
        """The training run with this id. Raises RunNotFound."""
        run = Training(self, str(id))
        run.status()
        return run

    def trainings(self, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Statuses of training runs, newest first."""
        return training_run.listing(self, limit=limit)

    def label(self, image: str, label: str, *, new_class: bool = False) -> dict[str, Any]:
        """Say what is on a photo, `JOB:PATH` or a file, for the next training; returns the correction.

        The photo's bytes are kept. Raises NotPossible for a class that no version knows unless it is a `new_class`,
        JobNotFound, ImageNotFound or SourceError.
        """
        return corrections.label(self, image, label, new_class=new_class)

    def labels(self) -> Iterator[dict[str, Any]]:
        """All corrections: content_hash, label, job, path, created_at."""
        return corrections.listing(self)

    def import_labels(self, file: str | os.PathLike[str], *, new_class: bool = False) -> int:
        """Take corrections from a CSV with `label` and `image` (or `job` and `path`); all of them or none. How many."""
        return corrections.import_file(self, Path(file), new_class=new_class)

    def export_labels(self, file: str | os.PathLike[str]) -> int:
        """Write all corrections to a CSV; how many."""
        return corrections.export_file(self, Path(file))

    # -- operations --------------------------------------------------------------------------------------------------

    def workers(self) -> list[dict[str, Any]]:
        """Workers that were seen in the last week; alive when their heartbeat is under 15 s old."""
        with self.database.read() as connection:
            rows, work = workers.page(connection), workers.work(connection)
        return [records.worker(row, work=work.get(row.id, ()), alive_seconds=workers.ALIVE_SECONDS) for row in rows]

    def migrate(self) -> dict[str, str | None]:
        """Bring the database to this release's schema; see `jobs.db.migrate.migrate`."""
        if self._database is None:
            raise ClientClosed("this client is closed; make a new one")
        return migrate.migrate(self._database)

    def check(self) -> list[dict[str, Any]]:
        """What `cars doctor` shows: check, ok, detail, advice."""
        from jobs.doctor import checkup

        return checkup(self)


class Job:
    """One submission, by id; asks the database each time."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"Job(id={self.id!r})"

    def status(self) -> dict[str, Any]:
        """Where it stands, as one moment saw it. Raises JobNotFound."""
        with self._client.database.read() as connection:
            row = jobs.get(connection, self._client._id(self))
        if row is None:
            raise JobNotFound(f"no job {self.id!r}; `cars jobs` lists them")
        return records.status(row)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> dict[str, Any]:
        """Wait until the job has ended; returns its status. `progress` draws a bar on stderr.

        What keeps the job from going on is a warning in the log (with `progress`: beside the bar), again every half
        minute; a database that is restarted is waited for. Raises WaitTimeout after `timeout` seconds, NoWorkerAlive
        when for a minute no worker is alive to do the work.
        """
        with brief_interrupt(f"job {self.id} goes on; wait for it again, or end it: cars cancel {self.id}"):
            return wait(self, self._client, timeout=timeout, progress=progress)

    def cancel(self) -> dict[str, Any]:
        """Stop the job; what is done is kept. A job that has ended stays as it is. Returns its status."""
        self.status()
        with self._client.database.write() as connection:
            jobs.cancel(connection, self._client._id(self))
        return self.status()

    def retry(self) -> dict[str, Any]:
        """Go on with whatever is not `ok`: failed and canceled images, a listing that was not finished; returns the
        status. Raises NotPossible while the job runs."""
        with self._client.database.write() as connection:
            again = jobs.retry(connection, self._client._id(self), batch_size=self._client.settings.batch_size)
        status = self.status()
        if again is None:
            raise NotPossible(f"job {self.id} is {status['state']}: wait for its end, or cancel it")
        if status["state"] == JobState.RUNNING:
            self._client._notify("scan", self._client._id(self))  # harmless where all is listed
        return status

    def skipped(self) -> list[dict[str, Any]]:
        """How many files of the source are no images, as far as it has been listed: job, suffix (None: files without
        one), files; the most first."""
        with self._client.database.read() as connection:
            row = jobs.get(connection, self._client._id(self))
        if row is None:
            raise JobNotFound(f"no job {self.id!r}; `cars jobs` lists them")
        return records.skipped(row)

    def delete(self) -> None:
        """Delete the job; see `Client.delete`."""
        self._client.delete(self)

    def results(self, **wanted: Any) -> Results:
        """The job's results; filters, order and limit as in `Client.results`."""
        return self._client.results(self, **wanted)

    def errors(self) -> Iterator[dict[str, str]]:
        """The job's failed images."""
        return self._client.errors(self)


def _text(job: str | Job) -> str:
    return job.id if isinstance(job, Job) else str(job)
