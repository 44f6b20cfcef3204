"""What a version is worth, measured on the very engine that its folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.cards import ONNX, WEIGHTS, Card, EngineFile, KnownCar, Metrics, Score
from model.data.decoding import Images, decode_files
from model.data.ood_images import OtherPhotos
from model.decision import calibrate, decide_all, known_scores, looks_unknown
from model.engines import Engine, open_engine
from model.evaluation import plots
from model.evaluation.calibration import fit_temperature
from model.evaluation.decisions import FittedDecisions, fit_decisions
from model.evaluation.metrics import framing, judge, judge_others
from model.evaluation.ood import LARGEST_SHARE, UNCOMPARED, compare_scores, fit_least, sample_photographs
from model.publishing.input_size import SizeTried
from model.publishing.onnx_export import Exported

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
    others: OtherPhotos | None = None,
    sizes: Sequence[SizeTried] = (),
) -> Card:
    """The card with everything measured on the engine that the folder holds; adds the plots to the folder."""
    engine = open_engine("onnx", "cpu", folder, card)
    try:
        logits = {split: engine.logits(part.images) for split, part in judged.items()}
        files = sample_photographs()
        samples = engine.logits(decode_files(files, card.image_size)) if files else None
        strange = None if others is None else engine.logits(others.images("calibration", card.image_size))
        decisions = fitted(
            card,
            logits["calibration"],
            judged["calibration"].labels,
            samples=samples if strange is None else strange,
            others=strange,
        )
        card = decisions.card
        metrics: dict[str, Any] = {"split": "holdout", "engine": "onnx", "precision": exported.precision}
        metrics |= judge(logits["holdout"], judged["holdout"].labels, card)
        metrics["calibration"] = _brief(judge(logits["calibration"], judged["calibration"].labels, card))
        metrics["unknown_rejection"] = _rejection(card, logits, samples)
        if held_out is not None:
            metrics["unknown_rejection"]["held_out_classes"] = dict(held_out)
        metrics["threshold_halvings"] = decisions.halvings
        metrics["sizes"] = [result.to_json() for result in sizes]
        metrics["framing"] = framing(engine, card, judged["holdout"].photos, judged["holdout"].labels)
        if others is not None:
            metrics["other_photos"] = judge_others(engine, card, others)
        metrics["flip_averaged_top1"] = _flipped_top1(engine, judged["holdout"], logits["holdout"])
        engines = {
            "onnx": _onnx_file(engine, exported, judged, logits),
            "torch": _torch_file(folder, card, exported, judged["holdout"]),
        }
    finally:
        engine.unload()
    card = card.model_copy(update={"metrics": Metrics.model_validate(metrics), "engines": engines})
    plots.draw(folder / "plots", card, logits["holdout"], judged["holdout"].labels)
    return card


def fitted(
    card: Card, logits: Floats, labels: Labels, *, samples: Floats | None, others: Floats | None = None
) -> FittedDecisions:
    """The card with temperature and thresholds fitted to these photos, which must be of `calibration`.

    ``samples`` are the logits of pictures that show no known car: the score that tells them apart best is the one to
    reject by. The thresholds of `model` and `make` are fitted on the photos that it lets pass, and `model` so that few
    of ``others`` reach it.
    """
    card = card.model_copy(update={"temperature": fit_temperature(logits, labels)})
    known = _fit_known(logits, samples, card.temperature)
    card = card.model_copy(update={"thresholds": card.thresholds.model_copy(update={"known": known})})
    return fit_decisions(card, logits, labels, others=others)


def _fit_known(logits: Floats, samples: Floats | None, temperature: float) -> KnownCar | None:
    score: Score = UNCOMPARED if samples is None else compare_scores(logits, samples, temperature)["best"]
    least = fit_least(known_scores(logits, temperature)[score])
    return None if least is None else KnownCar(score=score, least=least)


def _brief(metrics: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping of a split that was fitted on: the numbers, not the tables."""
    return {key: value for key, value in metrics.items() if not isinstance(value, list)}


def _rejection(card: Card, logits: Mapping[str, Floats], samples: Floats | None) -> dict[str, Any]:
    """How many known photos are rejected, as shares, and how the sample pictures fare, which show no known car.

    The pictures and `calibration` chose the score ("best"), the limit comes from `calibration` alone, and `holdout`,
    which "auroc" is against, had no part in either.
    """
    told: dict[str, Any] = {
        "known_rejected_at_most": LARGEST_SHARE,
        "known_rejected": {split: float(looks_unknown(known, card).mean()) for split, known in logits.items()},
    }
    if samples is None:
        return told | {"samples": {"auroc": None, "reason": "neither scikit-image nor scikit-learn is installed"}}
    decided = decide_all(calibrate(samples, card.temperature), card, samples)
    fitted_on, judged_on = (compare_scores(logits[s], samples, card.temperature) for s in ("calibration", "holdout"))
    told["samples"] = fitted_on | {
        "auroc": judged_on["auroc"],
        "auroc_on_calibration": fitted_on["auroc"],
        "rejected": float(decided.rejected.mean()),
        "decided_model": decided.decision.count("model"),
        "decided_make": decided.decision.count("make"),
        "source": "sample pictures of scikit-image and scikit-learn",
    }
    return told


def _flipped_top1(engine: Engine, part: JudgedSplit, logits: Floats) -> float:
    mirrored = engine.logits(np.ascontiguousarray(part.images[:, :, ::-1]))
    return _top1(logits + mirrored, part.labels)


def _onnx_file(
    engine: Engine, exported: Exported, judged: Mapping[str, JudgedSplit], logits: Mapping[str, Floats]
) -> EngineFile:
    """What the shipped graph and the reduced decoding cost against float32 and full decoding, as shares of top-1."""
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
        "quantization": exported.quantization,
        "int8_on_calibration": [asdict(candidate) for candidate in exported.candidates],
    }
    return EngineFile.model_validate(shipped)


def _torch_file(folder: Path, card: Card, exported: Exported, holdout: JudgedSplit) -> EngineFile:
    """The same of the torch engine, which computes in float32 on a CPU; on a GPU it would in half precision."""
    engine = open_engine("torch", "cpu", folder, card)
    try:
        top1 = _top1(engine.logits(holdout.images), holdout.labels)
    finally:
        engine.unload()
    delta = top1 - _top1(exported.reference["holdout"], holdout.labels)
    told = {
        "file": WEIGHTS,
        "precision": "float16",
        "top1_delta": delta,
        "top1": {"holdout": top1},
        "measured_on": "cpu",
    }
    return EngineFile.model_validate(told)


def _top1(logits: Floats, labels: Labels) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
