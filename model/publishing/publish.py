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
from pydantic import JsonValue
from safetensors.numpy import save

from model import cards
from model.cards import CARD_FORMAT, ONNX, WEIGHTS, Card, CardDraft, DataOrigin, EngineSpec, Recipe, Thresholds
from model.data.dataset import Dataset
from model.data.decoding import Images, decode_files
from model.data.ood_images import OodImages
from model.errors import ArtifactExists, DatasetError
from model.evaluation import plots
from model.evaluation.thresholds import NEVER, TARGET_PRECISION
from model.publishing.card_metrics import EvalSplit, Measured, measure
from model.publishing.input_size import choose_size
from model.publishing.onnx_export import PREPROCESSING, Exported, export, to_float16

__all__ = ["publish"]

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Report = Callable[[str], None]

SAMPLE = 512  # training images that int8 ranges are taken from


def publish(
    state: Mapping[str, Any],
    *,
    dataset: Dataset,
    image_size: int | Sequence[int],
    out: Path,
    recipe: Mapping[str, JsonValue],
    name: str | None = None,
    target_precision: float = TARGET_PRECISION,
    training_plots: Sequence[Path] = (),
    unseen_classes: Mapping[str, JsonValue] | None = None,
    ood_images: OodImages | None = None,
    seed: int = 0,
    report: Report = lambda _: None,
) -> Card:
    """Write the version folder `out` and return its card. It appears whole or not at all.

    `state`: a ResNet34's tensors by torchvision's names, one output per class of `dataset`. `image_size`: one, or
    several, of which the smallest is taken that is nearly the best on `calibration`. `recipe`: what the card says of
    the training, with a `name`.
    `name`: the version's, the folder's unless given. `training_plots` are put among the version's;
    `unseen_classes` is what `evaluate_unseen_classes` found, for the card. `ood_images` show no car of the classes: the
    decision `unknown` is fitted to them, and measured on them.
    The int8 variant is chosen on `calibration`, and temperature and thresholds are fitted there with the logits of the
    engine as shipped; every headline number is that engine's on `holdout`, not augmented, which decides nothing.

    Raises ArtifactExists if `out` is there, PublishingFailed for unusable weights, DatasetError for an empty split.
    """
    if out.exists():
        raise ArtifactExists(f"{out} exists already; versions are immutable, so publish under another name")
    for split in ("train", "calibration", "holdout"):
        if not dataset.of(split):
            raise DatasetError(f"the data has no images in {split!r}, without which a version cannot be evaluated")
    weights = to_float16(state, len(dataset.classes))
    sizes = [image_size] if isinstance(image_size, int) else list(image_size)
    calibration = tuple(image.file for image in dataset.of("calibration"))
    size, tried = choose_size(weights, sizes, lambda s: decode_files(calibration, s), dataset.labels("calibration"))
    for result in tried:
        report(f"{result.size} px: top-1 {result.top1_calibration:.2%}, {result.images_per_second:.1f} images/s")
    report(f"evaluating at {size} px")
    splits = {split: _decoded(dataset, split, size) for split in ("calibration", "holdout")}
    exported = export(
        weights,
        size=size,
        sample=_sample(dataset, size, seed),
        splits={split: (part.images, part.labels) for split, part in splits.items()},
        report=report,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as draft_folder:
        folder = Path(draft_folder) / "version"
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(save(weights))
        onnx.save(exported.graph, folder / ONNX)
        if training_plots:
            (folder / "plots").mkdir()
            for plot in training_plots:
                shutil.copyfile(plot, folder / "plots" / plot.name)
        draft = _draft(folder, dataset, exported, name=name or out.name, size=size, target=target_precision)
        measured = measure(
            folder, draft, splits, exported, unseen_classes=unseen_classes, ood_images=ood_images, sizes=tried
        )
        card = _card(measured, dataset, recipe=recipe)
        plots.draw(folder / "plots", card, measured.holdout_logits, splits["holdout"].labels)
        card = card.model_copy(update={"files": _hashes(folder)})
        report(_summary(card))
        cards.write(folder, cards.parse_card(card.to_bytes()))
        cards.verify(folder)
        if out.exists():
            raise ArtifactExists(
                f"{out} was published meanwhile; versions are immutable, so publish under another name"
            )
        folder.rename(out)
    report(f"published {card.name}: top-1 {card.metrics.top1:.2%} on {card.metrics.images} holdout images")
    return card


def _decoded(dataset: Dataset, split: str, size: int) -> EvalSplit:
    files = tuple(image.file for image in dataset.of(split))
    return EvalSplit(files=files, images=decode_files(files, size), labels=dataset.labels(split))


def _sample(dataset: Dataset, size: int, seed: int) -> Images:
    files = [image.file for image in dataset.of("train")]
    picks = np.random.default_rng(seed).permutation(len(files))[:SAMPLE]
    return decode_files([files[i] for i in sorted(picks)], size)


def _draft(folder: Path, dataset: Dataset, exported: Exported, *, name: str, size: int, target: float) -> CardDraft:
    """Return what is known before anything is measured; it decides nothing yet."""
    return CardDraft(
        format=CARD_FORMAT,
        classes=dataset.classes,
        class_parts=cards.class_parts(dataset.classes, dataset.class_parts),
        name=name,
        architecture="resnet34",
        image_size=size,
        preprocessing=PREPROCESSING,
        temperature=1.0,
        thresholds=Thresholds(model=NEVER, make=NEVER, target_precision=target),
        engines={
            "onnx": EngineSpec.model_validate({"file": ONNX, "precision": exported.precision}),
            "torch": EngineSpec.model_validate({"file": WEIGHTS, "precision": "float16"}),
        },
        files=_hashes(folder),
    )


def _card(measured: Measured, dataset: Dataset, *, recipe: Mapping[str, JsonValue]) -> Card:
    draft = measured.draft
    origin = {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.images),
        "split_seed": dataset.split_seed,
        "holdout": tuple(sorted(image.digest for image in dataset.of("holdout"))),
        "images_by_split": {split: len(dataset.of(split)) for split in ("train", "calibration", "holdout")},
        "unreadable": len(dataset.unreadable),
        **({"classes_left_out": dict(dataset.left_out)} if dataset.left_out else {}),
    }
    return Card(
        **{field: getattr(draft, field) for field in CardDraft.model_fields if field != "engines"},
        engines=measured.engines,
        metrics=measured.metrics,
        recipe=Recipe.model_validate(recipe),
        data=DataOrigin.model_validate(origin),
        created_at=datetime.now(UTC),
    )


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that now lies in the folder, but for the card."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != cards.CARD)
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _summary(card: Card) -> str:
    found = card.metrics
    return f"top-1 {found.top1:.2%}, ECE {found.ece:.2%}, {found.coverage:.1%} decided by model"
