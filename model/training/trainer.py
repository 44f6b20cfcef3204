"""Running the stages of a plan with fastai's Learner, from wherever the last checkpoint left off."""

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

from model.evaluation import plots
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
from model.training.augment import normalize, plain_view
from model.training.callbacks import AverageWeights, FindRate, FollowEpochs, HalfPrecision, MakeViews, TimeNetwork
from model.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.training.initialization import Start
from model.training.inputs import Inputs
from model.training.loader import Batches, PhotoTable
from model.training.partial_weights import settle
from model.training.recipes import Plan, Stage, training_loss

_LONG_RUN, _SECONDS_BETWEEN = 100, 20.0
_WARM_START = 0.02  # of the peak rate
_SETTLED_ON = 8  # batches


@dataclass(kw_only=True)
class Run:
    """A run in progress: what is trained, and how far it has come."""

    plan: Plan
    start: Start
    train: PhotoTable
    calibration: PhotoTable
    inputs: Inputs
    folder: Path
    device: torch.device
    seed: int
    tell: Callable[[dict[str, Any]], None]
    note: Callable[[str], None]
    should_stop: Callable[[], bool]
    history: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    average: AverageWeights | None = None
    timer: TimeNetwork = field(init=False)
    kept_at: float = 0.0

    @property
    def network(self) -> nn.Module:
        return self.start.network

    def go(self) -> None:
        """Runs every stage that is left. Raises TrainingStopped if asked to stop."""
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.timer = TimeNetwork(self.device)
        checkpoint = load_checkpoint(self.folder)
        train = Batches(
            table=self.train, batch=min(self.plan.batch, len(self.train.labels)), training=True, seed=self.seed
        )
        valid = Batches(table=self.calibration, batch=256 if self.device.type == "cuda" else 64, training=False)
        if checkpoint is None and self.start.folded:
            self._settle(train)
        if self.plan.average is not None:
            steps = self.plan.epochs * len(train)
            self.average = AverageWeights(self.network, decay=self.plan.average, steps=steps)
        if checkpoint is not None:
            self._restore(checkpoint)
        for number, stage in enumerate(self.plan.stages):
            if checkpoint is None or number >= checkpoint.stage:
                here = checkpoint if checkpoint is not None and number == checkpoint.stage else None
                loaders = DataLoaders(train, valid, path=self.folder, device=self.device)
                self._stage(number, stage, loaders, here)

    def _settle(self, train: Batches) -> None:
        """Lets the norms that came folded take on the statistics of some training photos."""
        size = self.plan.size_at(0)
        some = islice(replace(train, device=self.device), _SETTLED_ON)
        photos = settle(self.network, self.start.folded, (normalize(plain_view(photos, size)) for photos, _ in some))
        self.note(f"start: the statistics of {len(self.start.folded)} folded batch norms are those of {photos} photos")

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.network.load_state_dict(checkpoint.network)
        if self.average is not None:
            self.average.average.load_state_dict(checkpoint.average)
        self.history, self.rates = list(checkpoint.history), list(checkpoint.rates)

    def _stage(self, number: int, stage: Stage, loaders: DataLoaders, checkpoint: Checkpoint | None) -> None:
        before = sum(earlier.epochs for earlier in self.plan.stages[:number])
        learner = self._learner(loaders, epochs_before=before)
        learner.create_opt()
        learner.opt.freeze_to(-_head_groups(self.plan) if stage.frozen else 0)
        done = 0
        if checkpoint is not None and checkpoint.epoch:
            learner.opt.load_state_dict(checkpoint.optimizer)
            done = checkpoint.epoch
        if len(self.rates) <= number:
            loaders.train.epoch = before  # wherever the run comes from, the finder meets the same photos
            self.rates.append(stage.peak or self._find_rate(number, stage, learner))
        if done >= stage.epochs:
            return

        def keep(epoch: int, record: dict[str, Any]) -> None:
            self.history.append(record)
            last = before + epoch == self.plan.epochs
            if self.plan.epochs <= _LONG_RUN or last or time.monotonic() - self.kept_at >= _SECONDS_BETWEEN:
                self._keep(number, epoch, learner)

        follow = FollowEpochs(
            plan=self.plan,
            seed=self.seed,
            epochs_before=before,
            timer=self.timer,
            tell=self.tell,
            should_stop=self.should_stop,
            keep=keep,
        )
        callbacks: list[Callback] = [follow, *([self.average] if self.average is not None else [])]
        self._fit(learner, stage, self.rates[number], callbacks, done)
        if follow.failure is not None:
            raise follow.failure

    def _learner(self, loaders: DataLoaders, *, epochs_before: int) -> Learner:
        callbacks: list[Callback] = [
            TrainEvalCallback(),
            Recorder(add_time=False),
            MakeViews(self.inputs, epochs_before=epochs_before),
            GradientClip(self.plan.gradient_clip),
            *([HalfPrecision(self.device)] if self.plan.bfloat16 else []),
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

    def _fit(self, learner: Learner, stage: Stage, peak: float, callbacks: Sequence[Callback], done: int) -> None:
        rates = peak * _spread(self.plan, stage.spread)
        if self.plan.optimizer == "adam":
            learner.fit_one_cycle(stage.epochs, rates, cbs=list(callbacks), start_epoch=done)
            return
        warm = min(0.5, max(self.plan.warm_up / stage.epochs, 1 / (stage.epochs * 10)))
        schedule = combine_scheds([warm, 1 - warm], [SchedLin(_WARM_START * rates, rates), SchedCos(rates, 0 * rates)])
        learner.fit(stage.epochs, cbs=[ParamScheduler({"lr": schedule}), *callbacks], start_epoch=done)

    def _find_rate(self, number: int, stage: Stage, learner: Learner) -> float:
        """The rate that fastai's valley rule suggests; its plot goes to the run's folder."""
        torch.manual_seed(self.seed)
        steps = self.plan.finder_steps
        shares = _spread(self.plan, stage.spread)
        finder = FindRate(start_lr=1e-7 * shares, end_lr=10 * shares, num_it=steps)
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
                stage=number,
                epoch=epoch,
                rates=tuple(self.rates),
                history=tuple(self.history),
                network=self.network.state_dict(),
                average=self.average.average.state_dict() if self.average is not None else {},
                optimizer=learner.opt.state_dict(),
            ),
        )

    def _plots(self) -> Path:
        folder = self.folder / "plots"
        folder.mkdir(exist_ok=True)
        return folder


def _silent(*_: object) -> None:
    """In place of print: a run tells its progress to its caller."""


def _sgd(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True)


def _adamw(groups: Any, lr: float) -> OptimWrapper:
    return OptimWrapper(groups, opt=torch.optim.AdamW, lr=lr, betas=(0.9, 0.98))


def _head_groups(plan: Plan) -> int:
    return 1 if plan.optimizer == "adam" else 2


def _groups(plan: Plan, network: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters from the photo to the head: body and head for Adam, where fastai itself spares norms and biases the
    weight decay; for the others three sections, each once with and once without it."""
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


def _spread(plan: Plan, least: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The rate of each parameter group as a share of the head's: in even ratios from ``least``; for AdamW, whose steps
    do not depend on the size of gradients, ``least`` in the earliest section only."""
    if plan.optimizer == "adam":
        return np.array([least, 1.0])
    if plan.optimizer == "adamw":
        return np.repeat([least, 1.0, 1.0], 2)
    return np.repeat(np.geomspace(least, 1.0, 3), 2)


def _weight_decay(plan: Plan) -> float | list[float]:
    return plan.weight_decay if plan.optimizer == "adam" else [plan.weight_decay, 0.0] * 3
