"""One epoch: a step per batch of the training images, then the evaluation on `calibration`; fastai does each batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from model.training._fastai import Learner

__all__ = ["Evaluated", "Meter", "evaluate_epoch", "train_one_epoch"]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Mean loss and accuracy (0..1) on the images that are not trained on."""

    loss: float
    accuracy: float


@dataclass(kw_only=True)
class Meter:
    """What an epoch has done so far. The losses stay on their device until somebody asks for the mean."""

    batches: int = 0
    images: int = 0
    losses: torch.Tensor | float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, loss: torch.Tensor, images: int) -> None:
        """Count a batch."""
        self.batches += 1
        self.images += images
        self.losses = self.losses + loss.detach()

    @property
    def mean_loss(self) -> float:
        """The mean over the batches so far."""
        return float(self.losses) / max(1, self.batches)

    @property
    def images_per_second(self) -> float:
        """The rate of the epoch so far, with all that happens in it."""
        return self.images / max(1e-6, time.monotonic() - self.started)


def train_one_epoch(learner: Learner, meter: Meter, *, after_batch: Callable[[], None]) -> None:
    """Take a step per batch of the learner's training loader; `after_batch` may raise to end the run there.

    That is called outside fastai's events, which would replace the text of an error.
    """
    learner.dl = learner.dls.train
    learner.n_iter = len(learner.dl)
    learner("before_train")
    for number, batch in enumerate(learner.dl):
        learner.one_batch(number, batch)
        meter.add(learner.loss, len(learner.yb[0]))
        after_batch()
    learner("after_train")


@torch.no_grad()
def evaluate_epoch(learner: Learner) -> Evaluated:
    """Evaluate the network, or what a callback puts in its place, on the learner's validation loader."""
    learner.dl = learner.dls.valid
    learner("before_validate")
    learner.all_batches()
    learner("after_validate")
    _epoch, _train_loss, loss, accuracy = learner.recorder.log
    return Evaluated(loss=float(loss), accuracy=float(accuracy))
