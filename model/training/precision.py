"""In which precision the network trains faster on this machine, measured when a run begins."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from model.training.recipes import Plan

__all__ = ["bfloat16_ratio", "choose_precision", "has_fast_bfloat16", "wait_for"]

_PAYS = 1.05  # times as fast as float32, at least; below that the rounding is for nothing
_STEPS = 3  # of each precision, the first unmeasured
_SECONDS = 20.0  # after which no further step is begun
_IMAGES_ON_CPU = 8  # a batch of more takes longer and shows the same


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether the processor multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))


class Measure(Protocol):
    """`bfloat16_ratio`, or what a test says instead."""

    def __call__(self, network: nn.Module, *, batch: int, size: int, device: torch.device) -> float:
        """Return how many times as fast the network trains in bfloat16 as in float32."""


def choose_precision(
    plan: Plan,
    network: nn.Module,
    *,
    device: torch.device,
    supported: Callable[[torch.device], bool] | None = None,
    measure: Measure | None = None,
) -> tuple[Plan, str]:
    """Return the plan with its precision decided, and a line that says how; a plan that says which one is left as it
    is. `supported` and `measure` take the place of `has_fast_bfloat16` and `bfloat16_ratio`.
    """
    if plan.bfloat16 is not None:
        measured = f", {plan.bfloat16_ratio:.2f} times as fast as float32" if plan.bfloat16_ratio else ""
        return plan, f"precision: {'bfloat16' if plan.bfloat16 else 'float32'}, as planned{measured}"
    if not (supported or has_fast_bfloat16)(device):
        return replace(plan, bfloat16=False), "precision: float32; this processor has no fast bfloat16"
    size = plan.size_at(0)
    batch = plan.batch_size if device.type == "cuda" else min(plan.batch_size, _IMAGES_ON_CPU)
    ratio = (measure or bfloat16_ratio)(network, batch=batch, size=size, device=device)
    chosen = replace(plan, bfloat16=ratio >= _PAYS, bfloat16_ratio=round(ratio, 3))
    name = "bfloat16" if chosen.bfloat16 else "float32"
    return chosen, f"precision: {name}; bfloat16 was measured {ratio:.2f} times as fast as float32 at {size} px"


def bfloat16_ratio(network: nn.Module, *, batch: int, size: int, device: torch.device) -> float:
    """Return how many times as fast a copy of the network trains in bfloat16 as in float32: forward, backward and step
    on tensors that are ready. The two take turns, and each counts by its fastest step.

    On a processor one thread is measured, by the time that it really ran: what else the machine does has no say.
    """
    trial = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(trial.parameters(), lr=1e-4, momentum=0.9)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, size, size, generator=random).to(device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    begun = time.perf_counter()
    with _one_thread():
        for step in range(_STEPS):
            if step > 1 and time.perf_counter() - begun > _SECONDS:
                break
            for half, taken in seconds.items():
                wait_for(device)
                started = clock()
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                    logits = trial(pixels)
                F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                wait_for(device)
                taken.append(clock() - started)
    return min(seconds[False][1:]) / max(1e-9, min(seconds[True][1:]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
