"""The recipes: everything about a run that is decided before it starts, so that a killed run goes on as it began."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from model.training.augment import Views
from model.training.errors import TrainingFailed
from model.training.losses import LossKind, TrainingLoss

RecipeName = Literal["original", "scratch", "finetune", "distill"]
RECIPES: tuple[RecipeName, ...] = ("original", "scratch", "finetune", "distill")
LOOSE = 0.25  # fraction of views with loose framing
Optimizer = Literal["sgd", "adam", "adamw"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Epochs with one schedule. ``peak`` None: taken from the learning-rate finder before the first epoch."""

    epochs: int
    frozen: bool = False
    peak: float | None = None
    spread: float = 1.0  # the earliest layers' rate as a share of the head's


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learning from a teacher. ``weight``: the fraction of the loss that is its, the rest is the labels' own.

    ``size``: what the teacher looks at, pixels; ``temperature``: what both sides' logits are divided by. ``fresh``: the
    fraction of batches that are new views; the others are views of the same epoch again, with their answers.
    """

    size: int
    weight: float = 0.7
    temperature: float = 2.0
    fresh: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe made definite. ``sizes``: (share of the run's epochs up to which, pixels), in order."""

    recipe: RecipeName
    stages: tuple[Stage, ...]
    sizes: tuple[tuple[float, int], ...]
    test_sizes: tuple[int, ...]
    batch: int
    optimizer: Optimizer
    weight_decay: float
    loss: LossKind
    views: Views
    mixing: bool
    average: float | None  # the decay of the weights' moving average, at most
    warm_up: int = 0  # epochs
    finder_steps: int = 100
    gradient_clip: float = 10.0  # the norm of all gradients, at most
    mixup_probability: float = 0.0  # of a batch; beside `mixing`, which alternates mix-up and CutMix
    mixup_alpha: float = 0.4
    distillation: Distillation | None = None
    bfloat16: bool | None = None  # None: where the processor has it and a measurement shows that it pays
    bfloat16_ratio: float | None = None  # its speed to float32's, where that was measured

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def size_at(self, epoch: int) -> int:
        """The image size in an epoch, counted from 0."""
        done = epoch / max(1, self.epochs)
        return next((size for until, size in self.sizes if done < until), self.sizes[-1][1])

    @property
    def stored_size(self) -> int:
        """What photos are kept at: enough for views that zoom in a little."""
        teacher = [self.distillation.size] if self.distillation is not None else []
        return round(1.15 * max([size for _, size in self.sizes] + teacher))

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`, also of plans that lack the newer fields."""
        distillation = document.get("distillation")
        return cls(
            **{
                **document,
                "stages": tuple(Stage(**stage) for stage in document["stages"]),
                "sizes": tuple((float(until), int(size)) for until, size in document["sizes"]),
                "test_sizes": tuple(document["test_sizes"]),
                "views": Views(**document["views"]),
                "distillation": Distillation(**distillation) if distillation is not None else None,
            }
        )


def make_plan(
    recipe: str,
    *,
    gpu: bool,
    epochs: int | None = None,
    image_size: int | None = None,
    loss: LossKind | None = None,
    teacher_size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a recipe for this kind of machine.

    ``epochs`` is the whole run's length; ``image_size`` and ``loss`` are those of the version that `finetune` starts
    from; ``teacher_size`` is what the teacher of `distill` looks at; ``options`` replace fields of the plan.
    Raises TrainingFailed for a recipe or field that there is none of.
    """
    if recipe not in RECIPES:
        raise TrainingFailed(f"there is no recipe {recipe!r}; use one of {', '.join(RECIPES)}")
    if epochs is not None and epochs < 1:
        raise TrainingFailed(f"a run needs at least one epoch, not {epochs}")
    makers = {"original": _original, "scratch": _scratch, "finetune": _finetune, "distill": _distill}
    plan = makers[recipe](gpu, epochs, image_size or 224)
    if teacher_size is not None:
        plan = replace(plan, distillation=Distillation(size=teacher_size))
    if loss is not None and recipe == "finetune":
        plan = replace(plan, loss=loss)
    try:
        return Plan.from_json({**plan.to_json(), **json.loads(json.dumps(options or {}))})
    except TypeError as exc:
        raise TrainingFailed(f"a recipe has no such option: {exc}") from exc


def training_loss(plan: Plan) -> TrainingLoss:
    """The loss that a plan trains with."""
    if plan.distillation is None:
        return TrainingLoss(plan.loss)
    return TrainingLoss(plan.loss, teacher_weight=plan.distillation.weight, temperature=plan.distillation.temperature)


def _original(gpu: bool, epochs: int | None, size: int) -> Plan:
    """As the original work: the rate finder, 3 epochs with the body frozen, the rate finder, 5 epochs of all layers."""
    frozen = 3 if epochs is None else max(1, round(epochs * 3 / 8))
    unfrozen = 5 if epochs is None else max(1, epochs - frozen)
    return Plan(
        recipe="original",
        stages=(Stage(epochs=frozen, frozen=True, spread=0.1), Stage(epochs=unfrozen, spread=0.01)),
        sizes=((1.0, size),),
        test_sizes=(size,),
        batch=64 if gpu else 32,
        optimizer="adam",
        weight_decay=0.01,
        loss="cross_entropy",
        views=Views(crop=0.7, strong=True),
        mixing=False,
        average=None,
    )


def _scratch(gpu: bool, epochs: int | None, size: int) -> Plan:
    """From random weights. Sizes grow, so that most epochs are cheap; on two cores they end where time does."""
    del size
    total = epochs or (900 if gpu else 40)
    return Plan(
        recipe="scratch",
        stages=(Stage(epochs=total, peak=0.2 if gpu else 0.05),),
        sizes=((0.34, 128), (0.67, 192), (1.0, 224)) if gpu else ((0.7, 64), (1.0, 128)),
        test_sizes=(224, 256, 288) if gpu else (128, 144, 160),
        batch=128 if gpu else 32,
        optimizer="sgd",
        weight_decay=1e-3,
        loss="cosine",
        views=Views(crop=0.35, strong=True, loose=LOOSE) if gpu else Views(crop=0.6, strong=False, loose=LOOSE),
        mixing=gpu,
        average=0.9995,
        warm_up=min(5, total // 10),
    )


def _finetune(gpu: bool, epochs: int | None, size: int) -> Plan:
    """From a published version at its own size, early layers slower; ends on the average of the weights."""
    return Plan(
        recipe="finetune",
        stages=(Stage(epochs=epochs or (12 if gpu else 3), peak=0.02 if gpu else 0.005, spread=0.1),),
        sizes=((1.0, size),),
        test_sizes=(size,),
        batch=128 if gpu else 32,
        optimizer="sgd",
        weight_decay=1e-3,
        loss="smooth",
        views=Views(crop=0.5, strong=gpu, loose=LOOSE),
        mixing=False,
        average=0.9995,
    )


def _distill(gpu: bool, epochs: int | None, size: int) -> Plan:
    """From a teacher's logits on the very view that the student sees, with hard crops and mix-up, for long (Beyer et
    al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022). Sizes grow."""
    del size
    total = epochs or (300 if gpu else 40)
    return Plan(
        recipe="distill",
        stages=(Stage(epochs=total, peak=1.2e-3, spread=0.3),),
        sizes=((0.34, 128), (0.67, 192), (1.0, 224)) if gpu else ((0.4, 96), (0.8, 128), (1.0, 160)),
        test_sizes=(192, 224, 256) if gpu else (128, 144, 160, 192),
        batch=128 if gpu else 48,
        optimizer="adamw",
        weight_decay=0.05,
        loss="smooth",
        views=Views(crop=0.44, strong=True, loose=LOOSE),
        mixing=False,
        average=0.998,
        warm_up=min(2, total // 10),
        gradient_clip=5.0,
        mixup_probability=0.2,
    )
