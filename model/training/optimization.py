"""The optimizer of a plan: its kind, its parameter groups, and how their rates go over a phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from model.training._fastai import Adam, OptimWrapper, SchedCos, SchedLin, combine_scheds, combined_cos
from model.training.recipes import Phase, Plan

__all__ = ["head_groups", "layer_rates", "optimizer", "parameter_groups", "schedules", "weight_decay"]

_WARMUP_START = 0.02  # of lr_max, where warm-up begins; chosen by trial
# What fastai's `fit_one_cycle` has as defaults (Smith, "Super-convergence", 2018).
_CYCLE_WARMUP = 0.25  # of a phase
_CYCLE_START, _CYCLE_END = 25.0, 1e5  # what lr_max is divided by there
_CYCLE_MOMENTUM = (0.95, 0.85, 0.95)

Rates = np.ndarray[Any, np.dtype[np.float64]]


def optimizer(plan: Plan) -> Callable[..., Any]:
    """Return what makes the optimizer from parameter groups and a rate."""
    kinds: dict[str, Callable[..., Any]] = {"adam": Adam, "adamw": _adamw, "sgd": _sgd}
    return kinds[plan.optimizer]


def schedules(plan: Plan, phase: Phase, lr_max: float) -> Mapping[str, Callable[[float], Any]]:
    """Return each hyperparameter that changes as a function of the done fraction (0..1) of the phase."""
    rates = lr_max * layer_rates(plan, phase.layer_lr_decay)
    if plan.optimizer == "adam":
        return {
            "lr": combined_cos(_CYCLE_WARMUP, rates / _CYCLE_START, rates, rates / _CYCLE_END),
            "mom": combined_cos(_CYCLE_WARMUP, *_CYCLE_MOMENTUM),
        }
    warm = min(0.5, max(plan.warmup_epochs / phase.epochs, 1 / (phase.epochs * 10)))
    lr = combine_scheds([warm, 1 - warm], [SchedLin(_WARMUP_START * rates, rates), SchedCos(rates, 0 * rates)])
    return {"lr": lr}


def head_groups(plan: Plan) -> int:
    """Return how many of the last groups are the head's."""
    return 1 if plan.optimizer == "adam" else 2


def parameter_groups(plan: Plan, network: nn.Module) -> list[list[nn.Parameter]]:
    """Return parameters from the image to the head: body and head for Adam, where fastai itself spares norms and biases
    the weight decay; for the others three sections, each once with and once without it.
    """
    sections: list[list[nn.Parameter]] = [[], [], []]
    for name, parameter in network.named_parameters():
        sections[2 if name.startswith("fc.") else 1 if name.startswith(("layer3", "layer4")) else 0].append(parameter)
    if plan.optimizer == "adam":
        return [sections[0] + sections[1], sections[2]]
    return [
        [parameter for parameter in section if (parameter.ndim > 1) == heavy]
        for section in sections
        for heavy in (True, False)
    ]


def layer_rates(plan: Plan, decay: float) -> Rates:
    """Return the rate of each parameter group as a fraction of the head's.

    In even ratios from `decay` on; for AdamW, whose steps do not depend on the size of gradients, `decay` in the
    earliest section only.
    """
    if plan.optimizer == "adam":
        return np.array([decay, 1.0])
    if plan.optimizer == "adamw":
        return np.repeat([decay, 1.0, 1.0], 2)
    return np.repeat(np.geomspace(decay, 1.0, 3), 2)


def weight_decay(plan: Plan) -> float | list[float]:
    """Return the decay of all groups, or of each."""
    return plan.weight_decay if plan.optimizer == "adam" else [plan.weight_decay, 0.0] * 3


def _sgd(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True)


def _adamw(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.AdamW, lr=lr, betas=(0.9, 0.98))
