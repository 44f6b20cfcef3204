"""Commands that keep the system running: worker, beat, migrate, doctor."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import FormatOption, notice, print_rows
from jobs.cli.output.table import Column
from jobs.queues import QUEUES
from jobs.records import CheckResult

__all__ = ["beat", "doctor", "migrate", "worker"]

REPORT_SECONDS = 2.0
_CHECKS: tuple[Column[CheckResult], ...] = (
    Column("check"),
    Column("ok", show=lambda found: "ok" if found.ok else "FAILED", style=lambda found: "green" if found.ok else "red"),
    Column("detail", shrinks="to start"),
)


def worker(
    ctx: typer.Context,
    queues: Annotated[str, typer.Option(metavar="NAMES", help="Of control, classify and train.")] = "control,classify",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Engine processes; default: what suits this machine.")
    ] = None,
    beat: Annotated[bool, typer.Option("--beat", help="Tick the schedules too.")] = False,
) -> None:
    """Work on jobs until it is stopped (Ctrl-C or SIGTERM: finishes what it has in hand)."""
    names = [name.strip() for name in queues.split(",") if name.strip()]
    if not names or not set(names) <= set(QUEUES):
        raise typer.BadParameter(f"{queues!r}: choose of {', '.join(QUEUES)}", param_hint="--queues")
    from jobs.requirements import require_model_packages

    require_model_packages()
    options = ["--queues", ",".join(names)]
    if concurrency:
        options += ["--concurrency", str(concurrency)]
    dependencies(ctx).become(["worker", *options, *(["--beat"] if beat else [])])


def beat(ctx: typer.Context) -> None:
    """Tick the schedules until it is stopped; any number of them is harmless."""
    dependencies(ctx).become(["beat"])


def _report() -> Callable[[int, int], None]:
    """Return what says how far a long migration is, every few seconds."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS or done == total:
            last = time.monotonic()
            notice(f"results of {done:,} of {total:,} images are migrated")

    return report


def migrate(ctx: typer.Context) -> None:
    """Bring the database to this release and register the bundled model version."""
    with dependencies(ctx).client() as client:
        done = client.migrate(report=_report())
        live = [version.name for version in client.models() if version.production]
    before, after = done["from"], done["to"]
    if before == after:
        typer.echo(f"the database is up to date (schema {after})")
    else:
        typer.echo(f"the database is at schema {after} now ({f'before: {before}' if before else 'it was empty'})")
    if done["model_version"]:
        typer.echo(f"model version {done['model_version']} is registered")
        if done["model_version"] not in live:
            notice(f"{live[0]} stays in production; to use it for new jobs: cars model promote {done['model_version']}")


def doctor(ctx: typer.Context, form: FormatOption = None) -> None:
    """Check that this machine is ready to work; exits 1 when something is not."""
    with dependencies(ctx).client() as client:
        checks = client.check()
    print_rows(checks, _CHECKS, form)
    failed = [check for check in checks if not check.ok]
    for check in failed:  # in full: a table's cells are cut where a terminal is narrow
        notice(f"{check.check}: {check.detail}; {check.advice}")
    if failed:
        notice(f"{len(failed)} of {len(checks)} checks failed")
        raise typer.Exit(1)
