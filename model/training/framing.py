"""Loose framing in training: some views of a batch become small in the picture, on other surroundings."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["loosen"]

SMALLEST_AREA = 0.3  # of the picture that the photo still covers
_BLURRED = 8  # pixels a side that blurred surroundings are reduced to


def loosen(pixels: torch.Tensor, fraction: float) -> torch.Tensor:
    """Views (N, 3, S, S), of which about ``fraction`` (0..1) cover only 30 to 100 % of their picture, anywhere in it.

    Around them is one of: the view itself mirrored at its border, itself blurred, another view of the batch blurred, or
    a corner of another one. `model.evaluation.framing` measures with the like.
    """
    chosen = torch.nonzero(torch.rand(len(pixels), device=pixels.device) < fraction).flatten()
    if not len(chosen):
        return pixels
    views, others = pixels[chosen], pixels.roll(1, dims=0)[chosen]
    scale = torch.empty(len(views), device=pixels.device).uniform_(SMALLEST_AREA, 1.0).sqrt()
    grid = _grid(views, scale)
    placed = F.grid_sample(views, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    inside = (grid.abs().amax(dim=-1) <= 1)[:, None]
    kind = torch.randint(4, (len(views), 1, 1, 1), device=pixels.device)
    around = torch.where(kind == 1, _blurred(views), torch.where(kind == 2, _blurred(others), _corner(others)))
    pixels = pixels.clone()
    pixels[chosen] = torch.where(inside | (kind == 0), placed, around)
    return pixels


def _grid(views: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Where each pixel of the picture lies in the view (N, S, S, 2); beyond -1..1 it is outside."""
    theta = torch.zeros(len(views), 2, 3, device=views.device, dtype=views.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    shift = torch.empty(len(views), 2, device=views.device).uniform_(-1, 1)
    theta[:, :, 2] = shift * (1 / scale - 1)[:, None]
    return F.affine_grid(theta, list(views.shape), align_corners=False)


def _blurred(views: torch.Tensor) -> torch.Tensor:
    small = F.interpolate(views, size=(_BLURRED, _BLURRED), mode="bilinear", antialias=True)
    return _grown(small, views.shape[-1])


def _corner(views: torch.Tensor) -> torch.Tensor:
    side = max(1, views.shape[-1] // 3)
    return _grown(views[:, :, :side, :side], views.shape[-1])


def _grown(views: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(views, size=(size, size), mode="bilinear", align_corners=False)
