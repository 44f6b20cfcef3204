"""The Python interface: `Client` submits jobs, trains, corrects and queries results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jobs import corrections, housekeeping, job, model_registry, results, retag, sources, training_run, workers
from jobs import settings as configuration
from jobs.backend import Backend
from jobs.corrections import Corrections
from jobs.db import migrate
from jobs.errors import SettingsInvalid
from jobs.job import Job
from jobs.listings import Listings
from jobs.records import RunOptions
from jobs.summary import summarize
from jobs.training_run import TrainingRun

if TYPE_CHECKING:
    from datetime import date, datetime
    from typing import Unpack

    from jobs import records
    from jobs.db.database import Database
    from jobs.metrics import Exposition
    from jobs.results import ResultFilters, Results
    from jobs.schedules import Schedules
    from jobs.settings import Settings
    from jobs.summary import SummaryRow

__all__ = ["Client"]


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
        self._backend = Backend(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; the client cannot be used any more."""
        self._backend.close()

    @property
    def database(self) -> Database:
        """The database, migrated if it is the embedded one, else checked (once per client)."""
        return self._backend.database

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
        notify: str | None = None,
        incremental: bool = False,
        accept_shrink: bool = False,
        listing_depth: int | None = None,
        manifest: str | None = None,
    ) -> Job:
        """Enqueue a folder (a local path or an fsspec URL), or local files, and return the job at once.

        `model` pins a model version (default: the one in production); `top_k` labels are in each result; the same
        `key` gives the same job, if it is the same request: else KeyInUse is raised, unless `reuse` takes the old job
        whatever it was. Of files, the source is the folder that they have in common. `notify`: a URL that is told when
        the job has ended; CARS_NOTIFY_HOSTS must have its host.

        An `incremental` job reads only what has changed since the newest run of this source that ended well; it fails
        if less than half as many images are found, unless that is to be accepted (`accept_shrink`).

        `listing_depth`: how many folders of an image's path name its listing (default 1, up to 10; 0: there are none).
        `manifest`: instead, the path, relative to the source, of a CSV with the columns `listing` and `path` (relative,
        too); only what it lists is classified then.

        Raises SourceMissing, SourceNotAllowed, SourceEmpty, VersionNotFound or SettingsInvalid.
        """

        def request() -> job.Request:
            listed = sources.listed(source)
            return job.Request(
                listed=listed,
                name=name,
                model=model,
                top_k=top_k,
                priority=priority,
                key=key,
                incremental=incremental,
                accept_shrink=accept_shrink,
                listing_depth=listing_depth,
                manifest=manifest,
                notify=notify,
            )

        return job.submit(self._backend, request, key=key, reuse=reuse)

    def job(self, id: str) -> Job:
        """Return the job with this id. Raises JobNotFound."""
        found = Job(self._backend, str(id))
        found.status()
        return found

    def jobs(self, *, state: str | None = None, limit: int | None = None) -> Iterator[records.JobStatus]:
        """Yield the statuses of jobs, newest first."""
        return job.listing(self._backend, state=state, limit=limit)

    def delete(self, job: str | Job) -> None:
        """Delete an ended job, its images, and the predictions that no other job refers to; see `Job.delete`."""
        self._handle(job).delete()

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
        """Delete jobs that ended longer ago, and predictions no job refers to; return the number of each.

        `dry_run` deletes nothing and returns how many there are now.
        """
        act = housekeeping.would_prune if dry_run else housekeeping.prune
        return act(self.database, older_than)

    def results(self, job: str | Job | None = None, **wanted: Unpack[ResultFilters]) -> Results:
        """Return the results of one job by path, or those of all jobs newest first, streamed.

        Filters: label, make, model, body, year, decision, min_confidence, max_confidence, listing, since, until,
        version (the model version), status. Names may be written in any case, but for a listing's. Times are ISO 8601
        text, `today`, `yesterday`, an age such as `2d`, dates or datetimes (UTC unless they say otherwise).

        `top_k`: how many labels each result has; `sort`: what has the highest `confidence`, the newest `time` or the
        first `path` comes first; `reverse` turns it round; `limit`: at most so many. Raises JobNotFound,
        SettingsInvalid, and LabelNotFound or VersionNotFound for a name that nothing has.
        """
        if job is not None:
            return self._handle(job).results(**wanted)
        return results.find(self._backend, None, **wanted)

    def retag(
        self,
        job: str | Job | None = None,
        *,
        stale: bool = False,
        model: str | None = None,
        trial: bool = False,
        dry_run: bool = False,
    ) -> list[records.Retagging]:
        """Tag the source of a job again with a model version (default: the one in production) by an incremental job, or
        every source whose current run is `stale`, of another version; return what was submitted.

        A `trial` is to be compared and never counts as the source's current run. `dry_run` submits nothing and counts
        the images whose content the version has not seen. With `stale`, a source that cannot be used is an `error` of
        its record. Raises JobNotFound, VersionNotFound, NotPossible, SourceError or SettingsInvalid.
        """
        number = None if job is None else self._handle(job).number
        return retag.retag(self._backend, number, stale=stale, model=model, trial=trial, dry_run=dry_run)

    def diff(self, job: str | Job, before: str, after: str) -> Iterator[records.Difference]:
        """Yield the images, then the listings, of an ended job of which two model versions differ in label or decision.

        Images are compared by content, listings by name between the runs of both versions.

        A version that is not the job's must have a run over the same source that has ended. Raises JobNotFound,
        VersionNotFound, SettingsInvalid, and NotPossible where there is no such run: see `retag`.
        """
        return retag.diff(self._backend, self._handle(job).number, (before, after))

    def summary(
        self,
        job: str | Job | None = None,
        *,
        by: str | None = None,
        since: str | date | datetime | None = None,
        limit: int | None = None,
    ) -> list[SummaryRow]:
        """Sum up the finished images of one job or of all, which costs the same with any number of them.

        `by` (make, model, body, year, decision, listing, day, version or code) gives a row for each value, the most
        frequent first; of listings, the first `limit` (100) by name. By `make` to `decision` it is the predicted images
        that are counted, by `code` the failed ones. `since` counts from the beginning of its day (UTC). Raises
        JobNotFound, and SettingsInvalid for another `by` and for a time in the future.
        """
        if job is not None:
            return self._handle(job).summary(by=by, since=since, limit=limit)
        return summarize(self._backend, None, by=by, since=since, limit=limit)

    def errors(self, job: str | Job) -> Iterator[records.FailedImage]:
        """Yield the job's failed images."""
        return self._handle(job).errors()

    def _handle(self, job: str | Job) -> Job:
        return job if isinstance(job, Job) else Job(self._backend, str(job))

    def models(self) -> list[records.ModelVersion]:
        """List the registered model versions, newest first."""
        return model_registry.listing(self.database)

    def model(self, name: str = "production") -> records.ModelVersion:
        """Return a version. Raises VersionNotFound."""
        return model_registry.find(self.database, name)

    def model_card(self, name: str = "production") -> records.Json:
        """Return a version's card with its registry fields. Raises VersionNotFound."""
        return model_registry.card(self.database, name)

    def promote(self, name: str) -> None:
        """Make a version production for the jobs submitted from now on. Raises VersionNotFound, NotPossible."""
        model_registry.promote(self.database, name)

    def retire(self, name: str, *, undo: bool = False) -> None:
        """Take a version out of use for new jobs; `undo` brings it back. Raises VersionNotFound, NotPossible."""
        model_registry.retire(self.database, name, undo=undo)

    def rollback(self) -> str:
        """Go back to the version that was production before; return its name. Raises NotPossible."""
        return model_registry.rollback(self.database)

    def history(self) -> list[records.Promotion]:
        """List which version was in production from when until when, oldest first."""
        return model_registry.history(self.database)

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
        plan: Mapping[str, Any] | None = None,  # fields of a recipe's plan, which `model` checks
    ) -> TrainingRun:
        """Enqueue a training run on labelled images and return it at once; a worker of the queue `train` takes it.

        `init`: what it starts from: a version's name, `imagenet`, `scratch` or a .safetensors file; by default
        production for `finetune` and `distill`, `imagenet` for `original`. `teacher`: what `distill` learns from, a
        version's name or an .onnx file with its JSON beside it. The new version is evaluated on the data's holdout
        beside the one in production, and promoted if its top-1 is higher, by `min_gain` (a fraction) at least; else it
        stays as `rejected`. `force` promotes it whatever it reaches; without `promote` it never is. Classes with fewer
        than `min_photos` different images to learn from are left out, which the run notes; without it, one that is too
        small to split is an error. `other`: a folder of images that show no car, with a labels.csv (file, what,
        split), which `unknown` is fitted to. `plan` replaces fields of the recipe's plan.

        Raises SettingsInvalid, SourceMissing, SourceNotAllowed, VersionNotFound or NotPossible; what is wrong with the
        images themselves is the `error` of the run.
        """
        options = RunOptions(
            min_gain=min_gain, force=force, promote=promote, min_photos=min_photos, seed=seed, plan=dict(plan or {})
        )
        return training_run.enqueue(
            self._backend,
            dataset,
            recipe=recipe,
            init=init,
            teacher=teacher,
            other=other,
            epochs=epochs,
            options=options,
        )

    def training(self, id: str) -> TrainingRun:
        """Return the training run with this id. Raises RunNotFound."""
        run = TrainingRun(self._backend, str(id))
        run.status()
        return run

    def trainings(self, *, limit: int | None = None) -> Iterator[records.TrainingStatus]:
        """Yield the statuses of training runs, newest first."""
        return training_run.listing(self._backend, limit=limit)

    @property
    def listings(self) -> Listings:
        """The verdicts on listings, the images of one car for sale."""
        return Listings(self._backend)

    @property
    def corrections(self) -> Corrections:
        """What people say that images show."""
        return Corrections(self._backend)

    def label(
        self, image: str, label: str, *, new_class: bool = False, author: str | None = None
    ) -> records.Correction:
        """Correct an image, `JOB:PATH` or a file, for the next training and for its listing; return the correction.

        The image's bytes are stored; `author` is the login name unless given. Raises NotPossible for a class that no
        version knows unless it is a `new_class`, JobNotFound, ImageNotFound or SourceError.
        """
        return corrections.add(self._backend, image, label, new_class=new_class, author=author)

    def labels(self) -> Iterator[records.Correction]:
        """Yield all corrections."""
        return corrections.listing(self._backend)

    def import_labels(self, file: str | os.PathLike[str], *, new_class: bool = False) -> int:
        """Take all corrections of a CSV, or none; return their number. See `Corrections.import_file`."""
        return corrections.import_file(self._backend, Path(file), new_class=new_class).taken

    def export_labels(self, file: str | os.PathLike[str]) -> int:
        """Write all corrections to a CSV; return their number."""
        return corrections.export_file(self._backend, Path(file))

    @property
    def schedules(self) -> Schedules:
        """Schedules: `add`, `list`, `show`, `pause`, `resume`, `run`, `remove`."""
        from jobs.schedules import Schedules  # its libraries are needed by nothing else

        return Schedules(self._backend)

    def workers(self) -> list[records.WorkerStatus]:
        """List the workers that were seen in the last week; alive when their heartbeat is under 15 s old."""
        return workers.listing(self._backend)

    def metrics(self) -> Exposition:
        """Return what monitoring reads: `text()` gives it in the format of Prometheus, with counters from now on."""
        from jobs.metrics import Exposition  # it loads prometheus_client

        return Exposition(self._backend)

    def migrate(self, *, report: Callable[[int, int], None] | None = None) -> dict[str, str | None]:
        """Bring the database to this release's schema; see `jobs.db.migrate.migrate`."""
        return migrate.migrate(self._backend.unprepared_database, report=report)

    def check(self) -> list[records.CheckResult]:
        """Run the checks of `cars doctor`."""
        from jobs.doctor import checkup  # it loads Celery

        return checkup(self._backend)
