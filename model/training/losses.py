"""Losses over logits (N, C) and targets: class positions (N,), or soft targets (N, C) where images are mixed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LABEL_SMOOTHING", "LossKind", "TrainingLoss"]

LossKind = Literal["cosine", "label_smoothing", "cross_entropy"]
LABEL_SMOOTHING = 0.1  # as Szegedy et al., CVPR 2016


class TrainingLoss(nn.Module):
    """The mean loss of a batch, in float32 whatever the logits are.

    With a teacher's logits: `teacher_weight` of its loss and the rest of the labels' own. The teacher's is
    KL(softmax(teacher / T) || softmax(logits / T)) * T ** 2, T = `temperature`; the factor keeps the size of its
    gradients (Hinton et al., 2015).

    `cosine`: 1 - cos(logits, one-hot) + 0.1 cross-entropy (Barz and Denzler, WACV 2020), for training from nothing on
    few images. `label_smoothing`: cross-entropy with labels smoothed by 0.1. `cross_entropy`: plain.
    """

    def __init__(self, kind: LossKind, *, teacher_weight: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.kind, self.teacher_weight, self.temperature = kind, teacher_weight, temperature

    def forward(self, logits: torch.Tensor, target: torch.Tensor, teacher: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of logits (N, C)."""
        logits = logits.float()
        labels = self._of_labels(logits, target)
        if teacher is None:
            return labels
        return self.teacher_weight * self._of_teacher(logits, teacher) + (1 - self.teacher_weight) * labels

    def _of_teacher(self, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        said, meant = (F.log_softmax(side / self.temperature, dim=1) for side in (logits, teacher.float()))
        return F.kl_div(said, meant, reduction="batchmean", log_target=True) * self.temperature**2

    def _of_labels(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.kind != "cosine":
            smoothing = LABEL_SMOOTHING if self.kind == "label_smoothing" and self.training else 0.0
            return F.cross_entropy(logits, target, label_smoothing=smoothing)
        soft = target if target.ndim == 2 else F.one_hot(target, logits.shape[1]).float()
        distance = 1 - (F.normalize(logits, dim=1) * soft).sum(dim=1)
        return distance.mean() + 0.1 * F.cross_entropy(logits, target)
