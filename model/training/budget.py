"""Fitting a run's length to the time there is, by the speed measured on the spot."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from model.training.augment import normalize, random_view
from model.training.batches import PhotoTable
from model.training.callbacks import has_fast_bfloat16
from model.training.recipes import Plan

_WARM_STEPS, _TIMED_STEPS = 2, 5
_FOR_THE_REST = 0.05  # of the time, for judging each epoch and for checkpoints


def fit_to_minutes(plan: Plan, network: nn.Module, table: PhotoTable, *, device: torch.device, minutes: float) -> Plan:
    """The plan with its stages and phases cut in proportion, if it would take longer than ``minutes``."""
    seconds, begun = 0.0, 0.0
    for until, size in plan.sizes:
        rate = images_per_second(plan, network, table, size=size, device=device)
        seconds += (until - begun) * plan.epochs * len(table.labels) / rate
        begun = until
    share = (1 - _FOR_THE_REST) * minutes * 60 / seconds
    if share >= 1:
        return plan
    stages = tuple(replace(stage, epochs=max(1, round(stage.epochs * share))) for stage in plan.stages)
    return replace(plan, stages=stages, warm_up=min(plan.warm_up, sum(stage.epochs for stage in stages) // 10))


def images_per_second(plan: Plan, network: nn.Module, table: PhotoTable, *, size: int, device: torch.device) -> float:
    """How fast a copy of the network trains on a batch at a size."""
    trial = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last).train()
    photos = table.photos[: plan.batch].to(device)
    labels = table.labels[: plan.batch].to(device)
    half = has_fast_bfloat16(device)
    started = 0.0
    for step in range(_WARM_STEPS + _TIMED_STEPS):
        if step == _WARM_STEPS:
            _wait(device)
            started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            logits = trial(normalize(random_view(photos, size, plan.views)))
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        trial.zero_grad(set_to_none=True)
    _wait(device)
    return len(labels) * _TIMED_STEPS / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
