"""Commands about what a new model version changes: retag, diff."""

from typing import Annotated

import typer

from jobs.cli.commands.jobs import say_if_nobody_works
from jobs.cli.context import dependencies
from jobs.cli.output.formats import Format, FormatOption, error, notice, print_rows
from jobs.cli.output.table import Column, plain
from jobs.records import Difference, Retagging, TagSaid

__all__ = ["diff", "retag"]

_RETAGGINGS: tuple[Column[Retagging], ...] = (
    Column("base"),
    Column("from", show=lambda row: row.before),
    Column("to", show=lambda row: row.after),
    Column("images", show=lambda row: f"{row.images:,}", right=True),
    Column("unseen", show=lambda row: f"{row.unseen:,}", right=True),
    Column("source", shrinks="to end"),
)


def _said(tag: TagSaid) -> str:
    label = tag.label or "-"
    return label if tag.confidence is None else f"{label} ({tag.decision}, {tag.confidence:.0%})"


_DIFFERENCES: tuple[Column[Difference], ...] = (
    Column("kind"),
    Column("what", show=lambda row: plain(row.path if row.kind == "image" else row.listing), shrinks="to end"),
    Column("from", show=lambda row: _said(row.before)),
    Column("to", show=lambda row: _said(row.after)),
    Column("photos", show=lambda row: "changed" if row.photos_changed else ""),
)


def retag(
    ctx: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Whose source to tag again.")] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Every source whose current run is of another version.")
    ] = False,
    model: Annotated[str | None, typer.Option(metavar="VERSION", help="Model version; default: production.")] = None,
    trial: Annotated[bool, typer.Option("--trial", help="Only to compare: never the source's current run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count the images whose content the version has not seen.")
    ] = False,
    form: FormatOption = None,
) -> None:
    """Tag a job's source, or every source, again with a model version, and print the jobs' ids."""
    if (job is None) is not stale:
        raise typer.BadParameter("give either a JOB or --stale", param_hint="JOB")
    with dependencies(ctx).client() as client:
        rows = client.retag(job, stale=stale, model=model, trial=trial, dry_run=dry_run)
        if dry_run:
            print_rows(rows, _RETAGGINGS, form)
            images, sources = sum(row.unseen for row in rows), len({row.source for row in rows})
            of = "1 source has" if sources == 1 else f"{sources:,} sources have"
            notice(f"{of} {images:,} images to be read; the version has seen the content of all others")
            return
        for row in rows:
            if row.job is not None:
                typer.echo(row.job)
        if not rows:
            notice("nothing to do: the current run of every source is of this version, or one is on its way")
        failed = [row for row in rows if row.error is not None]
        for row in failed:
            error(plain(row.error))
        if any(row.job for row in rows):
            say_if_nobody_works(client)
        if failed:
            raise typer.Exit(1)


def diff(
    ctx: typer.Context,
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="Whose images and listings to compare.", show_default=False)
    ],
    before: Annotated[str, typer.Argument(metavar="VERSION", help="What said the one.", show_default=False)],
    after: Annotated[str, typer.Argument(metavar="VERSION", help="What says the other.", show_default=False)],
    form: FormatOption = None,
) -> None:
    """Show the images and listings of a job of which two model versions say different things."""
    with dependencies(ctx).client() as client:
        found = client.diff(job, before, after)
        if form is Format.CSV:  # whose columns are those of the first row
            rows = ({**row.to_dict(), "photos_changed": row.photos_changed or None} for row in found)
            count = print_rows(rows, (), form)
        else:
            count = print_rows(found, _DIFFERENCES, form)
    notice("1 difference" if count == 1 else f"{count:,} differences")
