"""One training run, from a data set and a recipe to weights that can be published."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import torch
from pydantic import JsonValue
from torch import nn
from torch.optim.swa_utils import update_bn

from model import cards
from model.data.dataset import Dataset
from model.training import plots
from model.training.augment import normalize, resized
from model.training.distillation import Teacher, open_teacher
from model.training.errors import TrainingFailed, TrainingStopped
from model.training.initialization import Start, starting_network
from model.training.inputs import Inputs
from model.training.loader import ImageLoader, ImageTable, load_table
from model.training.losses import LossKind
from model.training.precision import choose_precision
from model.training.progress import RunProgress
from model.training.recipes import Plan, make_plan
from model.training.trainer import Trainer

__all__ = ["Trained", "TrainingStopped", "train"]

_PLAN = "plan.json"
_STATISTICS_IMAGES = 2_048
_DEFAULT_INIT = {"original": "imagenet", "scratch": "scratch"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run gives. `report` is the card's recipe; `image_sizes` are what publishing may choose from."""

    weights: Mapping[str, torch.Tensor]
    report: Mapping[str, JsonValue]
    image_sizes: tuple[int, ...]
    plots: tuple[Path, ...]


def train(
    dataset: Dataset,
    *,
    recipe: str,
    run_folder: Path,
    init: str | Path | None = None,
    teacher: Path | None = None,
    epochs: int | None = None,
    on_progress: Callable[[RunProgress], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    seed: int = 0,
    device: str = "auto",
    pretrained: Path | None = None,
    options: Mapping[str, JsonValue] | None = None,
) -> Trained:
    """Train by a recipe in `run_folder`; called again after a kill with the same folder, it continues.

    `init`: `scratch`, `imagenet` (from the file `pretrained` if given), a published version's folder or a
    .safetensors file; what the recipe starts from if None. `teacher`: for `distill`, a published version's folder
    or an .onnx file with its JSON beside it (see `open_teacher`). `options` replace fields of the
    recipe's plan.
    `on_progress` is called every few seconds and after each epoch.
    `on_note` gets what is worth keeping beside them, a line each: what the start is made of, how it is computed.
    Raises TrainingStopped once `should_stop()` is true, TrainingFailed, DatasetError, or the errors of
    `cards.verify`.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    where = _device(device)
    start = init if init is not None else _default_init(recipe)
    taught = _teacher(teacher, recipe, dataset.classes)
    begin = starting_network(start, dataset.classes, pretrained=pretrained, seed=seed)
    for note in [f"start: {begin.summary}", *([f"teacher: {taught.summary}"] if taught is not None else [])]:
        on_note(note)
    identity = _identity(dataset, recipe=recipe, start=start, begin=begin, taught=taught, seed=seed)
    begun = _begun_plan(run_folder, identity)
    size, loss = _of_version(start)
    plan = begun or make_plan(
        recipe,
        gpu=where.type == "cuda",
        epochs=epochs,
        image_size=size,
        loss=loss,
        teacher_size=taught.size if taught is not None else None,
        options=options,
    )
    tables = {
        split: load_table(dataset, split, plan.stored_size, folder=run_folder, device=where)
        for split in ("train", "calibration")
    }
    plan, precision = choose_precision(plan, begin.network, device=where)
    inputs = Inputs(plan=plan, classes=len(dataset.classes), teacher=taught)
    if plan != begun:
        on_note(precision)
        _write_plan(run_folder, identity, plan)
    trainer = Trainer(
        plan=plan,
        start=begin,
        train=tables["train"],
        calibration=tables["calibration"],
        inputs=inputs,
        folder=run_folder,
        device=where,
        seed=seed,
        report=on_progress,
        note=on_note,
        should_stop=should_stop,
    )
    trainer.run()
    return _finished(trainer, start=start)


def _default_init(recipe: str) -> str:
    """Return what the recipe starts from unless told otherwise. Raises TrainingFailed where it must be told."""
    if recipe not in _DEFAULT_INIT:
        raise TrainingFailed(
            f"the recipe {recipe} continues from a model: give `--init` with a version, imagenet or scratch"
        )
    return _DEFAULT_INIT[recipe]


def _teacher(place: Path | None, recipe: str, classes: Sequence[str]) -> Teacher | None:
    """Return the run's teacher, opened and tried. Raises TrainingFailed where the recipe needs one or has no use for
    it.
    """
    if (place is not None) != (recipe == "distill"):
        raise TrainingFailed(
            "the recipe distill learns from a teacher: give `--teacher` with an .onnx file or a version"
            if place is None
            else f"the recipe {recipe} has no use for a teacher; `--recipe distill` has"
        )
    return open_teacher(place, classes) if place is not None else None


def _identity(
    dataset: Dataset, *, recipe: str, start: str | Path, begin: Start, taught: Teacher | None, seed: int
) -> dict[str, JsonValue]:
    """Return what must be the same for a run to continue from its folder."""
    return {
        "recipe": recipe,
        "data": dataset.fingerprint,
        "classes": list(dataset.classes),
        "init": _name_of(start),
        "init_sha256": begin.origin.get("sha256"),
        "teacher": taught.identity if taught is not None else None,
        "seed": seed,
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _begun_plan(folder: Path, identity: Mapping[str, JsonValue]) -> Plan | None:
    """Return the plan that the folder's run began with, or None if none has begun."""
    file = folder / _PLAN
    if not file.exists():
        return None
    document = json.loads(file.read_text())
    if any(identity.get(name) != value for name, value in document["identity"].items()):  # older ones say less
        raise TrainingFailed(f"{folder} holds a run of another recipe, data or start; use a new folder")
    return Plan.from_json(document["plan"])


def _write_plan(folder: Path, identity: Mapping[str, JsonValue], plan: Plan) -> None:
    draft = folder / f"{_PLAN}.new"
    draft.write_text(json.dumps({"identity": identity, "plan": plan.to_json()}, indent=1))
    draft.replace(folder / _PLAN)


def _name_of(start: str | Path) -> str:
    """Return what a run starts from, by the name that it keeps wherever it lies."""
    return cards.read(Path(start)).name if Path(start).is_dir() else Path(start).name


def _of_version(start: str | Path) -> tuple[int | None, LossKind | None]:
    """Return the image size and the loss of the version that a run starts from."""
    if str(start) in _DEFAULT_INIT.values() or not Path(start).is_dir():
        return None, None
    card = cards.read(Path(start))
    loss = card.recipe.model_dump().get("loss")
    return card.image_size, loss if loss in get_args(LossKind) else None


def _finished(trainer: Trainer, *, start: str | Path) -> Trained:
    """Return the best of the last and the averaged weights, by accuracy on `calibration`.

    Each with the batch norms' statistics as the run left them, which are those of augmented images, and with those of
    plain images.
    """
    plan, size = trainer.plan, trainer.plan.size_at(trainer.plan.epochs - 1)
    candidates: dict[str, nn.Module] = {"last": trainer.network}
    if trainer.ema is not None:
        candidates["ema"] = trainer.ema.ema.module
    candidates |= {
        f"{name}, statistics of plain photos": with_plain_statistics(network, trainer.train, size, trainer.device)
        for name, network in candidates.items()
    }
    scores = {
        name: _accuracy(network, trainer.calibration, size, trainer.device) for name, network in candidates.items()
    }
    chosen = max(scores, key=lambda name: (scores[name], name.startswith("ema")))
    folder = trainer.folder / "plots"
    folder.mkdir(exist_ok=True)
    plots.draw_history(folder / "history.png", trainer.history)
    return Trained(
        weights={name: tensor.detach().cpu() for name, tensor in candidates[chosen].state_dict().items()},
        report=_report(trainer, start=start, chosen=chosen, scores=scores),
        image_sizes=plan.eval_sizes,
        plots=tuple(sorted(folder.glob("*.png"))),
    )


def _report(trainer: Trainer, *, start: str | Path, chosen: str, scores: Mapping[str, float]) -> dict[str, JsonValue]:
    """Return what the card says of the recipe and the run; `scores` are the accuracies on `calibration`."""
    plan, teacher = trainer.plan, trainer.inputs.teacher
    return {
        "name": plan.recipe,
        "loss": plan.loss,
        "init": _name_of(start),
        "start": trainer.start.origin,
        **({"teacher": teacher.origin} if teacher is not None else {}),
        "seed": trainer.seed,
        "epochs": plan.epochs,
        "plan": plan.to_json(),
        "lr_max": list(trainer.rates),
        "weights": chosen,
        "calibration_accuracy": dict(scores),
        "device": trainer.device.type,
        "speed": _speed(trainer),
        "history": [progress.to_json() for progress in trainer.history],
    }


def _speed(trainer: Trainer) -> dict[str, JsonValue]:
    """Return how it was computed, and how fast at each size, by the last epoch there, and the network's own limit."""
    last = {progress.image_size: progress for progress in trainer.history}
    return {
        "bfloat16": trainer.plan.bfloat16,
        "bfloat16_ratio": trainer.plan.bfloat16_ratio,
        "by_size": [
            {
                "image_size": progress.image_size,
                "images_per_second": progress.images_per_second,
                "network_images_per_second": progress.network_images_per_second,
            }
            for progress in last.values()
        ],
    }


def with_plain_statistics(network: nn.Module, table: ImageTable, size: int, device: torch.device) -> nn.Module:
    """Return a copy whose batch norms have the statistics of some of the table's images at `size`.

    Augmented images have others, and a moving average of weights has no statistics of its own: those that were averaged
    along belong to no weights at all. `torch.optim.swa_utils.update_bn` is PyTorch's own remedy.
    """
    copied = copy.deepcopy(network)
    batches = ImageLoader(table=table, batch_size=64, training=True, device=device)
    some = islice(batches, _STATISTICS_IMAGES // 64 + 1)
    update_bn((normalize(resized(images, size)) for images, _ in some), copied)
    return copied.eval()


@torch.inference_mode()
def _accuracy(network: nn.Module, table: ImageTable, size: int, device: torch.device) -> float:
    network.eval()
    right = 0
    for images, labels in ImageLoader(table=table, batch_size=128, training=False, device=device):
        right += int((network(normalize(resized(images, size))).argmax(dim=1) == labels).sum())
    return right / len(table.labels)
