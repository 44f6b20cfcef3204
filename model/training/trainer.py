"""Running the phases of a plan with fastai's Learner, from the last checkpoint on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from model.training import plots
from model.training._fastai import (
    Callback,
    DataLoaders,
    GradientClip,
    Learner,
    ParamScheduler,
    Recorder,
    TrainEvalCallback,
    accuracy,
    valley,
)
from model.training.augment import normalize, resized
from model.training.callbacks import (
    AugmentCallback,
    Bfloat16Autocast,
    EmaCallback,
    InMemoryLRFinder,
    TimingCallback,
)
from model.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.training.epoch import Meter, evaluate_epoch, train_one_epoch
from model.training.errors import TrainingFailed, TrainingStopped
from model.training.initialization import Start
from model.training.inputs import Inputs
from model.training.loader import ImageLoader, ImageTable
from model.training.optimization import (
    head_groups,
    layer_rates,
    optimizer,
    parameter_groups,
    schedules,
    weight_decay,
)
from model.training.partial_weights import estimate_norm_statistics
from model.training.progress import RunProgress
from model.training.recipes import Phase, Plan, training_loss

__all__ = ["Trainer"]

_LONG_RUN = 100  # epochs; a longer run has so short ones that not each is worth a checkpoint
_SECONDS_BETWEEN = 20.0  # two checkpoints of a long run
_REPORT_SECONDS = 2.0  # between two reports within an epoch
_SEEDS_APART = 100_003  # a prime, so that the epochs of runs with seeds side by side draw other numbers
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
        learner.opt.freeze_to(-head_groups(self.plan) if phase.frozen else 0)
        done = 0
        if checkpoint is not None and checkpoint.epoch:
            learner.opt.load_state_dict(checkpoint.optimizer)
            done = checkpoint.epoch
        if len(self.rates) <= number:
            loaders.train.epoch = before  # wherever the run comes from, the finder meets the same images
            self.rates.append(phase.lr_max or self._find_rate(number, phase, learner))
        learner.opt.set_hypers(wd=learner.wd)
        learner.n_epoch = phase.epochs
        scheduler = ParamScheduler(schedules(self.plan, phase, self.rates[number]))
        with learner.added_cbs([scheduler, *([self.ema] if self.ema is not None else [])]):
            learner("before_fit")
            for epoch in range(done, phase.epochs):
                progress = self._epoch(learner, epoch, number=before + epoch)
                self.history.append(progress)
                if self._is_worth_a_checkpoint(progress):
                    self._keep(number, epoch + 1, learner)
                self.report(progress)
            learner("after_fit")

    def _epoch(self, learner: Learner, epoch: int, *, number: int) -> RunProgress:
        """Train and evaluate epoch `epoch` of a phase, which is `number` of the run, both from 0.

        Its random numbers depend on nothing before it: if it is repeated after a kill, it goes as it would have gone.
        """
        torch.manual_seed(self.seed * _SEEDS_APART + number)
        learner.dls.train.epoch = number
        self.timer.reset()
        meter = Meter()
        reported = meter.started

        def after_batch() -> None:
            nonlocal reported
            if self.should_stop():
                raise TrainingStopped(f"stopped in epoch {number + 1}, as asked")
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                self.report(self._progress(learner, meter, number=number))

        learner.epoch = epoch
        learner("before_epoch")
        train_one_epoch(learner, meter, after_batch=after_batch)
        evaluated = evaluate_epoch(learner)
        learner("after_epoch")
        progress = self._progress(learner, meter, number=number, ended=True)
        if not math.isfinite(progress.train_loss):
            raise TrainingFailed(
                f"the loss became {progress.train_loss} in epoch {progress.epoch}; start anew with a lower lr_max"
            )
        return replace(progress, valid_loss=evaluated.loss, accuracy=evaluated.accuracy)

    def _progress(self, learner: Learner, meter: Meter, *, number: int, ended: bool = False) -> RunProgress:
        """Return how far the run is within its epoch `number`, counted from 0, or at its end."""
        loader, rate = learner.dls.train, meter.images_per_second
        done, fraction = (number + 1, 0.0) if ended else (number, meter.batches / len(loader))
        left = (self.plan.epochs - done - fraction) * len(loader) * loader.batch_size
        return RunProgress(
            epoch=done,
            epochs=self.plan.epochs,
            epoch_share=fraction,
            train_loss=meter.mean_loss,
            images_per_second=rate,
            network_images_per_second=self.timer.images_per_second,
            eta_seconds=left / rate if rate else None,
            image_size=self.plan.size_at(number),
        )

    def _is_worth_a_checkpoint(self, progress: RunProgress) -> bool:
        """Return whether an epoch that has ended is kept at once: not each of a long run is, but the last."""
        if self.plan.epochs <= _LONG_RUN or progress.epoch == self.plan.epochs:
            return True
        return time.monotonic() - self.kept_at >= _SECONDS_BETWEEN

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
            opt_func=optimizer(self.plan),
            splitter=partial(parameter_groups, self.plan),
            metrics=accuracy,
            cbs=callbacks,
            path=self.folder,
            wd=weight_decay(self.plan),
            default_cbs=False,  # they would draw progress bars
        )
        learner.logger = _silent
        return learner

    def _find_rate(self, number: int, phase: Phase, learner: Learner) -> float:
        """Return the rate that fastai's valley rule suggests; its plot goes to the run's folder."""
        torch.manual_seed(self.seed)
        steps = self.plan.finder_steps
        fractions = layer_rates(self.plan, phase.layer_lr_decay)
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
