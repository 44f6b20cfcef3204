"""`cars classify`: a folder in, one row per image out, with a worker of its own where none is alive."""

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.commands.jobs import (
    DepthOption,
    ManifestOption,
    NotifyOption,
    SourceArgument,
    StrictOption,
    TimeoutOption,
    finish,
    patience,
    source_of,
)
from jobs.cli.commands.report import check_report, write_report
from jobs.cli.commands.results import OutputOption, check_output, present
from jobs.cli.context import LocalWorker, dependencies
from jobs.cli.output.formats import Format, FormatOption, notice
from jobs.cli.output.overview import show_overview
from jobs.cli.output.progress import follow_job
from jobs.cli.signals import Terminated, terminable
from jobs.errors import WaitTimeout, WorkerFailed
from jobs.obstacles import Obstacles
from jobs.states import JobState, NotificationState
from jobs.workers import anyone_classifies

if TYPE_CHECKING:
    from jobs.cli.context import CommandClient, JobHandle
    from jobs.records import JobStatus

__all__ = ["classify"]

_NOTIFY_PATIENCE = 12.0  # seconds: an attempt has ten
_NOTIFY_POLL = 0.1
_PATIENCE = 1.0  # seconds: an idle worker ends slowly by itself, and killing one loses nothing


def classify(
    ctx: typer.Context,
    folder: SourceArgument,
    top_k: Annotated[int | None, typer.Option(min=1, help="How many labels each result names; default 5.")] = None,
    model: Annotated[str | None, typer.Option(metavar="VERSION", help="Model version; default: production.")] = None,
    listing_depth: DepthOption = None,
    manifest: ManifestOption = None,
    timeout: TimeoutOption = None,
    notify: NotifyOption = None,
    strict: StrictOption = False,
    every: Annotated[bool, typer.Option("--all", help="Print every row on a terminal, too, not only 50.")] = False,
    output: OutputOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a report with charts and images, too.")
    ] = None,
    form: FormatOption = None,
) -> None:
    """Classify a folder of images (or single images) and print one row per image.

    Runs a worker of its own meanwhile when none is alive.
    """
    check_output(output, form)
    check_report(report, "--report")
    limit = patience(timeout)
    outside = dependencies(ctx)
    worker = outside.local_worker()
    with terminable(), outside.client() as client:
        try:
            job = client.submit(  # first: what is wrong with it is said at once
                source_of(folder),
                model=model,
                top_k=top_k or 5,
                listing_depth=listing_depth,
                manifest=manifest,
                notify=notify,
            )
            ended = _run(client, worker, job, timeout=limit)
            if notify and worker.running():
                _see_it_told(job)
            worker.dismiss()  # it takes seconds to end; meanwhile the results are printed
            if ended.state in (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS):
                if sys.stdout.isatty() and not (every or output) and form in (None, Format.TABLE):
                    show_overview(job, total=ended.total, top_k=top_k)
                else:
                    present(job.results(), output=output, form=form, top_k=top_k, one_job=True)
                if report:
                    write_report(job, report)
            finish(ended, strict=strict)
        finally:
            worker.stop(patience=_PATIENCE)


def _run(client: "CommandClient", worker: LocalWorker, job: "JobHandle", *, timeout: timedelta | None) -> "JobStatus":
    """See the job to its end; return its last status."""
    obstacles = Obstacles(client.settings, client.workers, starts_worker=True)

    def watch(status: "JobStatus") -> str | None:
        _see_to_work(client, worker)
        return obstacles.look(status)

    try:
        return follow_job(job, watch=watch, timeout=timeout)
    except (KeyboardInterrupt, Terminated, WorkerFailed, WaitTimeout):
        notice(
            f"job {job.id} is kept, with what is done; to continue: cars worker, then cars wait {job.id}; "
            f"end it: cars cancel {job.id}"
        )
        raise


def _see_it_told(job: "JobHandle") -> None:
    """Wait until the first attempt at notifying has been made: the local worker ends afterwards."""
    deadline = time.monotonic() + _NOTIFY_PATIENCE
    while job.status().notified == NotificationState.PENDING:
        if time.monotonic() > deadline:
            notice(f"nobody could be notified of job {job.id} yet; a worker tries again: cars worker")
            return
        time.sleep(_NOTIFY_POLL)


def _see_to_work(client: "CommandClient", worker: LocalWorker) -> None:
    """Start the local worker when no other is alive (any more); raise WorkerFailed when it has ended by itself."""
    if not worker.running() and not anyone_classifies(client.workers()):
        worker.start()
