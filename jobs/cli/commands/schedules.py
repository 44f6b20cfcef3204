"""Commands about schedules: schedule add, list, show, pause, resume, run, remove."""

import sys
from typing import Annotated

import typer

from jobs.cli.commands.jobs import NotifyOption
from jobs.cli.context import dependencies
from jobs.cli.output.formats import Format, FormatOption, RecordFormatOption, notice, print_record, print_rows
from jobs.cli.output.groups import Group
from jobs.cli.output.table import Column, moment, times
from jobs.records import Fire, Schedule
from jobs.states import FireOutcome, Priority

__all__ = ["group"]

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.", show_default=False)]

group = typer.Typer(
    cls=Group,
    help="Classify a folder again and again: add, list, show, pause, resume, run, remove.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _when(schedule: Schedule) -> str:
    return f"every {schedule.every}" if schedule.every else f"{schedule.cron} {schedule.timezone}"


def _next(schedule: Schedule) -> str:
    return "paused" if schedule.paused else moment("next_at")(schedule) or "never"


_WHEN: Column[Schedule] = Column("when", show=_when)
_NEXT: Column[Schedule] = Column("next", show=_next)
_OUTCOME: Column[Schedule] = Column(
    "outcome", show=lambda row: row.last_outcome or "", style=lambda row: _style(row.last_outcome)
)
_ROWS: tuple[Column[Schedule], ...] = (
    Column("name"),
    _WHEN,
    _NEXT,
    Column("last", show=moment("last_at")),
    _OUTCOME,
    Column("job", show=lambda row: row.last_job or "", right=True),
    Column("reason", show=lambda row: row.last_reason or "", shrinks="to start"),
    Column("source", shrinks="to end"),
)
_RECORD: tuple[Column[Schedule], ...] = (Column("name"), Column("source"), _WHEN, _NEXT, *times("last"), _OUTCOME)
_LEDGER: tuple[Column[Fire], ...] = (
    Column("due", show=moment("due_at")),
    Column("outcome", style=lambda row: _style(row.outcome)),
    Column("job", show=lambda row: row.job or "", right=True),
    Column("reason", show=lambda row: row.reason or ""),
)


def _style(outcome: FireOutcome | None) -> str:
    return "yellow" if outcome is FireOutcome.SKIPPED else ""


@group.command("add")
def add(
    ctx: typer.Context,
    name: NameArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder: a path, or a URL such as s3://cars/new.")],
    cron: Annotated[str | None, typer.Option(help="When: minute, hour, day, month, day of week: '0 2 * * *'.")] = None,
    timezone: Annotated[str | None, typer.Option(help="What --cron goes by: Europe/Berlin, …; default: UTC.")] = None,
    every: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Instead of --cron: 15m, 6h, … from now on.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change the schedule of this name.")] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Delete older ended runs when one has succeeded; default: keep all.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="VERSION", help="Model version; default: production.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels each result names.")] = 5,
    priority: Annotated[Priority, typer.Option(help="Which jobs come first.")] = Priority.NORMAL,
    listing_depth: Annotated[
        int | None, typer.Option(min=0, max=10, help="How many folders of a path name its listing; default 1.")
    ] = None,
    manifest: Annotated[str | None, typer.Option(metavar="FILE", help="A CSV in the source that lists images.")] = None,
    notify: NotifyOption = None,
) -> None:
    """Let the workers classify a folder whenever it is due. Adding the same again changes nothing."""
    with dependencies(ctx).client() as client:
        added = client.schedules.add(
            name,
            source,
            cron=cron,
            timezone=timezone,
            every=every,
            replace=replace,
            keep=keep,
            model=model,
            top_k=top_k,
            priority=priority.value,
            listing_depth=listing_depth,
            manifest=manifest,
            notify=notify,
        )
    notice(f"schedule {name}: next {_next(added)}")


@group.command("list")
def list_schedules(ctx: typer.Context, form: FormatOption = None) -> None:
    """List the schedules, and what came of their newest due times."""
    with dependencies(ctx).client() as client:
        if not print_rows(client.schedules.list(), _ROWS, form):
            notice("no schedules yet; make one: cars schedule add NAME FOLDER --cron '0 2 * * *'")


@group.command("show")
def show(ctx: typer.Context, name: NameArgument, form: RecordFormatOption = None) -> None:
    """Show a schedule and its ledger: the newest 50 due times, and what came of each."""
    with dependencies(ctx).client() as client:
        shown = client.schedules.show(name)
    print_record(shown, form, columns=_RECORD)
    if (form or (Format.TABLE if sys.stdout.isatty() else None)) is Format.TABLE and shown.ledger:
        typer.echo()
        print_rows(shown.ledger, _LEDGER, Format.TABLE)


@group.command("pause")
def pause(ctx: typer.Context, name: NameArgument) -> None:
    """Let a schedule make no jobs for the time being; one that runs continues."""
    with dependencies(ctx).client() as client:
        client.schedules.pause(name)
    notice(f"schedule {name} is paused; to continue: cars schedule resume {name}")


@group.command("resume")
def resume(ctx: typer.Context, name: NameArgument) -> None:
    """Continue a paused schedule; of the due times in between, the newest fires."""
    with dependencies(ctx).client() as client:
        resumed = client.schedules.resume(name)
    notice(f"schedule {name}: next {_next(resumed)}")


@group.command("run")
def run(
    ctx: typer.Context,
    name: NameArgument,
    accept_shrink: Annotated[
        bool,
        typer.Option("--accept-shrink", help="Accept that the folder has less than half as many images as before."),
    ] = False,
) -> None:
    """Make a job of a schedule now, whatever is due, and print its id."""
    with dependencies(ctx).client() as client:
        typer.echo(client.schedules.run(name, accept_shrink=accept_shrink).id)


@group.command("remove")
def remove(ctx: typer.Context, name: NameArgument) -> None:
    """Remove a schedule and its ledger; its jobs stay."""
    with dependencies(ctx).client() as client:
        client.schedules.remove(name)
    notice(f"schedule {name} is removed; its jobs stay")
