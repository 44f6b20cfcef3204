"""Records of training runs: what was asked, and how far one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from jobs.records.base import Json, Record, Selected, iso
from jobs.states import RunState

__all__ = ["RunOptions", "RunProgress", "TrainingStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Record):
    """What was asked of a training run besides its data set, recipe, start and epochs; see `Client.train`."""

    min_gain: float = 0.0
    teacher: str | None = None
    other: str | None = None
    force: bool = False
    promote: bool = True
    min_photos: int | None = None
    seed: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe's plan, whose types `model` checks

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Make one of what a client has stored; a field that it does not know is left out."""
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress(Record):
    """How far a training run has come; losses and rates are the newest, `curve` has those after each whole epoch."""

    stage: str | None = None
    epoch: int = 0
    epochs: int | None = None
    epochs_run: int = 0
    epoch_share: float | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    accuracy: float | None = None
    images_per_second: float | None = None
    network_images_per_second: float | None = None
    eta_seconds: float | None = None
    notes: Sequence[str] = ()
    curve: Sequence[Json] = ()

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Make one of what a worker has stored; a field that it does not know is left out."""
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus(Record):
    """How far a training run is. Losses and rates are the newest; times are ISO 8601 in UTC.

    `curve` has `epoch`, `train_loss`, `valid_loss` and `accuracy` after each whole epoch.
    `candidate` and `production` are what the new version and the one in production reach on the holdout.
    """

    id: str
    state: RunState
    stage: str | None
    dataset: str
    recipe: str
    init: str
    epoch: int
    epochs: int | None
    epochs_run: int
    epoch_share: float | None
    train_loss: float | None
    valid_loss: float | None
    accuracy: float | None
    images_per_second: float | None
    network_images_per_second: float | None
    eta_seconds: float | None
    notes: list[str]
    curve: list[Json]
    model_version: str | None
    promoted: bool
    candidate: Json | None
    production: Json | None
    reason: str | None
    error: str | None
    cancel_requested: bool
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None

    @property
    def how_far(self) -> str:
        """The state and the count of epochs in words."""
        return f"it is {self.state}, {self.epoch} of {self.epochs or '?'} epochs are done"

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.training_runs.get`."""
        progress = RunProgress.from_json(row.progress or {})
        running = row.state == RunState.RUNNING
        return cls(
            id=str(row.id),
            state=RunState(row.state),
            stage=(progress.stage or "starting") if running else None,
            dataset=row.dataset,
            recipe=row.recipe,
            init=row.init,
            epoch=progress.epoch,
            epochs=row.epochs if progress.epochs is None else progress.epochs,
            epochs_run=progress.epochs_run,
            epoch_share=progress.epoch_share,
            train_loss=progress.train_loss,
            valid_loss=progress.valid_loss,
            accuracy=progress.accuracy,
            images_per_second=progress.images_per_second if running else None,
            network_images_per_second=progress.network_images_per_second if running else None,
            eta_seconds=progress.eta_seconds if running else None,
            notes=list(progress.notes),
            curve=list(progress.curve),
            model_version=row.model_version,
            promoted=row.promoted,
            candidate=row.candidate,
            production=row.production,
            reason=row.reason,
            error=row.error,
            cancel_requested=row.cancel_requested,
            attempt=row.attempt,
            created_at=iso(row.created_at),
            started_at=iso(row.started_at),
            finished_at=iso(row.finished_at),
        )
