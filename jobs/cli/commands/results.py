"""Commands about what came out: results, errors."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import Format, FormatOption, notice, print_rows
from jobs.cli.output.table import Column, moment, percent, plain
from jobs.disk import check_writable
from jobs.durations import moment_or_age
from jobs.errors import OutputError
from jobs.records import FailedImage, Result, SkippedSuffix
from jobs.states import Decision, ImageStatus, JobState, ResultOrder, SummaryKey

if TYPE_CHECKING:
    from jobs.cli.context import ResultStream
    from jobs.results import ResultFilters
    from jobs.summary import SummaryRow

__all__ = ["OutputOption", "check_output", "errors", "present", "results", "summary", "when"]

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE.parquet, .csv, .jsonl or .json instead."),
]
PAGE, MOST_PER_PAGE = 100, 10_000  # rows
_ENDINGS = (".parquet", ".csv", ".jsonl", ".json")
_STYLES: dict[str, str] = {Decision.MODEL: "green", Decision.MAKE: "yellow", Decision.UNKNOWN: "dim"}


def _label(result: Result) -> str:
    """The label if it is trusted; what is a guess of it has a question mark."""
    match result.decision:
        case Decision.MODEL:
            return str(result.label)
        case Decision.MAKE:
            rest = str(result.label).removeprefix(f"{result.make} ")
            return f"{result.make} ({rest}?)"
        case Decision.UNKNOWN:
            return f"{result.label}?"
    return ""


def _guess_from(result: Result) -> int | None:
    match result.decision:
        case Decision.MAKE:
            return len(result.make or "")
        case Decision.UNKNOWN:
            return 0
    return None


def _others(result: Result) -> str:
    return ", ".join(f"{top['label']} {top['confidence']:.0%}" for top in result.top[1:])


def _trouble(result: Result) -> str:
    if result.error:
        return f"{result.error.code}: {result.error.message}"
    return "" if result.status == ImageStatus.OK else result.status


_FINDINGS: tuple[Column[Result], ...] = (
    Column("path", shrinks="to end"),
    Column("decision", style=lambda result: _STYLES.get(result.decision or "", "")),
    Column("label", show=_label, dim_from=_guess_from),
    Column("confidence", show=percent("confidence"), right=True),
)
_FINISHED: Column[Result] = Column("finished", show=moment("finished_at"))
_OTHERS: Column[Result] = Column("also_possible", show=_others, shrinks="to start", style=lambda _: "dim")
_TROUBLE: Column[Result] = Column("trouble", show=_trouble, shrinks="to start", style=lambda _: "red")
_ERRORS: tuple[Column[FailedImage], ...] = (
    Column("path", shrinks="to end"), Column("code", style=lambda _: "red"), Column("message")
)  # fmt: skip
_SUMS: tuple[Column["SummaryRow"], ...] = (
    Column("images", show=lambda row: f"{row.images:,}", right=True),
    Column("ok", show=lambda row: f"{row.ok:,}", right=True),
    Column("failed", show=lambda row: f"{row.failed:,}", right=True),
    Column("mean_confidence", show=percent("mean_confidence"), right=True),
    Column("decided", show=percent("decided"), right=True),
)
_SKIPPED: tuple[Column[SkippedSuffix], ...] = (
    Column("suffix", show=lambda row: row.suffix or "(none)"),
    Column("files", show=lambda row: f"{row.files:,}", right=True),
)


def results(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this job's.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Class, such as 'Acura TL Sedan 2012'.")] = None,
    make: Annotated[str | None, typer.Option(help="Make, such as BMW.")] = None,
    car_model: Annotated[str | None, typer.Option(help="Model of car, such as 'TL'.")] = None,
    body: Annotated[str | None, typer.Option(help="Body, such as Sedan.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of the model.")] = None,
    decision: Annotated[
        Decision | None, typer.Option(case_sensitive=False, help="How far the label is trusted.")
    ] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At least this sure.")] = None,
    max_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At most this sure.")] = None,
    listing: Annotated[str | None, typer.Option(help="Images of this listing (a subfolder of the source).")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Not before: yesterday, 2026-01-31 (UTC), 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before: today, 2026-01-31 (UTC), 7d.")] = None,
    version: Annotated[str | None, typer.Option(help="By this model version.")] = None,
    status: Annotated[ImageStatus | None, typer.Option(case_sensitive=False, help="Images with this status.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="How many labels a result names.")] = None,
    sort: Annotated[ResultOrder | None, typer.Option(help="The surest, the first path or the newest first.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Those after the page that ended with this cursor.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Show results, one row per image, of one job or of all."""
    check_output(output, form)
    if after is not None and (output or count or (limit or 1) > MOST_PER_PAGE):
        raise typer.BadParameter(f"pages have at most {MOST_PER_PAGE:,} rows, go to stdout, and are not counted")
    filters: ResultFilters = {
        "label": label, "make": make, "model": car_model, "body": body, "year": year,
        "decision": decision and decision.value, "min_confidence": min_confidence, "max_confidence": max_confidence,
        "listing": listing, "since": when(since, "--since"), "until": when(until, "--until"),
        "version": version, "status": status and status.value,
        "top_k": top_k, "sort": sort.value if sort else None, "reverse": reverse, "limit": limit,
    }  # fmt: skip
    timed = sort == ResultOrder.TIME or since is not None or until is not None
    with dependencies(ctx).client() as client:
        found = client.results(job, **filters)
        if count:
            typer.echo(found.count())
            return
        if after is None and (output or limit is None or limit > MOST_PER_PAGE or not found.paged):
            present(found, output=output, form=form, top_k=top_k, one_job=job is not None, timed=timed)
            return
        page = found.page(after, limit=limit or PAGE)
    _show(page.results, form=form, top_k=top_k, one_job=job is not None, timed=timed)
    if page.next is not None:
        notice(f"there are more: the same command with --after {page.next}")


def summary(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this job's.", show_default=False)] = None,
    by: Annotated[SummaryKey | None, typer.Option(case_sensitive=False, help="A row for each value of this.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From this day (UTC) on: yesterday, 2026-01-31, 7d.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows (listings: 100).")] = None,
    form: FormatOption = None,
) -> None:
    """Sum up finished images, of one job or of all: how many, how sure the model is, and what share is decided."""
    since = when(since, "--since")
    with dependencies(ctx).client() as client:
        rows = client.summary(job, by=by and by.value, since=since, limit=limit)
    value: list[Column[SummaryRow]] = [Column(by.value, show=lambda row: plain(row.value))] if by else []
    if not print_rows(rows, [*value, *_SUMS], form):
        notice("no image is finished")


def errors(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Instead, how many files are not images, by suffix.")
    ] = False,
    form: FormatOption = None,
) -> None:
    """Show the images of a job that failed, and why; and what ended the job, if it did not come to its own end."""
    with dependencies(ctx).client() as client:
        status = client.job(job).status()
        if skipped:
            if not print_rows(client.job(job).skipped(), _SKIPPED, form):
                notice("no file of this job was left out")
            return
        if not print_rows(client.errors(job), _ERRORS, form):
            notice("no image of this job has failed")
    if status.state in (JobState.FAILED, JobState.CANCELED):
        why = f": {plain(status.error)}" if status.error else ""
        left = f"; {status.canceled:,} images have no result" if status.canceled else ""
        notice(f"the job {'failed' if status.state is JobState.FAILED else 'was canceled'}{why}{left}")
        notice(f"to continue it: cars retry {job}")


def present(
    found: "ResultStream",
    *,
    output: Path | None,
    form: Format | None,
    top_k: int | None,
    one_job: bool,
    timed: bool = False,
) -> None:
    """Print results to stdout, or write them to the file `output`; a table has their times if it is `timed`."""
    if output:
        count = found.write(output)
        notice(f"{count:,} results written to {output}")
        return
    _show(found, form=form, top_k=top_k, one_job=one_job, timed=timed)


def _show(rows: Iterable[Result], *, form: Format | None, top_k: int | None, one_job: bool, timed: bool) -> None:
    columns: list[Column[Result]] = [] if one_job else [Column("job")]
    columns += [*_FINDINGS, *([_FINISHED] if timed else []), *([_OTHERS] if top_k and top_k > 1 else []), _TROUBLE]
    if not print_rows(rows, columns, form):
        notice("no results")


def check_output(output: Path | None, form: Format | None) -> None:
    """Refuse, before any work, a file that could not be written at its end."""
    if output is None:
        return
    if form is not None:
        raise typer.BadParameter("give either --output, whose ending names the format, or --format")
    if output.suffix.lower() not in _ENDINGS:
        raise typer.BadParameter(f"{output}: the name must end in {', '.join(_ENDINGS)}", param_hint="--output")
    if wrong := check_writable(output.absolute().parent):
        raise OutputError(f"{output} cannot be written: {wrong}")


def when(text: str | None, option: str) -> str | None:
    """Return the time that an option names, as ISO 8601; refuse one that names none."""
    try:
        return moment_or_age(text) if text else None
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc
