"""What `cars classify` shows on a terminal: the first rows, and how the job came out as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from jobs.cli.commands.results import present
from jobs.cli.output.table import safe

if TYPE_CHECKING:
    from jobs.cli.context import JobHandle

__all__ = ["show_overview"]

_ROWS = 50
_MAKES = 8


def show_overview(job: JobHandle, *, total: int, top_k: int | None) -> None:
    """Print at most 50 rows of the job's `total`, then how many images there are of each decision, make and error."""
    present(job.results(limit=_ROWS), output=None, form=None, top_k=top_k, one_job=True)
    if total > _ROWS:
        typer.echo(f"… and {total - _ROWS:,} more")
    counts = job.results().counts()
    decided = sum(counts["decision"].values())
    lines = {
        "decisions": ", ".join(f"{name} {n:,} ({n / decided:.0%})" for name, n in counts["decision"].items()),
        "makes": _most(counts["make"]),
        "failures": _most(counts["code"]),
        "more": "; ".join(_commands(job.id, counts, total=total)),
    }
    width = max(map(len, lines))
    typer.echo("\n" + "\n".join(f"{name:{width}}  {safe(text)}" for name, text in lines.items() if text))


def _most(counts: Mapping[str, int]) -> str:
    """The most frequent, and how many others there are."""
    named = [f"{name} {n:,}" for name, n in list(counts.items())[:_MAKES]]
    others = len(counts) - len(named)
    return ", ".join(named + ([f"{others} other{'s' if others > 1 else ''}"] if others else []))


def _commands(job_id: str, counts: Mapping[str, Mapping[str, int]], *, total: int) -> list[str]:
    """What to type to see more."""
    commands = [f"every row: cars results {job_id}"] if total > _ROWS else []
    commands.append(f"as a file: cars results {job_id} -o rows.csv")
    if counts["decision"].get("unknown"):
        commands.append(f"the undecided: cars results {job_id} --decision unknown")
    return commands
