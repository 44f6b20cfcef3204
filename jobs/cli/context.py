"""What commands need from outside: a client, a local worker, another program. A test hands in its own."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, Self

import typer

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path
    from typing import Unpack

    from jobs.listings import ListingFilters
    from jobs.metrics import Exposition
    from jobs.records import (
        CheckResult,
        Correction,
        Difference,
        FailedImage,
        ImportedCorrections,
        JobStatus,
        Json,
        Listing,
        ListingDetails,
        ModelVersion,
        Promotion,
        Result,
        Retagging,
        Schedule,
        ScheduleDetail,
        SharedContent,
        SkippedSuffix,
        TrainingStatus,
        WorkerStatus,
    )
    from jobs.report import Written
    from jobs.results import Page, ResultFilters
    from jobs.settings import Settings
    from jobs.summary import SummaryRow

__all__ = [
    "CommandClient",
    "Dependencies",
    "JobHandle",
    "LocalWorker",
    "ResultStream",
    "RunHandle",
    "ScheduleCommands",
    "dependencies",
]


class ResultStream(Protocol):
    """What commands need of `jobs.results.Results`."""

    def __iter__(self) -> Iterator[Result]: ...

    @property
    def paged(self) -> bool:
        """Whether it can be read a page at a time."""

    def page(self, after: str | None = None, *, limit: int = 100) -> Page:
        """Return the next results after a cursor."""

    def count(self) -> int:
        """Return how many there are."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the images."""

    def write(self, path: str | Path) -> int:
        """Write a file; return the number of rows."""


class VerdictStream(Protocol):
    """What commands need of `jobs.listings.Verdicts`."""

    def __iter__(self) -> Iterator[Listing]: ...

    def write(self, path: str | Path) -> int:
        """Write a file; return the number of rows."""


class ListingsHandle(Protocol):
    """What commands need of `jobs.listings.Listings`."""

    def find(self, job: str | None = None, **wanted: Unpack[ListingFilters]) -> VerdictStream:
        """Return verdicts."""

    def get(self, listing: str) -> ListingDetails:
        """Return one with its images."""

    def duplicates(self, job: str) -> Iterator[SharedContent]:
        """Yield contents of several listings."""


class CorrectionsHandle(Protocol):
    """What commands need of `jobs.corrections.Corrections`."""

    def remove(self, image: str) -> Correction:
        """Remove the correction of an image."""

    def import_file(
        self, file: Path, *, new_class: bool = False, skip_bad: bool = False, author: str | None = None
    ) -> ImportedCorrections:
        """Take the corrections of a CSV."""


class JobHandle(Protocol):
    """What commands need of `jobs.job.Job`."""

    id: str

    def status(self) -> JobStatus:
        """Return how far it is."""

    def cancel(self) -> JobStatus:
        """Stop it."""

    def retry(self) -> JobStatus:
        """Continue with what is not `ok`."""

    def skipped(self) -> Sequence[SkippedSuffix]:
        """List what was left out."""

    def delete(self) -> None:
        """Delete it."""

    def results(self, **wanted: Unpack[ResultFilters]) -> ResultStream:
        """Return its results."""

    def report(self, path: Path, *, images: int) -> Written:
        """Write its report; return what is in it."""


class RunHandle(Protocol):
    """What commands need of `jobs.training_run.TrainingRun`."""

    id: str

    def status(self) -> TrainingStatus:
        """Return how far it is."""

    def cancel(self) -> TrainingStatus:
        """Stop it."""


class JobClient(Protocol):
    """What the commands about jobs, results and workers need of `jobs.client.Client`."""

    settings: Settings

    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc: object) -> None: ...

    def submit(
        self,
        source: str | list[str],
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
    ) -> JobHandle:
        """Enqueue a job."""

    def job(self, id: str) -> JobHandle:
        """Return the job with this id."""

    def jobs(self, *, state: str | None = None, limit: int | None = None) -> Iterator[JobStatus]:
        """Yield the statuses of jobs."""

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
        """Delete old jobs."""

    def summary(
        self, job: str | None = None, *, by: str | None = None, since: str | None = None, limit: int | None = None
    ) -> Sequence[SummaryRow]:
        """Sum up finished images."""

    def results(self, job: str | None = None, **wanted: Unpack[ResultFilters]) -> ResultStream:
        """Return the results of one job or of all."""

    @property
    def listings(self) -> ListingsHandle:
        """The verdicts on listings."""

    def errors(self, job: str) -> Iterator[FailedImage]:
        """Yield the job's failed images."""

    def retag(
        self,
        job: str | None = None,
        *,
        stale: bool = False,
        model: str | None = None,
        trial: bool = False,
        dry_run: bool = False,
    ) -> list[Retagging]:
        """Tag sources again."""

    def diff(self, job: str, before: str, after: str) -> Iterator[Difference]:
        """Yield what two versions say differently."""

    def workers(self) -> list[WorkerStatus]:
        """List the workers."""


class ModelClient(Protocol):
    """What the commands about models and operations need of `jobs.client.Client`."""

    def models(self) -> list[ModelVersion]:
        """List the versions."""

    def model_card(self, name: str = "production") -> Json:
        """Return a version's card."""

    def promote(self, name: str) -> None:
        """Make a version production."""

    def retire(self, name: str, *, undo: bool = False) -> None:
        """Take a version out of use."""

    def rollback(self) -> str:
        """Go back to the version before."""

    def history(self) -> list[Promotion]:
        """List the promotions."""

    def metrics(self) -> Exposition:
        """Return what monitoring reads."""

    def migrate(self, *, report: Callable[[int, int], None] | None = None) -> dict[str, str | None]:
        """Bring the database to this release's schema."""

    def check(self) -> list[CheckResult]:
        """Run the checks of `cars doctor`."""


class TrainingClient(Protocol):
    """What the commands about training and corrections need of `jobs.client.Client`."""

    def train(
        self,
        dataset: str,
        *,
        recipe: Literal["original", "scratch", "finetune", "distill"] = "finetune",
        init: str | None = None,
        teacher: str | None = None,
        epochs: int | None = None,
        min_gain: float = 0.0,
        force: bool = False,
        promote: bool = True,
        min_photos: int | None = None,
        other: str | None = None,
        seed: int = 0,
    ) -> RunHandle:
        """Enqueue a training run."""

    def training(self, id: str) -> RunHandle:
        """Return the training run with this id."""

    def trainings(self, *, limit: int | None = None) -> Iterator[TrainingStatus]:
        """Yield the statuses of training runs."""

    @property
    def corrections(self) -> CorrectionsHandle:
        """What people say that images show."""

    def label(self, image: str, label: str, *, new_class: bool = False, author: str | None = None) -> Correction:
        """Correct an image."""

    def export_labels(self, file: Path) -> int:
        """Write all corrections to a CSV."""


class ScheduleCommands(Protocol):
    """What the commands about schedules need of `jobs.schedules.Schedules`."""

    def add(
        self,
        name: str,
        source: str,
        *,
        cron: str | None = None,
        timezone: str | None = None,
        every: str | None = None,
        replace: bool = False,
        keep: int | None = None,
        model: str | None = None,
        top_k: int = 5,
        priority: Literal["low", "normal", "high"] = "normal",
        listing_depth: int | None = None,
        manifest: str | None = None,
        notify: str | None = None,
    ) -> Schedule:
        """Add or change a schedule."""

    def list(self) -> Sequence[Schedule]:
        """List the schedules."""

    def show(self, name: str) -> ScheduleDetail:
        """Return a schedule with its ledger."""

    def pause(self, name: str) -> Schedule:
        """Let nothing become due."""

    def resume(self, name: str) -> Schedule:
        """Undo `pause`."""

    def run(self, name: str, *, accept_shrink: bool = False) -> JobHandle:
        """Make a job now."""

    def remove(self, name: str) -> None:
        """Delete a schedule."""


class ScheduleClient(Protocol):
    """What the commands about schedules need of `jobs.client.Client`."""

    @property
    def schedules(self) -> ScheduleCommands:
        """The operations on schedules."""


class CommandClient(JobClient, ModelClient, TrainingClient, ScheduleClient, Protocol):
    """What commands need of `jobs.client.Client`; a test's fake has the same shape, which mypy checks."""


class LocalWorker(Protocol):
    """A worker that lives as long as one command."""

    def start(self) -> None:
        """Start it and return at once; raise WorkerFailed where it cannot run on this machine."""

    def running(self) -> bool:
        """Return whether it runs; raise WorkerFailed, with the end of its log, when it has ended by itself."""

    def dismiss(self) -> None:
        """Ask it to end and return at once; harmless when it does not run."""

    def stop(self, *, patience: float) -> None:
        """Ask it to end, wait, kill it after `patience` seconds; harmless when it does not run."""


def _client() -> CommandClient:
    from jobs.client import Client

    client = Client()
    gc.freeze()  # what is loaded by now stays
    gc.enable()
    return client


def _local_worker() -> LocalWorker:
    from jobs.cli.local_worker import WorkerProcess

    return WorkerProcess()


def _training_worker() -> LocalWorker:
    from jobs.cli.local_worker import WorkerProcess
    from jobs.requirements import require_training_packages

    return WorkerProcess("--queues", "train", require=require_training_packages)


def _become(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -P -m workers ARGUMENTS`, so that signals reach the worker directly."""
    sys.stdout.flush()
    sys.stderr.flush()
    if arguments[:1] == ["worker"]:  # which takes them up as soon as it can, and then ends with 0
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *arguments])  # noqa: S606


def _ask(arguments: Sequence[str]) -> Json:
    """Run `python -P -m workers ARGUMENTS` and return the JSON object that it prints; its errors end this command."""
    done = subprocess.run([sys.executable, "-P", "-m", "workers", *arguments], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode > 0 else 128 - done.returncode)
    answer: Json = json.loads(done.stdout)
    return answer


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What commands need from outside; the defaults are the real ones."""

    client: Callable[[], CommandClient] = _client
    local_worker: Callable[[], LocalWorker] = _local_worker
    training_worker: Callable[[], LocalWorker] = _training_worker
    become: Callable[[Sequence[str]], object] = _become
    ask: Callable[[Sequence[str]], Json] = _ask


def dependencies(ctx: typer.Context) -> Dependencies:
    """Return what the root command has put into the context."""
    found = ctx.find_object(Dependencies)
    if found is None:
        raise RuntimeError("the root callback has not run")
    return found
