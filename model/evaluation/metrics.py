"""What a model version is worth on labelled images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model import cards
from model.cards import Card, CardDraft
from model.data.dataset import Dataset, open_dataset
from model.data.decoding import Images, decode_files
from model.data.ood_images import OodImage, OodImages
from model.decision import Decisions, decide_all, make_table, softmax
from model.engines import Engine, choose, open_engine
from model.errors import DatasetError
from model.evaluation.calibration import (
    ECE_BINS,
    expected_calibration_error,
    negative_log_likelihood,
    simulated_error_limit,
)
from model.evaluation.framing import AREAS, framed_images
from model.evaluation.listings import evaluate_listings, second_shots
from model.evaluation.ood import sample_images
from model.evaluation.results import (
    BriefEvaluation,
    ClassResult,
    ConfusableEvaluation,
    Confusion,
    DecidedImages,
    DecisionCounts,
    Evaluation,
    FramingRow,
    ListingsEvaluation,
    OodEvaluation,
    RiskPoint,
    VersionEvaluation,
)

__all__ = ["Accuracy", "accuracy_of_version", "evaluate", "evaluate_ood", "evaluate_version", "framing"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Hits = npt.NDArray[np.bool_]

CONFUSIONS_KEPT = 25
CURVE_POINTS = 50
FRAMED_IMAGES = 2_000  # at most, for the table of framings
LISTED_IMAGES = 2_000  # about, at most, that listings are made of
_CHUNK = 256  # images decoded at once


def evaluate_version(
    folder: Path,
    dataset: Path | Dataset,
    *,
    split: str = "all",
    engine: str = "auto",
    device: str = "auto",
    ood_images: OodImages | None = None,
) -> VersionEvaluation:
    """Return the numbers of `evaluate`, `framing` and `evaluate_listings` (and of `evaluate_ood`) for the version in
    `folder` on labelled images (a path, or an opened data set), by this machine's engine.

    `split` is one of the data's own splits or, where it names none, of those drawn with the seed in the card; "all"
    takes every image. Added are the version, the files left out as unreadable, and how many images are in the card's
    holdout: others may have been trained on. Classes that the version's training left out, since they had too few
    images, are left out here too, and listed. Raises the errors of `cards.verify`, `open_dataset` and `open_engine`.
    """
    card = cards.verify(folder)
    if isinstance(dataset, Path):
        seed = None if split == "all" else card.data.split_seed or 0
        left_out = frozenset(_left_out(card)) - set(card.classes)
        dataset = open_dataset(dataset, split_seed=seed, holdout=frozenset(card.data.holdout), leave_out=left_out)
    opened = dataset.ordered(card.classes)
    images, labels = opened.of(split), opened.labels(split)
    if not images:
        raise DatasetError(f"the data has no images in {split!r}; leave the split out to evaluate all of them")
    files, known = [image.file for image in images], set(card.data.holdout)
    loaded = open_engine(engine, device, folder, card)
    try:
        logits = _logits(loaded, files)
        numbers = evaluate(logits, labels, card)
        framed = framing(loaded, card, files, labels)
        listings = _listings(loaded, card, files, logits=logits, labels=labels)
        ood = None if ood_images is None else evaluate_ood(loaded, card, ood_images)
    finally:
        loaded.unload()
    found: VersionEvaluation = {
        "version": card.name,
        "split": split,
        "engine": choose(engine, device, card)[1],
        **numbers,  # type: ignore[typeddict-item]  # which has no `ood_images`, but mypy cannot know
        "framing": framed,
        "listings": listings,
        "in_holdout_of_card": sum(image.digest in known for image in images),
        "unreadable": [{"file": str(file), "reason": reason} for file, reason in opened.unreadable],
        "left_out": [{"label": name, "images": count} for name, count in opened.left_out.items()],
    }
    if ood is not None:
        found["ood_images"] = ood
    return found


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How many of so many images got the right answer."""

    right: int
    images: int

    @property
    def fraction(self) -> float:
        """The same as a number from 0 to 1; 0 of no images."""
        return self.right / self.images if self.images else 0.0


def accuracy_of_version(
    folder: Path, dataset: Dataset, *, split: str = "holdout", engine: str = "auto", device: str = "auto"
) -> Accuracy:
    """Return the top-1 of a version on a split, by class name: a class that the version lacks is one it gets wrong.

    This compares a candidate with a version in use that may have other classes. Raises as `evaluate_version` does.
    """
    card = cards.verify(folder)
    images = dataset.of(split)
    if not images:
        raise DatasetError(f"the data has no images in {split!r}")
    loaded = open_engine(engine, device, folder, card)
    try:
        said = _logits(loaded, [image.file for image in images]).argmax(axis=1)
    finally:
        loaded.unload()
    pairs = zip(said.tolist(), images, strict=True)
    right = sum(card.classes[index] == dataset.classes[image.label] for index, image in pairs)
    return Accuracy(right=right, images=len(images))


def evaluate(logits: Floats, labels: Labels, card: CardDraft) -> Evaluation:
    """Return every number about these images that a card carries, as JSON values; fractions are 0..1.

    `logits` are (N, C) as the engine gave them, `labels` (N,) the true classes; temperature and thresholds are
    the card's. Counts stand beside the fractions that people compare between machines. Of the images decided `unknown`
    it says how many were rejected as out of distribution.
    """
    probabilities = softmax(logits, temperature=card.temperature)
    decisions = decide_all(probabilities, card, logits)
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    hit = decisions.top == labels
    names, make_of = make_table(card)
    make_hit = np.array(decisions.make) == np.array(names)[make_of[labels]]
    decided = _decided(decisions, hit, make_hit)
    return {
        "images": len(labels),
        "top1": _fraction(hit),
        "top1_count": int(hit.sum()),
        "top5": _fraction(ranks < 5),
        "top5_count": int((ranks < 5).sum()),
        "make": _fraction(make_hit),
        "make_count": int(make_hit.sum()),
        "nll": negative_log_likelihood(logits, labels, card.temperature),
        "ece": expected_calibration_error(decisions.confidence, hit),
        "ece_bins": ECE_BINS,
        "ece_limit": simulated_error_limit(decisions.confidence),
        "coverage_at_target": coverage_at(decisions.confidence, hit, card.thresholds.target_precision),
        "coverage": decided["model"]["coverage"],
        "decisions": decided,
        "risk_coverage": risk_coverage(decisions.confidence, hit),
        "area_under_risk_coverage": area_under_risk_coverage(decisions.confidence, hit),
        "confusions": confusions(decisions.top, labels, card.classes),
        "per_class": per_class(decisions.top, labels, card.classes),
        "confusable": _confusable(logits, labels, card),
    }


def _left_out(card: Card) -> Iterable[str]:
    """Return the classes that the version's training left out."""
    names = (card.data.model_extra or {}).get("classes_left_out")
    return names if isinstance(names, dict) else ()


def framing(engine: Engine, card: CardDraft, files: Sequence[Path], labels: Labels) -> list[FramingRow]:
    """Return how the answers hold as the car gets smaller: a row per fraction of the frame that the car's own
    image covers.

    Of many images an even sample is taken. Fractions are 0..1; `model` is what that decision takes and how much of it
    is right, None where it takes none.
    """
    picks = np.unique(np.linspace(0, len(files) - 1, min(len(files), FRAMED_IMAGES)).round().astype(int))
    chosen, true = [files[index] for index in picks], labels[picks]
    table: list[FramingRow] = []
    for area in AREAS:
        logits = _infer(engine, partial(framed_images, size=card.image_size, area=area), chosen)
        table.append({"area": area, **evaluate_briefly(logits, true, card)})
    return table


def _listings(
    engine: Engine, card: CardDraft, files: Sequence[Path], *, logits: Floats, labels: Labels
) -> ListingsEvaluation:
    """Evaluate verdicts on listings made of these images; of many, on those of as many classes as have enough."""
    classes, sizes = np.unique(labels, return_counts=True)
    shuffled = np.random.default_rng(0).permutation(len(classes))
    enough = shuffled[: 1 + int(np.searchsorted(np.cumsum(sizes[shuffled]), LISTED_IMAGES))]
    picks = np.flatnonzero(np.isin(labels, classes[enough]))
    chosen = [files[index] for index in picks.tolist()]
    second = np.concatenate([engine.logits(shots) for shots in second_shots(chosen, engine.input_size)])
    samples = sample_images()
    return evaluate_listings(
        card, logits[picks], second, labels[picks], samples=_logits(engine, samples) if samples else None
    )


def evaluate_briefly(logits: Floats, labels: Labels, card: CardDraft) -> BriefEvaluation:
    """Return top-1, make, and what is decided `model`: images, coverage and precision (None where there are none)."""
    decisions = decide_all(softmax(logits, temperature=card.temperature), card, logits)
    names, make_of = make_table(card)
    hit = decisions.top == labels
    sure = np.array(decisions.decision) == "model"
    return {
        "images": len(labels),
        "top1": _fraction(hit),
        "make": _fraction(np.array(decisions.make) == np.array(names)[make_of[labels]]),
        "model_images": int(sure.sum()),
        "model_coverage": _fraction(sure),
        "model_precision": _fraction(hit[sure]) if sure.any() else None,
    }


def evaluate_ood(engine: Engine, card: CardDraft, ood_images: OodImages) -> dict[str, OodEvaluation]:
    """Return what is decided of images that show no car of the classes, by split."""
    return {split: _evaluate_ood(engine, card, ood_images.of(split)) for split in ood_images.splits}


def _evaluate_ood(engine: Engine, card: CardDraft, images: Sequence[OodImage]) -> OodEvaluation:
    logits = _infer(engine, lambda part: decode_files(part, card.image_size), [image.file for image in images])
    decided = decide_all(softmax(logits, temperature=card.temperature), card, logits)
    wrong = Counter(image.what for image, d in zip(images, decided.decision, strict=True) if d == "model")
    return {
        "images": len(images),
        "rejected": int(decided.out_of_distribution.sum()),
        "decided_model": decided.decision.count("model"),
        "decided_make": decided.decision.count("make"),
        "model_fraction": decided.decision.count("model") / len(images),
        "taken_for_a_model": dict(sorted(wrong.items(), key=lambda item: (-item[1], item[0]))),
    }


def _logits(engine: Engine, files: Sequence[Path]) -> Floats:
    return _infer(engine, lambda part: decode_files(part, engine.input_size), files)


def _infer(engine: Engine, decoded: Callable[[Sequence[Path]], Images], files: Sequence[Path]) -> Floats:
    parts = [engine.logits(decoded(files[start : start + _CHUNK])) for start in range(0, len(files), _CHUNK)]
    return np.concatenate(parts)


def coverage_at(confidence: Floats, hit: Hits, precision: float) -> float:
    """Return the largest fraction of images, taken by falling confidence, that are right with `precision` (0 where none
    are).

    This describes the ranking of these images, with hindsight; what the fitted thresholds really keep and let through
    is under "decisions".
    """
    covered = np.arange(1, len(hit) + 1)
    enough = np.cumsum(_by_confidence(confidence, hit)) / covered >= precision
    return float(covered[enough].max(initial=0) / max(1, len(hit)))


def risk_coverage(confidence: Floats, hit: Hits) -> list[RiskPoint]:
    """Return points of the risk-coverage curve: answering only the most confident, how many answers are wrong."""
    risk = 1 - np.cumsum(_by_confidence(confidence, hit)) / np.arange(1, len(hit) + 1)
    ranked = np.sort(confidence)[::-1]
    picks = np.unique(np.linspace(0, len(hit) - 1, min(CURVE_POINTS, len(hit))).round().astype(int))
    return [
        {"coverage": float((i + 1) / len(hit)), "risk": float(risk[i]), "threshold": float(ranked[i])} for i in picks
    ]


def area_under_risk_coverage(confidence: Floats, hit: Hits) -> float:
    """Return the mean risk over all coverages; less is better (Geifman et al., ICLR 2019)."""
    return float((1 - np.cumsum(_by_confidence(confidence, hit)) / np.arange(1, len(hit) + 1)).mean())


def confusions(predicted: Labels, labels: Labels, classes: Sequence[str]) -> list[Confusion]:
    """Return the most frequent mistakes, most frequent first."""
    wrong = predicted != labels
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS_KEPT]
    return [{"label": classes[true], "predicted": classes[said], "count": n} for (true, said), n in ordered]


def per_class(predicted: Labels, labels: Labels, classes: Sequence[str]) -> list[ClassResult]:
    """Return for each class with images or predictions: how many there are, and its recall and precision (null over
    none).
    """
    table: list[ClassResult] = []
    for index, name in enumerate(classes):
        of_class, said = labels == index, predicted == index
        right = int((of_class & said).sum())
        count, claims = int(of_class.sum()), int(said.sum())
        if count or claims:
            recall, precision = (right / n if n else None for n in (count, claims))
            table.append({"label": name, "images": count, "right": right, "recall": recall, "precision": precision})
    return table


def _confusable(logits: Floats, labels: Labels, card: CardDraft) -> ConfusableEvaluation | None:
    """Evaluate the images of the classes that the card calls confusable, or None where it names none."""
    if card.thresholds.confusable is None:
        return None
    named = {name for pair in card.thresholds.confusable.pairs for name in pair}
    picks = np.isin(labels, [index for index, name in enumerate(card.classes) if name in named])
    return {"classes": len(named), **evaluate_briefly(logits[picks], labels[picks], card)} if picks.any() else None


def _decided(decisions: Decisions, hit: Hits, make_hit: Hits) -> DecisionCounts:
    """Return how many images each decision takes, and how often it is right (of `unknown`: nothing is claimed)."""
    decision = np.array(decisions.decision)
    unknown = decision == "unknown"
    return {
        "model": _precise(decision == "model", hit),
        "make": _precise(decision == "make", make_hit),
        "unknown": {
            "images": int(unknown.sum()),
            "coverage": _fraction(unknown),
            "rejected": int(decisions.out_of_distribution.sum()),
        },
    }


def _precise(chosen: Hits, right: Hits) -> DecidedImages:
    precision = _fraction(right[chosen]) if chosen.any() else None
    return {"images": int(chosen.sum()), "coverage": _fraction(chosen), "precision": precision}


def _by_confidence(confidence: Floats, hit: Hits) -> Hits:
    return np.asarray(hit[np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")])


def _fraction(hits: Hits) -> float:
    return float(hits.mean()) if len(hits) else 0.0
