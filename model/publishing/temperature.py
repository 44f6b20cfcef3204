"""Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from model.evaluation.calibration import negative_log_likelihood

__all__ = ["fit_temperature"]


def fit_temperature(
    logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, low: float = 0.02, high: float = 50.0
) -> float:
    """Return the temperature between `low` and `high` with the smallest negative log-likelihood.

    The likelihood is unimodal in the temperature, so a bounded search on its logarithm finds the one minimum.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits, labels, float(np.exp(log_temperature)))

    found = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))
