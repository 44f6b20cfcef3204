"""How well confidences match the truth: likelihood and expected calibration error.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Written with numpy alone: evaluation runs on
installations without scipy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ECE_BINS", "expected_calibration_error", "log_softmax", "negative_log_likelihood", "simulated_error_limit"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Hits = npt.NDArray[np.bool_]

ECE_BINS = 15
_DRAWS_TOGETHER = 2_000_000  # random numbers in memory at once


def log_softmax(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the natural log of the probabilities, (N, C)."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))


def negative_log_likelihood(logits: Floats, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean of -ln p(label) in nats."""
    return float(-log_softmax(logits, temperature)[np.arange(len(labels)), labels].mean())


def expected_calibration_error(confidence: Floats, hit: Hits, *, bins: int = ECE_BINS) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins, weighted by images (0..1)."""
    return float(_gaps(_bins(confidence, bins), confidence, hit[None].astype(np.float64), bins)[0])


def simulated_error_limit(
    confidence: Floats, *, bins: int = ECE_BINS, percentile: float = 95, rounds: int = 2000, seed: int = 0
) -> float:
    """Return the given percentile of the error that perfectly calibrated confidences would show at this sample size.

    Draws each image's outcome from its own confidence `rounds` times: an error below this limit cannot be told
    from perfect calibration with this many images.
    """
    random, bin_of = np.random.default_rng(seed), _bins(confidence, bins)
    together = max(1, _DRAWS_TOGETHER // max(1, len(confidence)))
    errors = []
    for start in range(0, rounds, together):
        draws = random.random((min(together, rounds - start), len(confidence))) < np.asarray(confidence)
        errors.append(_gaps(bin_of, confidence, draws.astype(np.float64), bins))
    return float(np.percentile(np.concatenate(errors), percentile))


def _bins(confidence: Floats, bins: int) -> npt.NDArray[np.intp]:
    return np.minimum((np.asarray(confidence, dtype=np.float64) * bins).astype(np.intp), bins - 1)


def _gaps(bin_of: npt.NDArray[np.intp], confidence: Floats, hits: Floats, bins: int) -> Floats:
    """Return the calibration error of each row of `hits` (R, N)."""
    member = np.eye(bins)[bin_of]  # (N, bins)
    return np.asarray(
        np.abs(hits @ member - np.asarray(confidence, dtype=np.float64) @ member).sum(1) / len(confidence)
    )
