"""Publishing: trained weights become an immutable version folder that knows what it is worth."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from safetensors.numpy import save

from model import cards
from model.cards import ONNX, WEIGHTS, Card, DataOrigin, EngineFile, Metrics, Recipe, Thresholds
from model.data.dataset import Dataset
from model.data.decoding import Images, decode_files
from model.data.ood_images import OtherPhotos
from model.errors import ArtifactExists, DatasetError
from model.evaluation.thresholds import TARGET_PRECISION
from model.publishing.card_metrics import JudgedSplit, measured
from model.publishing.input_size import choose_size
from model.publishing.onnx_export import PREPROCESSING, Exported, export, half_weights

__all__ = ["publish"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Report = Callable[[str], None]

SAMPLE = 512  # training photos that int8 ranges are taken from


def publish(
    state: Mapping[str, Any],
    *,
    dataset: Dataset,
    image_size: int | Sequence[int],
    out: Path,
    recipe: Mapping[str, Any],
    name: str | None = None,
    target_precision: float = TARGET_PRECISION,
    training_plots: Sequence[Path] = (),
    held_out: Mapping[str, Any] | None = None,
    others: OtherPhotos | None = None,
    seed: int = 0,
    report: Report = lambda _: None,
) -> Card:
    """Writes the version folder ``out`` and returns its card. It appears whole or not at all.

    ``state``: a ResNet34's tensors by torchvision's names, one output a class of ``dataset``. ``image_size``: one, or
    several, of which the smallest is taken that is nearly the best on `calibration`. ``recipe``: what the card says of
    the training, with a `name`.
    ``name``: the version's, the folder's unless given. ``training_plots`` are put among the version's;
    ``held_out`` is what `judge_held_out_classes` found, for the card. ``others`` show no car of the classes: what the
    decision `unknown` is fitted to, and measured on.
    The int8 variant is chosen on `calibration`, and temperature and thresholds are fitted there with the logits of the
    engine as shipped; every headline number is that engine's on `holdout`, one view, which decides nothing.

    Raises ArtifactExists if ``out`` is there, PublishingFailed for unusable weights, DatasetError for an empty split.
    """
    if out.exists():
        raise ArtifactExists(f"{out} exists already; versions are immutable, so publish under another name")
    for split in ("train", "calibration", "holdout"):
        if not dataset.of(split):
            raise DatasetError(f"the data has no photos in {split!r}, without which a version cannot be judged")
    weights = half_weights(state, len(dataset.classes))
    sizes = [image_size] if isinstance(image_size, int) else list(image_size)
    calibration = tuple(photo.file for photo in dataset.of("calibration"))
    size, tried = choose_size(weights, sizes, lambda s: decode_files(calibration, s), dataset.labels("calibration"))
    for result in tried:
        report(f"{result.size} px: top-1 {result.top1_calibration:.2%}, {result.images_per_second:.1f} images/s")
    report(f"evaluating at {size} px")
    judged = {split: _decoded(dataset, split, size) for split in ("calibration", "holdout")}
    exported = export(
        weights,
        size=size,
        sample=_sample(dataset, size, seed),
        judged={split: (part.images, part.labels) for split, part in judged.items()},
        report=report,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as draft:
        folder = Path(draft) / "version"
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(save(weights))
        onnx.save(exported.graph, folder / ONNX)
        if training_plots:
            (folder / "plots").mkdir()
            for plot in training_plots:
                shutil.copyfile(plot, folder / "plots" / plot.name)
        card = _first_card(dataset, exported, name=name or out.name, size=size, recipe=recipe, target=target_precision)
        card = measured(
            folder, _with_files(folder, card), judged, exported, held_out=held_out, others=others, sizes=tried
        )
        report(_summary(card))
        card = Card.model_validate_json(_with_files(folder, card).to_bytes())
        cards.write(folder, card)
        cards.verify(folder)
        if out.exists():
            raise ArtifactExists(
                f"{out} was published meanwhile; versions are immutable, so publish under another name"
            )
        folder.rename(out)
    report(f"published {card.name}: top-1 {card.metrics.top1:.2%} on {card.metrics.images} holdout photos")
    return card


def _decoded(dataset: Dataset, split: str, size: int) -> JudgedSplit:
    files = tuple(photo.file for photo in dataset.of(split))
    return JudgedSplit(photos=files, images=decode_files(files, size), labels=dataset.labels(split))


def _sample(dataset: Dataset, size: int, seed: int) -> Images:
    files = [photo.file for photo in dataset.of("train")]
    picks = np.random.default_rng(seed).permutation(len(files))[:SAMPLE]
    return decode_files([files[i] for i in sorted(picks)], size)


def _first_card(
    dataset: Dataset, exported: Exported, *, name: str, size: int, recipe: Mapping[str, Any], target: float
) -> Card:
    """The card before anything was measured: enough to open the engine that is then judged."""
    nothing = {"split": "holdout", "images": 0} | dict.fromkeys(("top1", "top5", "make", "ece", "coverage"), 0.0)
    return Card(
        **cards.class_fields(dataset.classes, dataset.class_parts),
        name=name,
        architecture="resnet34",
        image_size=size,
        preprocessing=PREPROCESSING,
        temperature=1.0,
        thresholds=Thresholds(model=0.0, make=0.0, target_precision=target),
        metrics=Metrics.model_validate(nothing),
        recipe=Recipe.model_validate(recipe),
        data=DataOrigin.model_validate(
            {
                "fingerprint": dataset.fingerprint,
                "images": len(dataset.photos),
                "split_seed": dataset.split_seed,
                "holdout": tuple(sorted(photo.digest for photo in dataset.of("holdout"))),
                "images_by_split": {split: len(dataset.of(split)) for split in ("train", "calibration", "holdout")},
                "unreadable": len(dataset.unreadable),
                **({"classes_left_out": dict(dataset.left_out)} if dataset.left_out else {}),
            }
        ),
        engines={
            "onnx": EngineFile.model_validate({"file": ONNX, "precision": exported.precision, "top1_delta": 0.0}),
            "torch": EngineFile.model_validate({"file": WEIGHTS, "precision": "float16", "top1_delta": 0.0}),
        },
        files={WEIGHTS: "0" * 64, ONNX: "0" * 64},
        created_at=datetime.now(UTC),
    )


def _with_files(folder: Path, card: Card) -> Card:
    """The card with the hashes of all files that now lie in the folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != cards.CARD)
    hashes = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return card.model_copy(update={"files": hashes})


def _summary(card: Card) -> str:
    found = card.metrics
    return f"top-1 {found.top1:.2%}, ECE {found.ece:.2%}, {found.coverage:.1%} decided by model"
