"""Random views of photos, made on the device for a whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.publishing.onnx_export import MEAN, STD
from model.training.framing import loosen


@dataclass(frozen=True, kw_only=True)
class Views:
    """What is varied. ``crop``: the least share of the area that is kept; the rest is switched by ``strong``."""

    crop: float
    strong: bool  # turns of 10 degrees, colors, grayscale, erasing; otherwise crop, zoom-out and flip only
    loose: float = 0.0  # fraction of the views in which the photo is small, on other surroundings


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 3, S, S) of 0..1 as the network expects them, channels last in memory."""
    mean, std = (torch.tensor(value, device=pixels.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def plain_view(photos: torch.Tensor, size: int) -> torch.Tensor:
    """Photos, uint8 (N, 3, S, S), at another size without any change: float (N, 3, size, size) of 0..1."""
    pixels = photos.float() / 255
    if size == photos.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


def random_view(photos: torch.Tensor, size: int, views: Views) -> torch.Tensor:
    """One random view of each photo, uint8 (N, 3, S, S) → float (N, 3, size, size) of 0..1.

    Zooms from ``views.crop`` of the area out to 1.3 times it, since a network that saw tight crops alone fails on
    loosely framed photos; what lies outside is mirrored.
    """
    pixels = photos.float() / 255
    if photos.shape[-1] > 2 * size:  # sampling points alone would alias
        side = size * 3 // 2
        pixels = F.interpolate(pixels, size=(side, side), mode="area")
    grid = F.affine_grid(_placements(photos, views), [len(photos), 3, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    pixels = loosen(pixels, views.loose)
    return _erase(_recolor(pixels)) if views.strong else pixels


def mix(pixels: torch.Tensor, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch blended with itself in another order, and its targets (N, C) likewise.

    By equal chance mix-up with Beta(0.2, 0.2) (Zhang et al., ICLR 2018) or CutMix, Beta(1, 1) (Yun et al., ICCV 2019).
    """
    order = torch.randperm(len(pixels), device=pixels.device)
    if torch.rand(()) < 0.5:
        return _blend(pixels, shares, order, alpha=0.2)
    size = pixels.shape[-1]
    half = math.sqrt(1 - float(torch.rand(()))) * size / 2
    top, left = (float(torch.rand(())) * size for _ in range(2))
    rows, columns = (slice(max(0, round(at - half)), min(size, round(at + half))) for at in (top, left))
    pixels = pixels.clone()
    pixels[:, :, rows, columns] = pixels[order][:, :, rows, columns]
    kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
    return pixels, kept * shares + (1 - kept) * shares[order]


def mix_up(pixels: torch.Tensor, shares: torch.Tensor, *, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch blended with itself in another order by a part drawn from Beta(alpha, alpha), its targets likewise."""
    return _blend(pixels, shares, torch.randperm(len(pixels), device=pixels.device), alpha=alpha)


def shrink(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Float pixels (N, 3, S, S) at another size, with antialiasing."""
    if size == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)


def _blend(
    pixels: torch.Tensor, shares: torch.Tensor, order: torch.Tensor, *, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = float(torch.distributions.Beta(alpha, alpha).sample())
    return kept * pixels + (1 - kept) * pixels[order], kept * shares + (1 - kept) * shares[order]


def _placements(photos: torch.Tensor, views: Views) -> torch.Tensor:
    """For each view the affine map (N, 2, 3) from its square to the photo's."""
    scale = _uniform(photos, views.crop, 1.3).sqrt()
    ratio = torch.exp(_uniform(photos, -0.29, 0.29)).sqrt()
    wide, high = scale * ratio, scale / ratio
    x, y = ((1 - side).abs() * _uniform(photos, -1, 1) for side in (wide, high))
    angle = _uniform(photos, -0.175, 0.175) * float(views.strong)
    flip = torch.where(_uniform(photos, 0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([wide * cos * flip, -high * sin, x], dim=1)
    second = torch.stack([wide * sin * flip, high * cos, y], dim=1)
    return torch.stack([first, second], dim=1)


def _recolor(pixels: torch.Tensor) -> torch.Tensor:
    """Saturation (one in ten gray), contrast and brightness, each by up to 30 %."""
    gray = pixels.mean(dim=1, keepdim=True)
    saturation = torch.where(_uniform(pixels, 0, 1) < 0.1, 0.0, _uniform(pixels, 0.7, 1.3)).view(-1, 1, 1, 1)
    pixels = gray + (pixels - gray) * saturation
    level = pixels.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (_uniform(pixels, 0.7, 1.3).view(-1, 1, 1, 1) for _ in range(2))
    return ((pixels - level) * contrast + level * brightness).clamp(0, 1)


def _erase(pixels: torch.Tensor) -> torch.Tensor:
    """A square of one random color over one photo in four."""
    side = _uniform(pixels, 0.15, 0.45) * (_uniform(pixels, 0, 1) < 0.25)
    steps = torch.linspace(0, 1, pixels.shape[-1], device=pixels.device)
    inside = [(steps - _uniform(pixels, 0, 1)[:, None]).abs() < side[:, None] / 2 for _ in range(2)]
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hole, torch.rand(len(pixels), 3, 1, 1, device=pixels.device), pixels)


def _uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return torch.empty(len(like), device=like.device).uniform_(low, high)
