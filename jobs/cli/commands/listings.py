"""Commands about listings: listings, listing, duplicates."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.commands.results import OutputOption, check_output, when
from jobs.cli.context import dependencies
from jobs.cli.output.formats import Format, FormatOption, RecordFormatOption, notice, print_record, print_rows
from jobs.cli.output.table import Column, moment, percent
from jobs.records import Listing, ListingDetails, Result, SharedContent
from jobs.states import Decision

if TYPE_CHECKING:
    from jobs.listings import ListingFilters

__all__ = ["duplicates", "list_listings", "listing"]

_STYLES: dict[str, str] = {Decision.MODEL: "green", Decision.MAKE: "yellow", Decision.UNKNOWN: "dim"}


def _label(row: Listing) -> str:
    return row.label or (f"{row.make} ({'?'})" if row.make else "")


def _counts(row: Listing) -> str:
    failed = f", {row.failed} failed" if row.failed else ""
    return f"{row.used}/{row.photos}{failed}{'' if row.complete else ', not complete'}"


def _shown(name: str, row: ListingDetails) -> str:
    value = getattr(row.verdict, name)
    return ("yes" if value else "") if isinstance(value, bool) else str(value or "")


def _of_verdict(name: str) -> Column[ListingDetails]:
    return Column(name, show=partial(_shown, name))


_JOB: Column[Listing] = Column("job")
_ROWS: tuple[Column[Listing], ...] = (
    Column("listing", shrinks="to end"),
    Column("decision", style=lambda row: _STYLES.get(row.decision, "")),
    Column("label", show=_label),
    Column("confidence", show=percent("confidence"), right=True),
    Column("agreement", show=percent("agreement"), right=True),
    Column("used", show=_counts, right=True),
    Column("conflict", show=lambda row: "conflict" if row.conflict else "", style=lambda _: "red"),
    Column("source", show=lambda row: row.source if row.source != "model" else ""),
)
_RECORD: tuple[Column[ListingDetails], ...] = (
    *(
        _of_verdict(name)
        for name in ("job", "listing", "label", "make", "decision", "conflict", "photo", "source", "model_version")
    ),
    Column("confidence", show=lambda row: percent("confidence")(row.verdict)),
    Column("agreement", show=lambda row: percent("agreement")(row.verdict)),
    Column("used", show=lambda row: _counts(row.verdict)),
    Column("best", show=lambda row: ", ".join(f"{top['label']} {top['confidence']:.1%}" for top in row.top)),
    Column("updated", show=lambda row: moment("updated_at")(row.verdict)),
)
_IMAGES: tuple[Column[Result], ...] = (
    Column("path", shrinks="to end"),
    Column("status"),
    Column("decision", style=lambda row: _STYLES.get(row.decision or "", "")),
    Column("label", show=lambda row: row.label or ""),
    Column("confidence", show=percent("confidence"), right=True),
    Column("correction"),
)
_SHARED: tuple[Column[SharedContent], ...] = (
    Column("listings", show=lambda row: ", ".join(row.listings)),
    Column("paths", show=lambda row: ", ".join(row.paths), shrinks="to start"),
)


def list_listings(
    ctx: typer.Context,
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Of this job; default: current runs.", show_default=False)
    ] = None,
    make: Annotated[str | None, typer.Option(help="Make that is sure, such as BMW.")] = None,
    label: Annotated[str | None, typer.Option(help="Class that is sure, such as 'Acura TL Sedan 2012'.")] = None,
    decision: Annotated[
        Decision | None, typer.Option(case_sensitive=False, help="How far the verdict is trusted.")
    ] = None,
    conflict: Annotated[bool, typer.Option("--conflict", help="Only those whose images show several cars.")] = False,
    needs_review: Annotated[
        bool, typer.Option("--needs-review", help="Only those that a person should look at, the most doubtful first.")
    ] = False,
    min_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At least this sure.")] = None,
    max_confidence: Annotated[float | None, typer.Option(min=0, max=1, help="At most this sure.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Verdicts given since: yesterday, 2026-01-31 (UTC), 7d.")
    ] = None,
    output: OutputOption = None,
    form: FormatOption = None,
) -> None:
    """Show the verdicts on listings, one row per listing, of one job or of the current run of each source."""
    check_output(output, form)
    filters: ListingFilters = {
        "make": make, "label": label, "decision": decision and decision.value, "conflict": conflict,
        "needs_review": needs_review, "min_confidence": min_confidence, "max_confidence": max_confidence,
        "since": when(since, "--since"),
    }  # fmt: skip
    with dependencies(ctx).client() as client:
        found = client.listings.find(job, **filters)
        if output:
            notice(f"{found.write(output):,} listings written to {output}")
        elif not print_rows(found, _ROWS if job else [_JOB, *_ROWS], form):
            notice("no listings")


def listing(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="JOB:NAME", help="A job and its listing, as in `cars listings`.")],
    form: RecordFormatOption = None,
) -> None:
    """Show the verdict on one listing, with its images."""
    with dependencies(ctx).client() as client:
        found = client.listings.get(name)
    print_record(found, form, columns=_RECORD)
    if form is Format.TABLE or (form is None and sys.stdout.isatty()):
        typer.echo()
        print_rows(found.images, _IMAGES, Format.TABLE)


def duplicates(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    form: FormatOption = None,
) -> None:
    """Show the images that occur, byte for byte, in several listings of a job."""
    with dependencies(ctx).client() as client:
        if not print_rows(client.listings.duplicates(job), _SHARED, form):
            notice("no image occurs in several listings")
