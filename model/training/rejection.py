"""Telling photos of known cars from everything else: three scores of a network's logits, compared by AUROC.

Maximum softmax probability: Hendrycks and Gimpel (ICLR 2017). Maximum logit: Hendrycks et al. (ICML 2022). Energy:
Liu et al. (NeurIPS 2020).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.training.calibration import log_softmax

Floats = npt.NDArray[np.floating]

SCORES = ("max_softmax", "max_logit", "energy")
_SAMPLES = (("skimage", "data"), ("sklearn", "datasets/images"))
_PHOTO_SUFFIXES = {".jpg", ".png", ".gif"}


def known_scores(logits: Floats, temperature: float) -> Mapping[str, Floats]:
    """Scores (N,) by name, each higher the more a photo looks like a known car."""
    raw = np.asarray(logits, dtype=np.float64)
    peak = raw.max(axis=1)
    return {
        "max_softmax": np.exp(log_softmax(raw, temperature).max(axis=1)),
        "max_logit": peak,
        "energy": peak + np.log(np.exp(raw - peak[:, None]).sum(axis=1)),
    }


def auroc(known: Floats, unknown: Floats) -> float:
    """The chance that a known photo scores higher than an unknown one, ties counted half (Mann-Whitney)."""
    order = np.sort(unknown)
    below = np.searchsorted(order, known, side="left")
    not_above = np.searchsorted(order, known, side="right")
    return float((below + not_above).sum() / (2 * len(known) * len(unknown)))


def compare_scores(known: Floats, unknown: Floats, temperature: float) -> dict[str, Any]:
    """AUROC of each score on logits of known (N, C) and unknown (M, C) photos, and the name of the best."""
    inside, outside = known_scores(known, temperature), known_scores(unknown, temperature)
    areas = {name: auroc(inside[name], outside[name]) for name in SCORES}
    return {"auroc": areas, "best": max(SCORES, key=lambda name: areas[name]), "unknown_images": len(unknown)}


def sample_photographs() -> list[Path]:
    """The pictures that the installed scikit-image and scikit-learn ship; none of them shows a known car."""
    found: list[Path] = []
    for package, folder in _SAMPLES:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            files = sorted((Path(location) / folder).glob("*"))
            found += [file for file in files if file.suffix.lower() in _PHOTO_SUFFIXES]
    return found
