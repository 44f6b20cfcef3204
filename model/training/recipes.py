"""The recipes: everything about a run that is decided before it starts, so that a killed run continues as it began."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self, cast

from pydantic import JsonValue

from model.old_formats import current_plan
from model.training.augment import Augmentation
from model.training.errors import TrainingFailed
from model.training.losses import LossKind, TrainingLoss

__all__ = ["RECIPES", "Distillation", "Optimizer", "Phase", "Plan", "RecipeName", "make_plan", "training_loss"]

RecipeName = Literal["original", "scratch", "finetune", "distill"]
RECIPES: tuple[RecipeName, ...] = ("original", "scratch", "finetune", "distill")
Optimizer = Literal["sgd", "adam", "adamw"]

LOOSE = 0.25  # fraction of augmented images with loose framing; chosen by trial
_ZOOM_ROOM = 1.15  # how much larger images are stored than the largest input, so that a crop need not be enlarged


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs under one learning-rate schedule.

    `lr_max` None: taken from the learning-rate finder before the first epoch. `layer_lr_decay`: the earliest layers'
    rate as a fraction of the head's.
    """

    epochs: int
    frozen: bool = False
    lr_max: float | None = None
    layer_lr_decay: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Learning from a teacher. `weight`: the fraction of the loss that is its, the rest is the labels' own.

    `size`: what the teacher looks at, pixels; `temperature`: what both sides' logits are divided by. `fresh`: the
    fraction of batches that are newly augmented; the others are images of the same epoch again, with their answers.
    """

    size: int
    weight: float = 0.7
    temperature: float = 2.0
    fresh: float = 0.3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe made definite.

    `progressive_sizes`: (fraction of the run's epochs up to which, pixels), in order. `eval_sizes`: what publishing
    chooses the served size from.
    """

    recipe: RecipeName
    phases: tuple[Phase, ...]
    progressive_sizes: tuple[tuple[float, int], ...]
    eval_sizes: tuple[int, ...]
    batch_size: int
    optimizer: Optimizer
    weight_decay: float
    loss: LossKind
    augmentation: Augmentation
    mixup_cutmix: bool
    ema_decay: float | None  # of the moving average of the weights, at most
    warmup_epochs: int = 0
    finder_steps: int = 100
    gradient_clip: float = 10.0  # the norm of all gradients, at most; chosen by trial, only outliers reach it
    mixup_probability: float = 0.0  # of a batch; beside `mixup_cutmix`, which mixes every second batch by one of both
    mixup_alpha: float = 0.4
    distillation: Distillation | None = None
    bfloat16: bool | None = None  # None: where the processor has it and a measurement shows that it pays
    bfloat16_ratio: float | None = None  # its speed to float32's, where that was measured

    @property
    def epochs(self) -> int:
        """The epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def size_at(self, epoch: int) -> int:
        """Return the image size in an epoch, counted from 0."""
        done = epoch / max(1, self.epochs)
        return next((size for until, size in self.progressive_sizes if done < until), self.progressive_sizes[-1][1])

    @property
    def stored_size(self) -> int:
        """What images are kept at: enough for crops that zoom in a little."""
        teacher = [self.distillation.size] if self.distillation is not None else []
        return round(_ZOOM_ROOM * max([size for _, size in self.progressive_sizes] + teacher))

    def to_json(self) -> dict[str, JsonValue]:
        """Return the plan as JSON values, which `from_json` reads."""
        return cast("dict[str, JsonValue]", json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, document: Mapping[str, JsonValue]) -> Self:
        """Return the plan in a document: the inverse of `to_json`, also of plans of earlier releases."""
        plan = current_plan(document)
        distillation = plan.get("distillation")
        return cls(
            **{
                **plan,
                "phases": tuple(Phase(**phase) for phase in plan["phases"]),
                "progressive_sizes": tuple((float(until), int(size)) for until, size in plan["progressive_sizes"]),
                "eval_sizes": tuple(plan["eval_sizes"]),
                "augmentation": Augmentation(**plan["augmentation"]),
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
    options: Mapping[str, JsonValue] | None = None,
) -> Plan:
    """Return the plan of a recipe for this kind of machine.

    `epochs` is the whole run's length; `image_size` and `loss` are those of the version that `finetune` starts
    from; `teacher_size` is what the teacher of `distill` looks at; `options` replace fields of the plan, and may be of
    a run that an earlier release has registered. Raises TrainingFailed for a recipe or field that does not exist.
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
        return Plan.from_json({**plan.to_json(), **current_plan(json.loads(json.dumps(options or {})))})
    except (TypeError, ValueError) as exc:
        raise TrainingFailed(f"the plan's options cannot be used: {exc}") from exc


def training_loss(plan: Plan) -> TrainingLoss:
    """Return the loss that a plan trains with."""
    if plan.distillation is None:
        return TrainingLoss(plan.loss)
    return TrainingLoss(plan.loss, teacher_weight=plan.distillation.weight, temperature=plan.distillation.temperature)


def _original(gpu: bool, epochs: int | None, size: int) -> Plan:
    """Plan as the original work did: the rate finder, 3 epochs with the body frozen, the rate finder, 5 epochs of all
    layers.

        cars train stanford_cars --recipe original

    The original work reports 70 % top-1 on its own split of Stanford Cars. Not measured here, for want of ImageNet
    weights.
    """
    frozen = 3 if epochs is None else max(1, round(epochs * 3 / 8))
    unfrozen = 5 if epochs is None else max(1, epochs - frozen)
    return Plan(
        recipe="original",
        phases=(
            Phase(epochs=frozen, frozen=True, layer_lr_decay=0.1),
            Phase(epochs=unfrozen, layer_lr_decay=0.01),
        ),
        progressive_sizes=((1.0, size),),
        eval_sizes=(size,),
        batch_size=64 if gpu else 32,
        optimizer="adam",
        weight_decay=0.01,
        loss="cross_entropy",
        augmentation=Augmentation(crop=0.7, strong=True),
        mixup_cutmix=False,
        ema_decay=None,
    )


def _scratch(gpu: bool, epochs: int | None, size: int) -> Plan:
    """Train from random weights. Sizes grow, so that most epochs are cheap; on two cores they end where time does.

        cars train stanford_cars --recipe scratch

    On two cores, resnet34-cars-1 (43 epochs by a script with these settings, 64 to 128 px) had 54.8 % top-1 on 735
    holdout images, and resnet34-cars-2 (36 more from there, 96 and 128 px, lr_max 0.03) 75.1 %, with 5,706 training
    images. The settings for a GPU were not measured here.
    """
    del size
    total = epochs or (900 if gpu else 40)
    return Plan(
        recipe="scratch",
        phases=(Phase(epochs=total, lr_max=0.2 if gpu else 0.05),),
        progressive_sizes=((0.34, 128), (0.67, 192), (1.0, 224)) if gpu else ((0.7, 64), (1.0, 128)),
        eval_sizes=(224, 256, 288) if gpu else (128, 144, 160),
        batch_size=128 if gpu else 32,
        optimizer="sgd",
        weight_decay=1e-3,
        loss="cosine",
        augmentation=Augmentation(crop=0.35, strong=True, loose=LOOSE)
        if gpu
        else Augmentation(crop=0.6, strong=False, loose=LOOSE),
        mixup_cutmix=gpu,
        ema_decay=0.9995,
        warmup_epochs=min(5, total // 10),
    )


def _finetune(gpu: bool, epochs: int | None, size: int) -> Plan:
    """Continue from a published version at its own size, early layers slower; end on the moving average.

        cars train listings --recipe finetune --init VERSION

    Not measured here on a data set of its own; one epoch on images like those a version was trained on should leave
    its top-1 about where it was.
    """
    return Plan(
        recipe="finetune",
        phases=(Phase(epochs=epochs or (12 if gpu else 3), lr_max=0.02 if gpu else 0.005, layer_lr_decay=0.1),),
        progressive_sizes=((1.0, size),),
        eval_sizes=(size,),
        batch_size=128 if gpu else 32,
        optimizer="sgd",
        weight_decay=1e-3,
        loss="label_smoothing",
        augmentation=Augmentation(crop=0.5, strong=gpu, loose=LOOSE),
        mixup_cutmix=False,
        ema_decay=0.9995,
    )


def _distill(gpu: bool, epochs: int | None, size: int) -> Plan:
    """Learn from a teacher's logits on the very image that the student sees, with hard crops and mixup, for long.

        cars train stanford_cars --recipe distill --teacher teacher.onnx --init resnet18.safetensors

    Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022. Sizes grow. With these
    settings (33 epochs by a stand-alone script, two hours on two cores, 96 to 144 px, part of a ResNet18's ImageNet
    weights, a teacher with 92.1 % on calibration) resnet34-cars-3 has 91.2 % top-1 on 1,385 holdout images. The
    settings for a GPU were not measured here.
    """
    del size
    total = epochs or (300 if gpu else 40)
    return Plan(
        recipe="distill",
        phases=(Phase(epochs=total, lr_max=1.2e-3, layer_lr_decay=0.3),),
        progressive_sizes=((0.34, 128), (0.67, 192), (1.0, 224)) if gpu else ((0.4, 96), (0.8, 128), (1.0, 160)),
        eval_sizes=(192, 224, 256) if gpu else (128, 144, 160, 192),
        batch_size=128 if gpu else 48,
        optimizer="adamw",
        weight_decay=0.05,
        loss="label_smoothing",
        augmentation=Augmentation(crop=0.44, strong=True, loose=LOOSE),
        mixup_cutmix=False,
        ema_decay=0.998,
        warmup_epochs=min(2, total // 10),
        gradient_clip=5.0,
        mixup_probability=0.2,
    )
