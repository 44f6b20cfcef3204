"""Fitting a run's length to the time there is, by the speed measured on the spot."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import nn

from model.training.inputs import Inputs
from model.training.loader import PhotoTable
from model.training.precision import wait_for
from model.training.recipes import Plan, training_loss

_WARM_STEPS, _TIMED_STEPS = 2, 5
_FOR_THE_REST = 0.05  # of the time, for judging each epoch and for checkpoints


def fit_to_minutes(
    inputs: Inputs, network: nn.Module, table: PhotoTable, *, device: torch.device, minutes: float
) -> Plan:
    """The plan of ``inputs`` with its stages and phases cut in proportion, if it would take longer than ``minutes``."""
    plan = inputs.plan
    seconds, begun = 0.0, 0.0
    for until, _ in plan.sizes:
        rate = images_per_second(inputs, network, table, epoch=round(begun * plan.epochs), device=device)
        seconds += (until - begun) * plan.epochs * len(table.labels) / rate
        begun = until
    share = (1 - _FOR_THE_REST) * minutes * 60 / seconds
    if share >= 1:
        return plan
    stages = tuple(replace(stage, epochs=max(1, round(stage.epochs * share))) for stage in plan.stages)
    return replace(plan, stages=stages, warm_up=min(plan.warm_up, sum(stage.epochs for stage in stages) // 10))


def images_per_second(
    inputs: Inputs, network: nn.Module, table: PhotoTable, *, epoch: int, device: torch.device
) -> float:
    """How fast a copy of the network trains on a batch at the size of an epoch, views and teacher included."""
    plan = inputs.plan
    trial = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last).train()
    loss = training_loss(plan)
    photos = table.photos[: plan.batch].to(device)
    labels = table.labels[: plan.batch].to(device)
    started = 0.0
    for step in range(_WARM_STEPS + _TIMED_STEPS):
        if step == _WARM_STEPS:
            wait_for(device)
            started = time.perf_counter()
        pixels, targets = inputs.make(photos, labels, epoch=epoch, number=step)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(plan.bfloat16)):
            logits = trial(pixels)
        loss(logits, *targets).backward()
        trial.zero_grad(set_to_none=True)
    wait_for(device)
    return len(labels) * _TIMED_STEPS / (time.perf_counter() - started)
