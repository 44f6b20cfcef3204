"""What a training batch becomes before the network sees it: views, mixed or not, and what the teacher says of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.training.augment import mix, mix_up, normalize, random_view, shrink
from model.training.recipes import Plan
from model.training.teacher import Teacher

__all__ = ["Inputs"]

_SHARE_MIXED_UNTIL = 0.9  # of the run: the last epochs see photos as they are


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Makes training batches by a plan. ``teacher`` is asked about the very pictures that the student learns from."""

    plan: Plan
    classes: int
    teacher: Teacher | None = None

    def make(
        self, photos: torch.Tensor, labels: torch.Tensor, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Batch ``number`` of an epoch: uint8 (N, 3, S, S) and labels (N,) → normalized pixels and the loss's targets.

        With a teacher one view is made at the larger of both sizes; each sees it shrunk to its own. Targets are labels
        or, where photos are mixed, shares of classes; with a teacher also its logits.
        """
        size = self.plan.size_at(epoch)
        side = max(size, self.teacher.size) if self.teacher is not None else size
        pixels, targets = self._mixed(random_view(photos, side, self.plan.views), labels, epoch=epoch, number=number)
        network = normalize(shrink(pixels, size))
        if self.teacher is None:
            return network, (targets,)
        return network, (targets, self.teacher.logits(shrink(pixels, self.teacher.size)))

    def _mixed(
        self, pixels: torch.Tensor, labels: torch.Tensor, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plan = self.plan
        if epoch >= _SHARE_MIXED_UNTIL * plan.epochs:
            return pixels, labels
        if plan.mixing and number % 2:
            return mix(pixels, F.one_hot(labels, self.classes).float())
        if plan.mixup_probability and float(torch.rand(())) < plan.mixup_probability:
            return mix_up(pixels, F.one_hot(labels, self.classes).float(), alpha=plan.mixup_alpha)
        return pixels, labels
