"""Losses over logits (N, C) and targets: class positions (N,), or shares of classes (N, C) where photos are mixed."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

LossKind = Literal["cosine", "smooth", "cross_entropy"]


class TrainingLoss(nn.Module):
    """The mean loss of a batch, in float32 whatever the logits are.

    `cosine`: 1 - cos(logits, one-hot) + 0.1 cross-entropy (Barz and Denzler, WACV 2020), for training from nothing on
    few photos. `smooth`: cross-entropy with labels smoothed by 0.1. `cross_entropy`: plain.
    """

    def __init__(self, kind: LossKind) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        if self.kind != "cosine":
            smoothing = 0.1 if self.kind == "smooth" and self.training else 0.0
            return F.cross_entropy(logits, target, label_smoothing=smoothing)
        shares = target if target.ndim == 2 else F.one_hot(target, logits.shape[1]).float()
        distance = 1 - (F.normalize(logits, dim=1) * shares).sum(dim=1)
        return distance.mean() + 0.1 * F.cross_entropy(logits, target)
