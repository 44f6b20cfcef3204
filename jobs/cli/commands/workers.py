"""The command about workers: workers."""

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import FormatOption, notice, print_rows
from jobs.cli.output.table import Column
from jobs.durations import readable
from jobs.records import WorkerStatus

__all__ = ["list_workers"]


def _style(worker: WorkerStatus) -> str:
    if not worker.alive:
        return "dim"
    return "red" if worker.broken else "" if worker.state == "idle" else "green"


_ROWS: tuple[Column[WorkerStatus], ...] = (
    Column("host", show=lambda worker: f"{worker.host}:{worker.pid}"),
    Column("queues", show=lambda worker: ",".join(worker.queues)),
    Column("device"),
    Column("release"),
    Column("state", show=lambda worker: worker.state if worker.alive else "gone", style=_style, shrinks="to start"),
    Column("images/s", show=lambda worker: f"{rate:.3g}" if (rate := worker.images_per_second) else "", right=True),
    Column("last seen", show=lambda worker: f"{readable(worker.last_seen_seconds)} ago", right=True),
)


def list_workers(ctx: typer.Context, form: FormatOption = None) -> None:
    """List the workers of the last week: where they run, and what they do."""
    with dependencies(ctx).client() as client:
        if not print_rows(client.workers(), _ROWS, form):
            notice("no workers; start one: cars worker")
