"""How far a job or a training run is, in words and as a bar on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from jobs.durations import readable
from jobs.states import JobState, RunState

if TYPE_CHECKING:
    from rich.progress import Progress

    from jobs.records import JobStatus, TrainingStatus

__all__ = ["JobBar", "RunBar", "job_figures", "run_activity", "run_figures", "run_outcome", "run_speed"]


class _Bar:
    """A bar that vanishes when it ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        console = Console(stderr=True, highlight=False, markup=False)
        figures = TextColumn("{task.fields[figures]}")
        self._progress: Progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), figures, console=console, transient=True
        )
        self._task = self._progress.add_task("waiting for a worker", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._progress.stop()

    def tell(self, notice: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(notice, soft_wrap=True)


class JobBar(_Bar):
    """The bar of a job: its images."""

    def show(self, status: JobStatus) -> None:
        """Draw the bar as this status has it."""
        self._progress.update(
            self._task,
            description="waiting for a worker" if status.state is JobState.QUEUED else "classifying",
            total=status.total or None,
            completed=status.done,
            figures=job_figures(status) if status.total else "",
        )


class RunBar(_Bar):
    """The bar of a training run: its epochs."""

    def show(self, status: TrainingStatus) -> None:
        """Draw the bar as this status has it."""
        training = status.stage == "training"
        self._progress.update(
            self._task,
            description=run_activity(status),
            total=status.epochs if training else None,
            completed=status.epoch + (status.epoch_share or 0),
            figures=run_figures(status) if training else "",
        )


def job_figures(status: JobStatus) -> str:
    """Say how many images are done, how fast, and how long the rest will take."""
    parts = [f"{status.done:,}/{status.total:,}"]
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.images_per_second:
        parts.append(f"{status.images_per_second:.3g} images/s")
    if status.eta_seconds is not None and status.pending:
        parts.append(f"{readable(status.eta_seconds)} left")
    return " · ".join(parts)


def run_activity(status: TrainingStatus) -> str:
    """Say what the run is busy with."""
    if status.state is RunState.QUEUED:
        return f"to be tried again: {status.error}" if status.error else "waiting for a training worker"
    if status.cancel_requested:
        return "stopping"
    return str(status.stage or status.state)


def run_figures(status: TrainingStatus) -> str:
    """Say the epochs, losses, accuracy, rate and what is left of the training."""
    parts = [f"epoch {status.epoch}/{status.epochs or '?'}"]
    if status.train_loss is not None:
        parts.append(f"loss {status.train_loss:.3f}")
    if status.valid_loss is not None:
        parts.append(f"validation {status.valid_loss:.3f}")
    if status.accuracy is not None:
        parts.append(f"accuracy {status.accuracy:.1%}")
    if status.images_per_second:
        parts.append(run_speed(status))
    if status.eta_seconds:
        parts.append(f"{readable(status.eta_seconds)} left")
    return " · ".join(parts)


def run_speed(status: TrainingStatus) -> str:
    """Say the images per second, and how near that is to what the network alone reaches; empty where unknown."""
    rate, limit = status.images_per_second, status.network_images_per_second
    if not rate:
        return ""
    fraction = f" ({rate / limit:.0%} of the network's own limit)" if limit else ""
    return f"{rate:.3g} images/s{fraction}"


def run_outcome(status: TrainingStatus) -> str:
    """Say in one line how a run has ended."""
    ended = f"training run {status.id} {status.state}"
    if status.model_version is None:
        return ended
    live = "live for new jobs" if status.promoted else "not live"
    return f"{ended}: {status.model_version} is {live}; {status.reason}"
