"""Loose framing in training: some images of a batch become small in their frame, on other surroundings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["loosen"]

SMALLEST_AREA = 0.3  # of the frame that the image still covers; chosen by trial
_BLURRED = 8  # pixels a side that blurred surroundings are reduced to


def loosen(pixels: torch.Tensor, fraction: float) -> torch.Tensor:
    """Return images (N, 3, S, S), of which about `fraction` (0..1) cover only 30 to 100 % of their frame, anywhere in
    it.

    Around them is one of: the image itself mirrored at its border, itself blurred, another image of the batch blurred,
    or a corner of another one. `model.evaluation.framing` measures with the like.
    """
    chosen = torch.nonzero(torch.rand(len(pixels), device=pixels.device) < fraction).flatten()
    if not len(chosen):
        return pixels
    images, others = pixels[chosen], pixels.roll(1, dims=0)[chosen]
    scale = torch.empty(len(images), device=pixels.device).uniform_(SMALLEST_AREA, 1.0).sqrt()
    grid = _grid(images, scale)
    placed = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    inside = (grid.abs().amax(dim=-1) <= 1)[:, None]
    kind = torch.randint(4, (len(images), 1, 1, 1), device=pixels.device)
    around = torch.where(kind == 1, _blurred(images), torch.where(kind == 2, _blurred(others), _corner(others)))
    pixels = pixels.clone()
    pixels[chosen] = torch.where(inside | (kind == 0), placed, around)
    return pixels


def _grid(images: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return where each pixel of the frame lies in the image (N, S, S, 2); beyond -1..1 it is outside."""
    theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    shift = torch.empty(len(images), 2, device=images.device).uniform_(-1, 1)
    theta[:, :, 2] = shift * (1 / scale - 1)[:, None]
    return F.affine_grid(theta, list(images.shape), align_corners=False)


def _blurred(images: torch.Tensor) -> torch.Tensor:
    small = F.interpolate(images, size=(_BLURRED, _BLURRED), mode="bilinear", antialias=True)
    return _grown(small, images.shape[-1])


def _corner(images: torch.Tensor) -> torch.Tensor:
    side = max(1, images.shape[-1] // 3)
    return _grown(images[:, :, :side, :side], images.shape[-1])


def _grown(images: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
