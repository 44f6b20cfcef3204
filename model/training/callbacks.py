"""What a run adds to fastai's batches: augmentation, precision, timing, EMA of the weights."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.training._fastai import Callback, LRFinder, ParamScheduler
from model.training.augment import normalize, resized
from model.training.inputs import Inputs
from model.training.precision import wait_for

__all__ = [
    "AugmentCallback",
    "Bfloat16Autocast",
    "EmaCallback",
    "InMemoryLRFinder",
    "TimingCallback",
]

_LARGEST_SPAN = 1 / 30  # of a run's steps, that the moving average reaches back; chosen by trial


class AugmentCallback(Callback):  # type: ignore[misc]  # fastai has no types
    """Turns stored bytes into the network's input: augmented in training, only resized for evaluation."""

    order = 5

    def __init__(self, inputs: Inputs, *, epochs_before: int) -> None:
        self.inputs, self.epochs_before = inputs, epochs_before

    def before_batch(self) -> None:
        epoch = self.epochs_before + self.epoch
        images, labels = self.learn.xb[0], self.learn.yb[0]
        if not self.training:
            self.learn.xb = (normalize(resized(images, self.inputs.plan.size_at(epoch))),)
            return
        pixels, targets = self.inputs.make(images, labels, epoch=epoch, number=self.iter)
        self.learn.xb, self.learn.yb = (pixels,), targets


class Bfloat16Autocast(Callback):  # type: ignore[misc]
    """The forward pass in bfloat16; its range needs no loss scaling."""

    order = 10

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.context: AbstractContextManager[Any] | None = None

    def before_batch(self) -> None:
        self.context = torch.autocast(self.device.type, dtype=torch.bfloat16)
        self.context.__enter__()  # type: ignore[no-untyped-call]

    def after_pred(self) -> None:
        self._leave()
        self.learn.pred = self.learn.pred.float()

    def after_cancel_batch(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None


class TimingCallback(Callback):  # type: ignore[misc]
    """Times forward, backward and step from when the batch's tensors are ready: the network's own limit in this run.

    A GPU is waited for at both ends, so that only some of its batches are timed.
    """

    order = 15  # after augmentation and precision, before the EMA

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.one_in = 16 if device.type == "cuda" else 1
        self.reset()

    def reset(self) -> None:
        self.images, self.seconds = 0, 0.0
        self.started: float | None = None

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds else None

    def before_batch(self) -> None:
        self.started = None
        if self.training and self.iter % self.one_in == self.one_in - 1:
            wait_for(self.device)
            self.started = time.perf_counter()

    def after_step(self) -> None:
        if self.started is not None:
            wait_for(self.device)
            self.seconds += time.perf_counter() - self.started
            self.images += len(self.learn.xb[0])
            self.started = None


class EmaCallback(Callback):  # type: ignore[misc]
    """An exponential moving average of the weights and norms' statistics, evaluated in place of the last weights.

    Tarvainen and Valpola (NeurIPS 2017). The average spans at most a thirtieth of the run (chosen by trial), so that
    short runs profit.
    """

    order = 20

    def __init__(self, network: torch.nn.Module, *, decay: float, steps: int) -> None:
        reached = min(decay, 1 - 1 / max(2.0, steps * _LARGEST_SPAN))
        step = get_ema_multi_avg_fn(reached)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(network, multi_avg_fn=step, use_buffers=True)
        self.last: torch.nn.Module | None = None

    def after_step(self) -> None:
        self.ema.update_parameters(self.learn.model)

    def before_validate(self) -> None:
        self.last, self.learn.model = self.learn.model, self.ema.module.eval()

    def after_validate(self) -> None:
        if self.last is not None:
            self.learn.model, self.last = self.last, None


class InMemoryLRFinder(LRFinder):  # type: ignore[misc]
    """fastai's learning-rate finder, keeping the weights it comes back to in memory and not in a pickle on disk."""

    def before_fit(self) -> None:
        ParamScheduler.before_fit(self)
        self.weights = {name: tensor.clone() for name, tensor in self.learn.model.state_dict().items()}
        self.best_loss = float("inf")

    def after_fit(self) -> None:
        self.learn.opt.zero_grad()
        self.learn.opt.clear_state()
        self.learn.model.load_state_dict(self.weights)
