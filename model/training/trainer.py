"""Running the phases of a plan with fastai's Learner, from the last checkpoint on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.training import plots
from model.training._fastai import (
    Adam,
    Callback,
    DataLoaders,
    GradientClip,
    Learner,
    OptimWrapper,
    ParamScheduler,
    Recorder,
    SchedCos,
    SchedLin,
    TrainEvalCallback,
    accuracy,
    combine_scheds,
    valley,
)
from model.training.augment import normalize, resized
from model.training.callbacks import (
    AugmentCallback,
    Bfloat16Autocast,
    EmaCallback,
    InMemoryLRFinder,
    ProgressCallback,
    TimingCallback,
)
from model.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.training.initialization import Start
from model.training.inputs import Inputs
from model.training.loader import ImageLoader, ImageTable
from model.training.partial_weights import estimate_norm_statistics
from model.training.progress import RunProgress
from model.training.recipes import Phase, Plan, training_loss

__all__ = ["Trainer"]

_LONG_RUN = 100  # epochs; a longer run has so short ones that not each is worth a checkpoint
_SECONDS_BETWEEN = 20.0  # two checkpoints of a long run
_WARMUP_START = 0.02  # of lr_max, where warm-up begins; chosen by trial
_BATCHES_FOR_STATISTICS = 8  # batches; chosen by trial


@dataclass(kw_only=True)
class Trainer:
    """A run in progress: what is trained, and how far it has come."""

    plan: Plan
    start: Start
    train: ImageTable
    calibration: ImageTable
    inputs: Inputs
    folder: Path
    device: torch.device
    seed: int
    report: Callable[[RunProgress], None]
    note: Callable[[str], None]
    should_stop: Callable[[], bool]
    history: list[RunProgress] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    ema: EmaCallback | None = None
    timer: TimingCallback = field(init=False)
    kept_at: float = 0.0

    @property
    def network(self) -> nn.Module:
        """What is trained."""
        return self.start.network

    def run(self) -> None:
        """Run every phase that is left. Raises TrainingStopped if asked to stop."""
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.timer = TimingCallback(self.device)
        checkpoint = load_checkpoint(self.folder)
        train = ImageLoader(
            table=self.train,
            batch_size=min(self.plan.batch_size, len(self.train.labels)),
            training=True,
            seed=self.seed,
        )
        valid = ImageLoader(
            table=self.calibration, batch_size=256 if self.device.type == "cuda" else 64, training=False
        )
        if checkpoint is None and self.start.folded:
            self._estimate_norm_statistics(train)
        if self.plan.ema_decay is not None:
            steps = self.plan.epochs * len(train)
            self.ema = EmaCallback(self.network, decay=self.plan.ema_decay, steps=steps)
        if checkpoint is not None:
            self._restore(checkpoint)
        for number, phase in enumerate(self.plan.phases):
            if checkpoint is None or number >= checkpoint.phase:
                here = checkpoint if checkpoint is not None and number == checkpoint.phase else None
                loaders = DataLoaders(train, valid, path=self.folder, device=self.device)
                self._phase(number, phase, loaders, here)

    def _estimate_norm_statistics(self, train: ImageLoader) -> None:
        """Let the norms that came folded take on the statistics of some training images."""
        size = self.plan.size_at(0)
        some = islice(replace(train, device=self.device), _BATCHES_FOR_STATISTICS)
        count = estimate_norm_statistics(
            self.network, self.start.folded, (normalize(resized(images, size)) for images, _ in some)
        )
        self.note(f"start: the statistics of {len(self.start.folded)} folded batch norms are those of {count} images")

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.load_state_dict(checkpoint.network)
        if self.ema is not None:
            self.ema.ema.load_state_dict(checkpoint.ema)
        self.history, self.rates = list(checkpoint.history), list(checkpoint.rates)

    def _phase(self, number: int, phase: Phase, loaders: DataLoaders, checkpoint: Checkpoint | None) -> None:
        before = sum(earlier.epochs for earlier in self.plan.phases[:number])
        learner = self._learner(loaders, epochs_before=before)
        learner.create_opt()
        learner.opt.freeze_to(-_head_groups(self.plan) if phase.frozen else 0)
        done = 0
        if checkpoint is not None and checkpoint.epoch:
            learner.opt.load_state_dict(checkpoint.optimizer)
            done = checkpoint.epoch
        if len(self.rates) <= number:
            loaders.train.epoch = before  # wherever the run comes from, the finder meets the same images
            self.rates.append(phase.lr_max or self._find_rate(number, phase, learner))
        if done >= phase.epochs:
            return

        def keep(epoch: int, progress: RunProgress) -> None:
            self.history.append(progress)
            last = before + epoch == self.plan.epochs
            if self.plan.epochs <= _LONG_RUN or last or time.monotonic() - self.kept_at >= _SECONDS_BETWEEN:
                self._keep(number, epoch, learner)

        follow = ProgressCallback(
            plan=self.plan,
            seed=self.seed,
            epochs_before=before,
            timer=self.timer,
            report=self.report,
            should_stop=self.should_stop,
            keep=keep,
        )
        callbacks: list[Callback] = [follow, *([self.ema] if self.ema is not None else [])]
        self._fit(learner, phase, self.rates[number], callbacks, done)
        if follow.failure is not None:
            raise follow.failure

    def _learner(self, loaders: DataLoaders, *, epochs_before: int) -> Learner:
        callbacks: list[Callback] = [
            TrainEvalCallback(),
            Recorder(add_time=False),
            AugmentCallback(self.inputs, epochs_before=epochs_before),
            GradientClip(self.plan.gradient_clip),
            *([Bfloat16Autocast(self.device)] if self.plan.bfloat16 else []),
            self.timer,
        ]
        learner = Learner(
            loaders,
            self.network,
            loss_func=training_loss(self.plan),
            opt_func={"adam": Adam, "adamw": _adamw, "sgd": _sgd}[self.plan.optimizer],
            splitter=partial(_groups, self.plan),
            metrics=accuracy,
            cbs=callbacks,
            path=self.folder,
            wd=_weight_decay(self.plan),
            default_cbs=False,  # they would draw progress bars
        )
        learner.logger = _silent
        return learner

    def _fit(self, learner: Learner, phase: Phase, lr_max: float, callbacks: Sequence[Callback], done: int) -> None:
        rates = lr_max * _layer_rates(self.plan, phase.layer_lr_decay)
        if self.plan.optimizer == "adam":
            learner.fit_one_cycle(phase.epochs, rates, cbs=list(callbacks), start_epoch=done)
            return
        warm = min(0.5, max(self.plan.warmup_epochs / phase.epochs, 1 / (phase.epochs * 10)))
        schedule = combine_scheds(
            [warm, 1 - warm], [SchedLin(_WARMUP_START * rates, rates), SchedCos(rates, 0 * rates)]
        )
        learner.fit(phase.epochs, cbs=[ParamScheduler({"lr": schedule}), *callbacks], start_epoch=done)

    def _find_rate(self, number: int, phase: Phase, learner: Learner) -> float:
        """Return the rate that fastai's valley rule suggests; its plot goes to the run's folder."""
        torch.manual_seed(self.seed)
        steps = self.plan.finder_steps
        fractions = _layer_rates(self.plan, phase.layer_lr_decay)
        finder = InMemoryLRFinder(start_lr=1e-7 * fractions, end_lr=10 * fractions, num_it=steps)
        learner.fit(steps // len(learner.dls.train) + 1, cbs=finder)
        kept = slice(steps // 10, -5)
        tried = torch.tensor(learner.recorder.lrs[kept])
        losses = torch.stack([torch.as_tensor(loss) for loss in learner.recorder.losses[kept]]).float().cpu()
        found, _ = valley(tried, losses, steps)
        plots.draw_rates(self._plots() / f"learning_rate_{number + 1}.png", tried.tolist(), losses.tolist(), found)
        return float(found)

    def _keep(self, number: int, epoch: int, learner: Learner) -> None:
        self.kept_at = time.monotonic()
        save_checkpoint(
            self.folder,
            Checkpoint(
                phase=number,
                epoch=epoch,
                rates=tuple(self.rates),
                history=tuple(self.history),
                network=self.network.state_dict(),
                ema=self.ema.ema.state_dict() if self.ema is not None else {},
                optimizer=learner.opt.state_dict(),
            ),
        )

    def _plots(self) -> Path:
        folder = self.folder / "plots"
        folder.mkdir(exist_ok=True)
        return folder


def _silent(*_: object) -> None:
    """Print nothing: a run reports its progress to its caller."""


def _sgd(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True)


def _adamw(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.AdamW, lr=lr, betas=(0.9, 0.98))


def _head_groups(plan: Plan) -> int:
    return 1 if plan.optimizer == "adam" else 2


def _groups(plan: Plan, network: nn.Module) -> list[list[nn.Parameter]]:
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


def _layer_rates(plan: Plan, decay: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the rate of each parameter group as a fraction of the head's.

    In even ratios from `decay` on; for AdamW, whose steps do not depend on the size of gradients, `decay` in the
    earliest section only.
    """
    if plan.optimizer == "adam":
        return np.array([decay, 1.0])
    if plan.optimizer == "adamw":
        return np.repeat([decay, 1.0, 1.0], 2)
    return np.repeat(np.geomspace(decay, 1.0, 3), 2)


def _weight_decay(plan: Plan) -> float | list[float]:
    return plan.weight_decay if plan.optimizer == "adam" else [plan.weight_decay, 0.0] * 3
