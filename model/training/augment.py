"""Augmentation: random crops, mixing and colors, made on the device for a whole batch at once.

Numbers without a source were chosen by trial on the data of the bundled versions, most of them early and not tuned
since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from model.preprocess import MEAN, STD
from model.training.framing import loosen

__all__ = ["Augmentation", "augment", "mixup", "mixup_or_cutmix", "normalize", "resized", "shrink"]

_LARGEST_AREA = 1.3  # zoomed out, in areas of the image; chosen by trial
_LARGEST_RATIO = 4 / 3  # of width to height, as in torchvision's RandomResizedCrop
_LARGEST_TURN = math.radians(10)  # either way; chosen by trial, as fastai's `aug_transforms` has it
_COLOR = 0.3  # the most that saturation, contrast and brightness change; chosen by trial
_GRAY = 0.1  # of the images; chosen by trial
_ERASED = 0.25  # of the images, as the original random erasing does (Zhong et al., AAAI 2020); the rest by trial
_ERASED_SIDE = (0.15, 0.45)  # of the image's side
_MIXUP_ALPHA = 0.2  # as Zhang et al. (ICLR 2018) take for ImageNet


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is varied. `crop`: the smallest fraction of the area that is kept; the rest is switched by `strong`."""

    crop: float
    strong: bool  # turns, colors, grayscale, erasing; otherwise crop, zoom-out and flip only
    loose: float = 0.0  # fraction of the images that become small in their frame, on other surroundings


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels (N, 3, S, S) of 0..1 as the network expects them, channels last in memory."""
    mean, std = (torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images, uint8 (N, 3, S, S), at another size, not augmented: float (N, 3, size, size) of 0..1."""
    pixels = images.float() / 255
    if size == images.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


def augment(images: torch.Tensor, size: int, augmentation: Augmentation) -> torch.Tensor:
    """Return a random variant of each image, uint8 (N, 3, S, S) → float (N, 3, size, size) of 0..1.

    Zooms from `augmentation.crop` of the area out to 1.3 times it, since a network that saw tight crops alone fails on
    loosely framed images; what lies outside is mirrored.
    """
    pixels = images.float() / 255
    if images.shape[-1] > 2 * size:  # sampling points alone would alias
        side = size * 3 // 2
        pixels = F.interpolate(pixels, size=(side, side), mode="area")
    grid = F.affine_grid(_placements(images, augmentation), [len(images), 3, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    pixels = loosen(pixels, augmentation.loose)
    return _erase(_recolor(pixels)) if augmentation.strong else pixels


def mixup_or_cutmix(pixels: torch.Tensor, labels: torch.Tensor, *, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch blended with itself in another order, and its soft targets (N, classes) likewise.

    By equal chance mixup with Beta(0.2, 0.2) (Zhang et al., ICLR 2018) or CutMix, Beta(1, 1) (Yun et al., ICCV 2019).
    """
    choice = v2.RandomChoice([v2.MixUp(alpha=_MIXUP_ALPHA, num_classes=classes), v2.CutMix(num_classes=classes)])
    return cast("tuple[torch.Tensor, torch.Tensor]", choice(pixels, labels))


def mixup(
    pixels: torch.Tensor, labels: torch.Tensor, *, alpha: float, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch blended with itself by a part drawn from Beta(alpha, alpha), and its soft targets likewise."""
    return cast("tuple[torch.Tensor, torch.Tensor]", v2.MixUp(alpha=alpha, num_classes=classes)(pixels, labels))


def shrink(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Return float pixels (N, 3, S, S) at another size, with antialiasing."""
    if size == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)


def _placements(images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Return for each image the affine map (N, 2, 3) from the augmented square to its own."""
    scale = _uniform(images, augmentation.crop, _LARGEST_AREA).sqrt()
    widest = math.log(_LARGEST_RATIO)
    ratio = torch.exp(_uniform(images, -widest, widest)).sqrt()
    wide, high = scale * ratio, scale / ratio
    x, y = ((1 - side).abs() * _uniform(images, -1, 1) for side in (wide, high))
    angle = _uniform(images, -_LARGEST_TURN, _LARGEST_TURN) * float(augmentation.strong)
    flip = torch.where(_uniform(images, 0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([wide * cos * flip, -high * sin, x], dim=1)
    second = torch.stack([wide * sin * flip, high * cos, y], dim=1)
    return torch.stack([first, second], dim=1)


def _recolor(pixels: torch.Tensor) -> torch.Tensor:
    """Change saturation (one in ten gray), contrast and brightness, each by up to 30 %."""
    gray = pixels.mean(dim=1, keepdim=True)
    saturation = torch.where(_uniform(pixels, 0, 1) < _GRAY, 0.0, _uniform(pixels, 1 - _COLOR, 1 + _COLOR)).view(
        -1, 1, 1, 1
    )
    pixels = gray + (pixels - gray) * saturation
    level = pixels.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (_uniform(pixels, 1 - _COLOR, 1 + _COLOR).view(-1, 1, 1, 1) for _ in range(2))
    return ((pixels - level) * contrast + level * brightness).clamp(0, 1)


def _erase(pixels: torch.Tensor) -> torch.Tensor:
    """Lay a square of one random color over one image in four."""
    side = _uniform(pixels, *_ERASED_SIDE) * (_uniform(pixels, 0, 1) < _ERASED)
    steps = torch.linspace(0, 1, pixels.shape[-1], device=pixels.device)
    inside = [(steps - _uniform(pixels, 0, 1)[:, None]).abs() < side[:, None] / 2 for _ in range(2)]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hole, torch.rand(len(pixels), 3, 1, 1, device=pixels.device), pixels)


def _uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.empty(len(like), device=like.device).uniform_(low, high)
