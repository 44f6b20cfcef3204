"""The command about workers: workers."""

import typer

from jobs.cli.context import session
from jobs.cli.output.formats import FormatOption, notice, print_rows
from jobs.cli.output.table import Column, Row
from jobs.durations import readable

__all__ = ["list_workers"]


def _style(row: Row) -> str:
    if not row["alive"]:
        return "dim"
    return "red" if row["state"].startswith("broken") else "" if row["state"] == "idle" else "green"


def _state(row: Row) -> str:
    return str(row["state"]) if row["alive"] else "gone"


_ROWS = (
    Column("host", show=lambda row: f"{row['host']}:{row['pid']}"),
    Column("queues", show=lambda row: ",".join(row["queues"])),
    Column("device"),
    Column("release"),
    Column("state", show=_state, style=_style, shrinks="to start"),
    Column(
        "images/s", show=lambda row: f"{row['images_per_second']:.3g}" if row["images_per_second"] else "", right=True
    ),
    Column("last seen", show=lambda row: f"{readable(row['last_seen_seconds'])} ago", right=True),
)


def list_workers(ctx: typer.Context, form: FormatOption = None) -> None:
    """List the workers of the last week: where they run, and what they do."""
    with session(ctx).client() as client:
        if not print_rows(client.workers(), _ROWS, form):
            notice("no workers; start one: cars worker")
