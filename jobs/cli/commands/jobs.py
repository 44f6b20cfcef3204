"""Commands about jobs: submit, jobs, status, wait, cancel, retry, delete, prune."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import FormatOption, RecordFormatOption, error, notice, print_record, print_rows
from jobs.cli.output.progress import follow_job, summary
from jobs.cli.output.table import Column, moment, plain, times
from jobs.durations import readable, span
from jobs.errors import KeyInUse, WaitTimeout
from jobs.obstacles import Obstacles
from jobs.records import JobStatus
from jobs.states import JobState, Priority
from jobs.workers import why_nobody_classifies

if TYPE_CHECKING:
    from jobs.cli.context import CommandClient

__all__ = [
    "DepthOption",
    "ManifestOption",
    "NotifyOption",
    "SourceArgument",
    "StrictOption",
    "TimeoutOption",
    "cancel",
    "delete",
    "finish",
    "list_jobs",
    "patience",
    "prune",
    "retry",
    "say_if_nobody_works",
    "source_of",
    "status",
    "submit",
    "wait",
]

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="FOLDER | IMAGE ...", help="A folder of images: a path, or a URL such as s3://bucket/photos; or images."
    ),
]
TimeoutOption = Annotated[
    str | None, typer.Option(metavar="SPAN", help="Give up, with exit code 1, after 30s, 15m, 2h, …; default: never.")
]
NotifyOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Is told when the job has ended; CARS_NOTIFY_HOSTS must have its host."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit 3 when some images failed.")]

DepthOption = Annotated[
    int | None,
    typer.Option(
        "--listing-depth", min=0, max=10, metavar="N", help="The first N folders of a path name its listing; default 1."
    ),
]
ManifestOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="A CSV in FOLDER (path relative to it) with columns listing,path: only what it lists."
    ),
]

_STATE_STYLES = {
    JobState.COMPLETED: "green",
    JobState.COMPLETED_WITH_ERRORS: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELED: "dim",
}


def _progress(status: JobStatus) -> str:
    return f"{status.done:,}/{status.total:,}"


def _count(name: str) -> Column[JobStatus]:
    return Column(name, show=lambda status: f"{count:,}" if (count := getattr(status, name)) else "", right=True)


_ROWS: tuple[Column[JobStatus], ...] = (
    Column("id"),
    Column("name", shrinks="to start"),
    Column("state", style=lambda status: _STATE_STYLES.get(status.state, "")),
    Column("done", show=_progress, right=True),
    _count("failed"),
    _count("skipped"),
    Column("created", show=moment("created_at")),
    Column("source", shrinks="to end"),
)

_RECORD: tuple[Column[JobStatus], ...] = (
    *(Column(name) for name in ("id", "name", "state", "waiting", "error", "source", "model_version")),
    Column("done", show=_progress),
    *map(_count, ("ok", "failed", "canceled", "cached", "unchanged", "skipped")),
    Column("rate", show=lambda status: f"{rate:.3g} images/s" if (rate := status.images_per_second) else ""),
    Column("left", show=lambda status: readable(status.eta_seconds) if status.eta_seconds else ""),
    *times("created", "started", "finished"),
    Column("notified"),
)


def submit(
    ctx: typer.Context,
    folder: SourceArgument,
    name: Annotated[str | None, typer.Option(help="A name to recognise the job by.")] = None,
    model: Annotated[str | None, typer.Option(metavar="VERSION", help="Model version; default: production.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels each result names.")] = 5,
    priority: Annotated[Priority, typer.Option(help="Which jobs come first.")] = Priority.NORMAL,
    key: Annotated[str | None, typer.Option(help="Submitting the same key again gives the same job.")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="The job of the key, be it another request.")] = False,
    notify: NotifyOption = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Read only what has changed since the last run of this folder.")
    ] = False,
    accept_shrink: Annotated[
        bool, typer.Option("--accept-shrink", help="Accept that the folder has less than half as many images as then.")
    ] = False,
    listing_depth: DepthOption = None,
    manifest: ManifestOption = None,
) -> None:
    """Submit a folder of images (or single images) as a job and print its id."""
    with dependencies(ctx).client() as client:

        def enqueue(*, reuse: bool = False) -> str:
            return client.submit(
                source_of(folder),
                name=name,
                model=model,
                top_k=top_k,
                priority=priority.value,
                key=key,
                reuse=reuse,
                notify=notify,
                incremental=incremental,
                accept_shrink=accept_shrink,
                listing_depth=listing_depth,
                manifest=manifest,
            ).id

        try:
            job_id = enqueue()
        except KeyInUse as exc:
            if not reuse:
                raise
            notice(f"job {exc.job} had the key {key!r} before, and is another request: {exc.differences}")
            job_id = enqueue(reuse=True)
        typer.echo(job_id)
        say_if_nobody_works(client)


def say_if_nobody_works(client: "CommandClient") -> None:
    """Tell the person if a job that was just submitted waits for a worker to be started."""
    if words := why_nobody_classifies(client.workers()):
        notice(words)


def source_of(given: list[str]) -> str | list[str]:
    """Return what `Client.submit` takes for the arguments of a command."""
    return given[0] if len(given) == 1 else given


def list_jobs(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    form: FormatOption = None,
) -> None:
    """List jobs, newest first."""
    with dependencies(ctx).client() as client:
        count = print_rows(client.jobs(state=state.value if state else None, limit=limit), _ROWS, form)
    if not count:
        notice("no such jobs" if state else "no jobs yet; make one: cars submit FOLDER")


def status(ctx: typer.Context, job: JobArgument, form: RecordFormatOption = None) -> None:
    """Show how far a job is."""
    with dependencies(ctx).client() as client:
        print_record(client.job(job).status(), form, columns=_RECORD)


def wait(
    ctx: typer.Context,
    job: JobArgument,
    timeout: TimeoutOption = None,
    strict: StrictOption = False,
) -> None:
    """Wait for a job to end, with its progress; exits 1 when it failed or was canceled."""
    limit = patience(timeout)
    with dependencies(ctx).client() as client:
        waited = client.job(job)
        try:
            ended = follow_job(waited, watch=Obstacles(client.settings, client.workers).look, timeout=limit)
        except (KeyboardInterrupt, WaitTimeout):
            notice(f"job {job} continues; wait for it again: cars wait {job}; end it: cars cancel {job}")
            raise
    finish(ended, strict=strict)


def cancel(ctx: typer.Context, job: JobArgument) -> None:
    """Cancel a job; results it has already are kept. Canceling again is harmless."""
    with dependencies(ctx).client() as client:
        ended = client.job(job).cancel()
    notice(f"job {job} {ended.state.replace('_', ' ')}: {ended.ok:,} of {ended.total:,} images have a result")


def retry(ctx: typer.Context, job: JobArgument) -> None:
    """Continue an ended job: whatever is not ok, failed and canceled images, and a listing that was not finished."""
    with dependencies(ctx).client() as client:
        before = client.job(job).status()
        after = client.job(job).retry()
        if after.state.terminal:
            notice(f"job {job}: every image is ok, there is nothing to try again")
            return
        counts = {"failed": before.failed, "canceled": before.canceled}
        again = [f"{count:,} {name} images" for name, count in counts.items() if count]
        what = " and ".join(again) or "what was not listed yet"
        notice(f"job {job} continues with {what}; wait for it: cars wait {job}")
        say_if_nobody_works(client)


def delete(ctx: typer.Context, job: JobArgument) -> None:
    """Delete a job that has ended, with every prediction that no other job refers to."""
    with dependencies(ctx).client() as client:
        client.job(job).delete()
    notice(f"job {job} deleted")


def prune(
    ctx: typer.Context,
    older_than: Annotated[str, typer.Option(metavar="SPAN", help="Ended longer ago than this: 90d, 12h, 2w, …")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete jobs that ended long ago, with every prediction that no other job refers to."""
    age = _span(older_than, "--older-than")
    with dependencies(ctx).client() as client:
        gone = client.prune(age, dry_run=dry_run)
    act = "would delete" if dry_run else "deleted"
    notice(f"{act} {gone['jobs']:,} jobs and {gone['predictions']:,} predictions")


def finish(ended: JobStatus, *, strict: bool) -> None:
    """Say how a job ended and, unless all is well, exit with the code for it."""
    notice(summary(ended))
    if skipped := ended.skipped:
        files = "1 file that is not an image was" if skipped == 1 else f"{skipped:,} files that are not images were"
        notice(f"{files} left out; of which kinds: cars errors {ended.id} --skipped")
    match ended.state:
        case JobState.FAILED:
            error(f"the job failed: {plain(ended.error)}")
            raise typer.Exit(1)
        case JobState.CANCELED:
            raise typer.Exit(1)
    if ended.failed:
        notice(f"why images failed: cars errors {ended.id}; to try them again: cars retry {ended.id}")
        if strict:
            raise typer.Exit(3)


def patience(timeout: str | None) -> timedelta | None:
    """Return the span that --timeout gives; a number alone is one of seconds."""
    if timeout is None:
        return None
    return _span(f"{timeout}s" if timeout.strip()[-1:].isdecimal() else timeout, "--timeout")


def _span(text: str, option: str) -> timedelta:
    try:
        return span(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc
