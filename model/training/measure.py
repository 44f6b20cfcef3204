"""What a version is worth, measured on the very engine that its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.card import ONNX, WEIGHTS, Card, EngineFile, Metrics, Thresholds
from model.decision import calibrate, make_table
from model.engine import Engine, open_engine
from model.training import plots
from model.training.calibration import fit_temperature
from model.training.evaluate import judge
from model.training.export import Exported
from model.training.photos import Images, decode_files
from model.training.rejection import compare_scores, sample_photographs
from model.training.thresholds import fit_thresholds

__all__ = ["JudgedSplit", "fitted", "measured"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class JudgedSplit:
    """One split as the engine sees it."""

    photos: tuple[Path, ...]
    images: Images
    labels: Labels


def measured(
    folder: Path,
    card: Card,
    judged: Mapping[str, JudgedSplit],
    exported: Exported,
    *,
    held_out: Mapping[str, Any] | None,
) -> Card:
    """The card with everything measured on the engine that the folder holds; adds the plots to the folder."""
    engine = open_engine("onnx", "cpu", folder, card)
    try:
        logits = {split: engine.logits(part.images) for split, part in judged.items()}
        card = fitted(card, logits["calibration"], judged["calibration"].labels)
        metrics: dict[str, Any] = {"split": "holdout", "engine": "onnx", "precision": exported.precision}
        metrics |= judge(logits["holdout"], judged["holdout"].labels, card)
        metrics["calibration"] = _brief(judge(logits["calibration"], judged["calibration"].labels, card))
        metrics["unknown_rejection"] = {"samples": _reject_samples(engine, card, logits["holdout"])}
        if held_out is not None:
            metrics["unknown_rejection"]["held_out_classes"] = dict(held_out)
        metrics["flip_averaged_top1"] = _flipped_top1(engine, judged["holdout"], logits["holdout"])
        engines = _engines(engine, exported, judged, logits)
    finally:
        engine.unload()
    card = card.model_copy(update={"metrics": Metrics.model_validate(metrics), "engines": engines})
    plots.draw(folder / "plots", card, logits["holdout"], judged["holdout"].labels)
    return card


def fitted(card: Card, logits: Floats, labels: Labels) -> Card:
    """The card with temperature and thresholds fitted to these photos, which must be of `calibration`."""
    temperature = fit_temperature(logits, labels)
    probabilities = calibrate(logits, temperature)
    names, make_of = make_table(card.classes)
    by_make = probabilities @ (make_of[:, None] == np.arange(len(names))).astype(np.float32)
    found = fit_thresholds(
        (probabilities.max(axis=1), probabilities.argmax(axis=1) == labels),
        (by_make.max(axis=1).clip(max=1), by_make.argmax(axis=1) == make_of[labels]),
        target=card.thresholds.target_precision,
    )
    thresholds = Thresholds(model=found.model, make=found.make, target_precision=found.target_precision)
    return card.model_copy(update={"temperature": temperature, "thresholds": thresholds})


def _brief(metrics: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a split that was fitted on: the numbers, not the tables."""
    return {key: value for key, value in metrics.items() if not isinstance(value, list)}


def _reject_samples(engine: Engine, card: Card, known: Floats) -> dict[str, Any]:
    files = sample_photographs()
    if not files:
        return {
            "auroc": None,
            "reason": "neither scikit-image nor scikit-learn is installed",
        }
    unknown = engine.logits(decode_files(files, card.image_size))
    told = compare_scores(known, unknown, card.temperature)
    confident = calibrate(unknown, card.temperature).max(axis=1) >= card.thresholds.model
    return told | {
        "decided_model": int(confident.sum()),
        "source": "sample pictures of scikit-image and scikit-learn",
    }


def _flipped_top1(engine: Engine, part: JudgedSplit, logits: Floats) -> float:
    mirrored = engine.logits(np.ascontiguousarray(part.images[:, :, ::-1]))
    return _top1(logits + mirrored, part.labels)


def _engines(
    engine: Engine, exported: Exported, judged: Mapping[str, JudgedSplit], logits: Mapping[str, Floats]
) -> dict[str, EngineFile]:
    """What each engine and the reduced decoding cost against float32 and full decoding, as shares of top-1."""
    top1 = {split: _top1(logits[split], part.labels) for split, part in judged.items()}
    float_top1 = {split: _top1(exported.reference[split], part.labels) for split, part in judged.items()}
    holdout = judged["holdout"]
    full = engine.logits(decode_files(holdout.photos, engine.input_size, reduced=False))
    shipped = {
        "file": ONNX,
        "precision": exported.precision,
        "top1_delta": top1["holdout"] - float_top1["holdout"],
        "top1": top1,
        "top1_delta_calibration": top1["calibration"] - float_top1["calibration"],
        "same_top1_as_float32": float((logits["holdout"].argmax(1) == exported.reference["holdout"].argmax(1)).mean()),
        "reduced_decoding_delta": top1["holdout"] - _top1(full, holdout.labels),
        "largest_distance_of_float32_graph_from_torch": exported.parity,
        "quantization": exported.calibration,
        "rejected": list(exported.rejected),
    }
    reference = {"file": WEIGHTS, "precision": "float16", "top1_delta": 0.0, "top1": float_top1}
    return {"onnx": EngineFile.model_validate(shipped), "torch": EngineFile.model_validate(reference)}


def _top1(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
