"""Commands about what came out: results, errors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.output import Format, FormatOption, notice, print_rows
from jobs.cli.session import session
from jobs.cli.table import Column, Row, percent
from jobs.disk import check_writable
from jobs.errors import OutputError
from jobs.spans import moment_or_age
from jobs.status import Decision, ImageStatus

if TYPE_CHECKING:
    from jobs.results import Results

__all__ = ["OutputOption", "check_output", "errors", "present", "results"]

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE.parquet, .csv, .jsonl or .json instead."),
]
_ENDINGS = (".parquet", ".csv", ".jsonl", ".json")
_STYLES = {Decision.MODEL: "green", Decision.MAKE: "yellow", Decision.UNKNOWN: "dim"}


def _others(row: Row) -> str:
    return ", ".join(f"{top['label']} {top['confidence']:.0%}" for top in (row["top"] or [])[1:])


def _trouble(row: Row) -> str:
    if row["error"]:
        return f"{row['error']['code']}: {row['error']['message']}"
    return "" if row["status"] == ImageStatus.OK else str(row["status"])


_FINDINGS = (
    Column("path", shrinks="to end"),
    Column("label"),
    Column("confidence", show=percent("confidence"), right=True),
    Column("decision", style=lambda row: _STYLES.get(row["decision"], "")),
)
_OTHERS = Column("also_possible", show=_others, shrinks="to start", style=lambda _: "dim")
_TROUBLE = Column("trouble", show=_trouble, shrinks="to start", style=lambda _: "red")
_ERRORS = (Column("path", shrinks="to end"), Column("code", style=lambda _: "red"), Column("message"))


def results(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this job's.", show_default=False)] = None,
    label: Annotated[str | None, typer.Option(help="Class, such as 'Acura TL Sedan 2012'.")] = None,
    make: Annotated[str | None, typer.Option(help="Make, such as BMW.")] = None,
    car_model: Annotated[str | None, typer.Option(help="Model of car, such as 'TL'.")] = None,
    body: Annotated[str | None, typer.Option(help="Body, such as Sedan.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of the model.")] = None,
    decision: Annotated[Decision | None, typer.Option(help="How far the label is trusted.")] = None,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At least this sure.")] = None,
    max_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At most this sure.")] = None,
    listing: Annotated[str | None, typer.Option(help="Images of this listing (a subfolder of the source).")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Not before: 2026-01-31, or an age: 7d.")] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before: 2026-01-31, or an age: 7d.")] = None,
    version: Annotated[str | None, typer.Option(help="By this model version.")] = None,
    status: Annotated[ImageStatus | None, typer.Option(help="Images with this status.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="How many labels a result names.")] = None,
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Show results, one row an image, of one job or of all."""
    check_output(output, form)
    filters: dict[str, Any] = {
        "label": label, "make": make, "model": car_model, "body": body, "year": year,
        "decision": decision and decision.value, "min_confidence": min_confidence, "max_confidence": max_confidence,
        "listing": listing, "since": _moment(since, "--since"), "until": _moment(until, "--until"),
        "version": version, "status": status and status.value,
    }  # fmt: skip
    with session(ctx).client() as client:
        present(
            client.results(job, top_k=top_k, **filters), output=output, form=form, top_k=top_k, one_job=job is not None
        )


def errors(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    form: FormatOption = None,
) -> None:
    """Show the images of a job that failed, and why."""
    with session(ctx).client() as client:
        if not print_rows(client.errors(job), _ERRORS, form):
            notice("no image of this job has failed")


def present(found: "Results", *, output: Path | None, form: Format | None, top_k: int | None, one_job: bool) -> None:
    """Print results to stdout, or write them to the file `output`."""
    if output:
        count = found.write(output)
        notice(f"{count:,} results written to {output}")
        return
    columns = [] if one_job else [Column("job")]
    columns += [*_FINDINGS, *([_OTHERS] if top_k and top_k > 1 else []), _TROUBLE]
    if not print_rows((result.to_dict() for result in found), columns, form):
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


def _moment(text: str | None, option: str) -> str | None:
    try:
        return moment_or_age(text) if text else None
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc
