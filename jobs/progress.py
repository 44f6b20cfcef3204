"""How far a job is, in words and as a bar on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from jobs.durations import readable
from jobs.states import JobState

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Status", "done", "figures"]

Status = dict[str, Any]


def done(status: Status) -> int:
    """How many images have a result; a canceled one has none."""
    return int(status["ok"] + status["failed"])


class Bar:
    """A bar that vanishes when it ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        console = Console(stderr=True, highlight=False, markup=False)
        shown = TextColumn("{task.fields[figures]}")
        self._progress: Progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), shown, console=console, transient=True
        )
        self._task = self._progress.add_task("waiting for a worker", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def show(self, status: Status) -> None:
        """Draw the bar as this status has it."""
        self._progress.update(
            self._task,
            description="waiting for a worker" if status["state"] == JobState.QUEUED else "classifying",
            total=status["total"] or None,
            completed=done(status),
            figures=figures(status) if status["total"] else "",
        )

    def tell(self, words: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(words, soft_wrap=True)


def figures(status: Status) -> str:
    """How many are done, how fast, and how long it will take."""
    parts = [f"{done(status):,}/{status['total']:,}"]
    if status["failed"]:
        parts.append(f"{status['failed']:,} failed")
    if status["images_per_second"]:
        parts.append(f"{status['images_per_second']:.3g} images/s")
    if status["eta_seconds"] is not None and status["pending"]:
        parts.append(f"{readable(status['eta_seconds'])} left")
    return " · ".join(parts)
