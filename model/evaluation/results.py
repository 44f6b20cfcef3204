"""The JSON that evaluating gives: in a card's metrics, and printed by `cars model evaluate`. Fractions are 0 to 1."""

from __future__ import annotations

from typing import NotRequired, TypedDict

__all__ = [
    "BriefEvaluation",
    "ClassResult",
    "ConfusableEvaluation",
    "Confusion",
    "DecidedImages",
    "DecisionCounts",
    "Evaluation",
    "FramingRow",
    "LeftOutClass",
    "ListingsEvaluation",
    "MixEvaluation",
    "OodEvaluation",
    "RiskPoint",
    "SetEvaluation",
    "UnknownImages",
    "UnreadableFile",
    "VersionEvaluation",
]


class BriefEvaluation(TypedDict):
    """Top-1, make, and what is decided `model`; `model_precision` is None where nothing is."""

    images: int
    top1: float
    make: float
    model_images: int
    model_coverage: float
    model_precision: float | None


class FramingRow(BriefEvaluation):
    """The same with the car's own image covering `area` of the frame."""

    area: float


class ConfusableEvaluation(BriefEvaluation):
    """The same of the images of so many confusable classes."""

    classes: int


class DecidedImages(TypedDict):
    """What a decision takes, and how much of it is right; `precision` is None where it takes nothing."""

    images: int
    coverage: float
    precision: float | None


class UnknownImages(TypedDict):
    """What is `unknown`, and how many of it because it is out of distribution."""

    images: int
    coverage: float
    rejected: int


class DecisionCounts(TypedDict):
    """What each decision takes."""

    model: DecidedImages
    make: DecidedImages
    unknown: UnknownImages


class RiskPoint(TypedDict):
    """Answering only the most confident fraction `coverage`, which fraction of the answers is wrong."""

    coverage: float
    risk: float
    threshold: float


class Confusion(TypedDict):
    """How often a label was predicted for another."""

    label: str
    predicted: str
    count: int


class ClassResult(TypedDict):
    """A class's images, how many are right, recall and precision; these are None over nothing."""

    label: str
    images: int
    right: int
    recall: float | None
    precision: float | None


class Evaluation(TypedDict):
    """Every number about some images that a card carries; counts stand beside the fractions."""

    images: int
    top1: float
    top1_count: int
    top5: float
    top5_count: int
    make: float
    make_count: int
    nll: float
    ece: float
    ece_bins: int
    ece_limit: float
    coverage_at_target: float
    coverage: float
    decisions: DecisionCounts
    risk_coverage: list[RiskPoint]
    area_under_risk_coverage: float
    confusions: list[Confusion]
    per_class: list[ClassResult]
    confusable: ConfusableEvaluation | None


class OodEvaluation(TypedDict):
    """What is decided of images that show no car of the classes; `taken_for_a_model`: what they show, and how often."""

    images: int
    rejected: int
    decided_model: int
    decided_make: int
    model_fraction: float
    taken_for_a_model: dict[str, int]


class UnreadableFile(TypedDict):
    """A file that was left out."""

    file: str
    reason: str


class LeftOutClass(TypedDict):
    """A class that was left out, and how many images it has."""

    label: str
    images: int


class SetEvaluation(TypedDict):
    """Verdicts on sets of `images` images of a class, perhaps with a second shot of each; `model_precision` is None
    where nothing is decided `model`.
    """

    images: int
    second_shots: bool
    sets: int
    top1: float
    nll: float
    ece: float
    model_coverage: float
    model_precision: float | None
    conflict: float


class MixEvaluation(TypedDict):
    """Verdicts on listings that show what no single car does, as fractions; `wrong_model`: `model`, and not right."""

    sets: int
    conflict: float
    model: float
    wrong_model: float


class ListingsEvaluation(TypedDict):
    """What verdicts are worth on listings made of labelled images; a kind that the images do not allow is None."""

    exponent: float
    conflict: float
    fitted: bool
    sets: list[SetEvaluation]
    two_makes: MixEvaluation | None
    with_samples: MixEvaluation | None
    samples_alone: MixEvaluation | None


class VersionEvaluation(Evaluation):
    """A version evaluated on a data set. `in_holdout_of_card`: of the images, those that it was not trained on."""

    version: str
    split: str
    engine: str
    framing: list[FramingRow]
    listings: ListingsEvaluation
    in_holdout_of_card: int
    unreadable: list[UnreadableFile]
    left_out: list[LeftOutClass]
    ood_images: NotRequired[dict[str, OodEvaluation]]
