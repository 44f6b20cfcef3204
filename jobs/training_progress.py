"""How far a training run is, in words and as a bar on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.durations import readable
from jobs.progress import Bar, Status
from jobs.states import RunState

__all__ = ["RunBar", "Status", "doing", "figures", "outcome", "speed"]


class RunBar(Bar):
    """The same bar for a training run."""

    def show(self, status: Status) -> None:
        """Draw the bar as this status has it."""
        training = status["stage"] == "training"
        self._progress.update(
            self._task,
            description=doing(status),
            total=status["epochs"] if training else None,
            completed=status["epoch"] + (status["epoch_share"] or 0),
            figures=figures(status) if training else "",
        )


def doing(status: Status) -> str:
    """What the run is busy with."""
    if status["state"] == RunState.QUEUED:
        return f"to be tried again: {status['error']}" if status["error"] else "waiting for a training worker"
    if status["cancel_requested"]:
        return "stopping"
    return str(status["stage"] or status["state"])


def figures(status: Status) -> str:
    """Epochs, losses, accuracy, rate and what is left of the training."""
    parts = [f"epoch {status['epoch']}/{status['epochs'] or '?'}"]
    if status["train_loss"] is not None:
        parts.append(f"loss {status['train_loss']:.3f}")
    if status["valid_loss"] is not None:
        parts.append(f"validation {status['valid_loss']:.3f}")
    if status["accuracy"] is not None:
        parts.append(f"accuracy {status['accuracy']:.1%}")
    if status["images_per_second"]:
        parts.append(speed(status))
    if status["eta_seconds"]:
        parts.append(f"{readable(status['eta_seconds'])} left")
    return " · ".join(parts)


def speed(status: Mapping[str, Any]) -> str:
    """Images a second, and how near that is to what the network alone reaches."""
    limit = status["network_images_per_second"]
    fraction = f" ({status['images_per_second'] / limit:.0%} of the network's own limit)" if limit else ""
    return f"{status['images_per_second']:.3g} images/s{fraction}"


def outcome(status: Status) -> str:
    """One line about a run that has ended."""
    ended = f"training run {status['id']} {status['state']}"
    if status["model_version"] is None:
        return ended
    live = "live for new jobs" if status["promoted"] else "not live"
    return f"{ended}: {status['model_version']} is {live}; {status['reason']}"
