"""What a training batch becomes before the network sees it: augmented, mixed or not, and what a teacher says of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from model.training.augment import augment, mixup, mixup_or_cutmix, normalize, shrink
from model.training.distillation import Teacher
from model.training.recipes import Plan

__all__ = ["Answers", "Inputs"]

_MIXED_UNTIL = 0.9  # as a fraction of the run: the last epochs see images as they are; chosen by trial
_LEAST_ANSWERS = 20  # batches of an epoch before any of its images is used again


@dataclass(kw_only=True)
class Answers:
    """Augmentation of one epoch with what the teacher said of them. Nothing is kept from one epoch to the next, so that
    an epoch that is repeated after a kill goes as it would have gone.
    """

    epoch: int = -1
    pixels: list[torch.Tensor] = field(default_factory=list)  # uint8, at the student's size
    targets: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)

    def begin(self, epoch: int) -> None:
        """Forget everything."""
        self.epoch = epoch
        for kept in (self.pixels, self.targets, self.logits):
            kept.clear()

    def keep(self, pixels: torch.Tensor, targets: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep one batch: pixels of 0..1, soft targets (N, C), the teacher's logits."""
        self.pixels.append((pixels * 255).round().to(torch.uint8))
        self.targets.append(targets)
        self.logits.append(logits)

    def again(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return as many kept images, drawn at random and each mirrored or not."""
        of_batch = len(self.pixels[0])
        places = [divmod(int(place), of_batch) for place in torch.randperm(of_batch * len(self.pixels))[:count]]
        pixels, targets, logits = (
            torch.stack([kept[batch][row] for batch, row in places])
            for kept in (self.pixels, self.targets, self.logits)
        )
        mirrored = (torch.rand(len(pixels)) < 0.5).to(pixels.device).view(-1, 1, 1, 1)
        return torch.where(mirrored, pixels.flip(3), pixels).float() / 255, targets, logits


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Makes training batches by a plan. `teacher` is asked about the very images that the student learns from."""

    plan: Plan
    classes: int
    teacher: Teacher | None = None
    answers: Answers = field(default_factory=Answers)

    def make(
        self, images: torch.Tensor, labels: torch.Tensor, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Make batch `number` of an epoch: uint8 (N, 3, S, S) and labels (N,) → normalized pixels and the loss's
        targets.

        Targets are labels or, where images are mixed, soft targets (N, C); with a teacher soft targets and its logits.
        """
        if self.teacher is not None and self.plan.distillation is not None:
            return self._taught(self.teacher, images, labels, epoch=epoch, number=number)
        pixels = augment(images, self.plan.size_at(epoch), self.plan.augmentation)
        pixels, targets = self._mixed(pixels, labels, epoch=epoch, number=number)
        return normalize(pixels), (targets,)

    def _taught(
        self, teacher: Teacher, images: torch.Tensor, labels: torch.Tensor, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Augment at the larger of both sizes, which each sees shrunk to its own; or take images made before."""
        assert self.plan.distillation is not None
        fresh = self.plan.distillation.fresh
        if number == 0 or self.answers.epoch != epoch:
            self.answers.begin(epoch)
        if len(self.answers.pixels) >= _LEAST_ANSWERS and float(torch.rand(())) >= fresh:
            pixels, soft, logits = self.answers.again(len(images))
            return normalize(pixels), (soft, logits)
        size = self.plan.size_at(epoch)
        larger = augment(images, max(size, teacher.size), self.plan.augmentation)
        pixels, targets = self._mixed(larger, labels, epoch=epoch, number=number)
        soft = targets if targets.ndim == 2 else F.one_hot(targets, self.classes).float()
        small, logits = shrink(pixels, size), teacher.logits(shrink(pixels, teacher.size))
        if fresh < 1:
            self.answers.keep(small, soft, logits)
        return normalize(small), (soft, logits)

    def _mixed(
        self, pixels: torch.Tensor, labels: torch.Tensor, *, epoch: int, number: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plan = self.plan
        if epoch >= _MIXED_UNTIL * plan.epochs:
            return pixels, labels
        if plan.mixup_cutmix and number % 2:
            return mixup_or_cutmix(pixels, labels, classes=self.classes)
        if plan.mixup_probability and float(torch.rand(())) < plan.mixup_probability:
            return mixup(pixels, labels, alpha=plan.mixup_alpha, classes=self.classes)
        return pixels, labels
