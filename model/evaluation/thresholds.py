"""Confidence thresholds that keep a promised precision.

A threshold is fitted on images the network was not trained on, as the lowest one whose precision there is convincing:
not the observed fraction of right answers has to reach the target, but the lower end of its one-sided 90 % Wilson
interval (Wilson, JASA 1927). Among many candidate thresholds the luckiest would otherwise win, and on new images the
promise would be broken about every second time. How wide that interval must be is found by halving: thresholds fitted
on one half of the images have to keep the promise on the other half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["NEVER", "TARGET_PRECISION", "fit_threshold", "lower_bound"]

Floats = npt.NDArray[np.floating]
Hits = npt.NDArray[np.bool_]

TARGET_PRECISION = 0.95
NEVER = 1.01  # no confidence reaches it: what a threshold is when none keeps the promise
_Z90 = 1.2816  # the standard normal's 90th percentile


def lower_bound(right: Floats, total: Floats, *, z: float = _Z90) -> Floats:
    """Return the lower end of the one-sided Wilson interval of `right / total`, elementwise."""
    fraction = right / total
    center = fraction + z**2 / (2 * total)
    half_width = z * np.sqrt(fraction * (1 - fraction) / total + z**2 / (4 * total**2))
    return np.asarray((center - half_width) / (1 + z**2 / total))


def fit_threshold(confidence: Floats, hit: Hits, *, target: float = TARGET_PRECISION, z: float = _Z90) -> float:
    """Return the lowest threshold at and above which answers are right with `target` precision, or `NEVER`.

    `z`: the standard normal's quantile that sets how sure that must be.

    Lies halfway between the last confidence let in and the first one kept out, so that the last bit of another
    machine's arithmetic changes no decision of these images.
    """
    if not len(confidence):
        return NEVER
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    ranked = np.asarray(confidence, dtype=np.float64)[order]
    total = np.arange(1, len(ranked) + 1, dtype=np.float64)
    convincing = lower_bound(np.cumsum(hit[order]).astype(np.float64), total, z=z) >= target
    convincing &= np.append(ranked[:-1] != ranked[1:], True)  # equal confidences are let in together or not at all
    if not convincing.any():
        return NEVER
    last = int(np.flatnonzero(convincing)[-1])
    return float(ranked[last] if last + 1 == len(ranked) else (ranked[last] + ranked[last + 1]) / 2)
