"""What a version is worth, measured on the very engine that its folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from model.cards import ONNX, WEIGHTS, CardDraft, EngineFile, Metrics, OodThreshold, Score
from model.data.decoding import Images, decode_files
from model.data.ood_images import OodImages
from model.decision import decide_all, is_out_of_distribution, ood_scores, softmax
from model.engines import Engine, open_engine
from model.evaluation.decisions import FittedDecisions, fit_decisions
from model.evaluation.listings import evaluate_listings, fit_listing_rule, second_shots
from model.evaluation.metrics import evaluate, evaluate_ood, framing
from model.evaluation.ood import DEFAULT_SCORE, LARGEST_FRACTION, compare_scores, fit_ood_threshold, sample_images
from model.evaluation.results import Evaluation
from model.publishing.input_size import SizeTried
from model.publishing.onnx_export import Exported
from model.publishing.temperature import fit_temperature

__all__ = ["EvalSplit", "Measured", "fit_decision_rule", "measure"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """One split as the engine sees it."""

    files: tuple[Path, ...]
    images: Images
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of a version. `holdout_logits`: the shipped engine's on `holdout`, for the plots."""

    draft: CardDraft
    metrics: Metrics
    engines: Mapping[Literal["onnx", "torch"], EngineFile]
    holdout_logits: Floats


def measure(
    folder: Path,
    draft: CardDraft,
    splits: Mapping[str, EvalSplit],
    exported: Exported,
    *,
    unseen_classes: Mapping[str, JsonValue] | None,
    ood_images: OodImages | None = None,
    sizes: Sequence[SizeTried] = (),
) -> Measured:
    """Fit temperature and thresholds, and measure everything, on the engines that the folder holds."""
    engine = open_engine("onnx", "cpu", folder, draft)
    try:
        logits = {split: engine.logits(part.images) for split, part in splits.items()}
        files = sample_images()
        samples = engine.logits(decode_files(files, draft.image_size)) if files else None
        ood = None if ood_images is None else engine.logits(ood_images.decoded("calibration", draft.image_size))
        decisions = fit_decision_rule(
            draft,
            logits["calibration"],
            splits["calibration"].labels,
            samples=samples if ood is None else ood,
            ood_logits=ood,
        )
        second = {split: _second_logits(engine, part) for split, part in splits.items()}
        rule = fit_listing_rule(
            decisions.card, logits["calibration"], second["calibration"], splits["calibration"].labels
        )
        draft = decisions.card.with_thresholds(listing=rule)
        metrics: dict[str, object] = {"split": "holdout", "engine": "onnx", "precision": exported.precision}
        metrics |= dict(evaluate(logits["holdout"], splits["holdout"].labels, draft))
        metrics["calibration"] = _brief(evaluate(logits["calibration"], splits["calibration"].labels, draft))
        unseen = {} if unseen_classes is None else {"unseen_classes": dict(unseen_classes)}
        metrics["ood"] = _out_of_distribution(draft, logits, samples) | unseen
        metrics["threshold_halvings"] = asdict(decisions.halvings)
        metrics["sizes"] = [asdict(result) for result in sizes]
        metrics["framing"] = framing(engine, draft, splits["holdout"].files, splits["holdout"].labels)
        metrics["listings"] = evaluate_listings(
            draft, logits["holdout"], second["holdout"], splits["holdout"].labels, samples=samples
        )
        if ood_images is not None:
            metrics["ood_images"] = evaluate_ood(engine, draft, ood_images)
        metrics["flip_averaged_top1"] = _flipped_top1(engine, splits["holdout"], logits["holdout"])
        onnx_file = _onnx_file(engine, exported, splits, logits)
    finally:
        engine.unload()
    return Measured(
        draft=draft,
        metrics=Metrics.model_validate(metrics),
        engines={"onnx": onnx_file, "torch": _torch_file(folder, draft, exported, splits["holdout"])},
        holdout_logits=logits["holdout"],
    )


def fit_decision_rule(
    card: CardDraft, logits: Floats, labels: Labels, *, samples: Floats | None, ood_logits: Floats | None = None
) -> FittedDecisions:
    """Fit temperature and thresholds to these images, which must be of `calibration`.

    `samples` are the logits of images that show no car of the classes: the score that tells them apart best is the
    one that out-of-distribution images are recognized by. The thresholds of `model` and `make` are fitted on the images
    that it lets pass, and `model` so that few of `ood_logits` reach it.
    """
    card = card.model_copy(update={"temperature": fit_temperature(logits, labels)})
    card = card.with_thresholds(ood=_fit_ood(logits, samples, card.temperature))
    return fit_decisions(card, logits, labels, ood_logits=ood_logits)


def _fit_ood(logits: Floats, samples: Floats | None, temperature: float) -> OodThreshold | None:
    score: Score = DEFAULT_SCORE if samples is None else compare_scores(logits, samples, temperature=temperature).best
    threshold = fit_ood_threshold(ood_scores(logits, temperature)[score])
    return None if threshold is None else OodThreshold(score=score, threshold=threshold)


def _brief(metrics: Evaluation) -> dict[str, object]:
    """Return what is worth keeping of a split that was fitted on: the numbers, not the tables."""
    return {key: value for key, value in metrics.items() if not isinstance(value, list)}


def _out_of_distribution(card: CardDraft, logits: Mapping[str, Floats], samples: Floats | None) -> dict[str, object]:
    """Return which fraction of the classes' own images is rejected, and how the sample images fare.

    The images and `calibration` chose the score ("best"), the threshold comes from `calibration` alone, and
    `holdout`, which "auroc" is against, had no part in either.
    """
    found: dict[str, object] = {
        "rejected_at_most": LARGEST_FRACTION,
        "rejected": {split: float(is_out_of_distribution(own, card).mean()) for split, own in logits.items()},
    }
    if samples is None:
        return found | {"samples": {"auroc": None, "reason": "neither scikit-image nor scikit-learn is installed"}}
    decided = decide_all(softmax(samples, temperature=card.temperature), card, samples)
    fitted_on, evaluated_on = (
        compare_scores(logits[s], samples, temperature=card.temperature) for s in ("calibration", "holdout")
    )
    found["samples"] = asdict(fitted_on) | {
        "auroc": evaluated_on.auroc,
        "auroc_on_calibration": fitted_on.auroc,
        "rejected": float(decided.out_of_distribution.mean()),
        "decided_model": decided.decision.count("model"),
        "decided_make": decided.decision.count("make"),
        "source": "sample images of scikit-image and scikit-learn",
    }
    return found


def _second_logits(engine: Engine, part: EvalSplit) -> Floats:
    return np.concatenate([engine.logits(shots) for shots in second_shots(part.files, engine.input_size)])


def _flipped_top1(engine: Engine, part: EvalSplit, logits: Floats) -> float:
    mirrored = engine.logits(np.ascontiguousarray(part.images[:, :, ::-1]))
    return _top1(logits + mirrored, part.labels)


def _onnx_file(
    engine: Engine, exported: Exported, splits: Mapping[str, EvalSplit], logits: Mapping[str, Floats]
) -> EngineFile:
    """Return what the shipped graph and the reduced decoding cost against float32 and full decoding, as fractions of
    top-1.
    """
    top1 = {split: _top1(logits[split], part.labels) for split, part in splits.items()}
    float_top1 = {split: _top1(exported.reference[split], part.labels) for split, part in splits.items()}
    holdout = splits["holdout"]
    full = engine.logits(decode_files(holdout.files, engine.input_size, reduced=False))
    shipped = {
        "file": ONNX,
        "precision": exported.precision,
        "top1_delta": top1["holdout"] - float_top1["holdout"],
        "top1": top1,
        "top1_delta_calibration": top1["calibration"] - float_top1["calibration"],
        "same_top1_as_float32": float((logits["holdout"].argmax(1) == exported.reference["holdout"].argmax(1)).mean()),
        "reduced_decoding_delta": top1["holdout"] - _top1(full, holdout.labels),
        "largest_distance_of_float32_graph_from_torch": exported.parity,
        "quantization": exported.quantization,
        "int8_on_calibration": [asdict(candidate) for candidate in exported.candidates],
    }
    return EngineFile.model_validate(shipped)


def _torch_file(folder: Path, card: CardDraft, exported: Exported, holdout: EvalSplit) -> EngineFile:
    """Return the same of the torch engine, which computes in float32 on a CPU; on a GPU it would in half precision."""
    engine = open_engine("torch", "cpu", folder, card)
    try:
        top1 = _top1(engine.logits(holdout.images), holdout.labels)
    finally:
        engine.unload()
    delta = top1 - _top1(exported.reference["holdout"], holdout.labels)
    fields = {
        "file": WEIGHTS,
        "precision": "float16",
        "top1_delta": delta,
        "top1": {"holdout": top1},
        "measured_on": "cpu",
    }
    return EngineFile.model_validate(fields)


def _top1(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
