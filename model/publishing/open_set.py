"""How well cars of unknown models are told from known ones: a short run that never sees ten of the classes.

Published weights have seen every class, so this can only be measured on weights trained for it; what is learned is
which score to trust, and about how far.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from model.data.dataset import Dataset, open_dataset
from model.data.decoding import decode_files
from model.errors import DatasetError, ModelError
from model.evaluation.ood import compare_scores
from model.publishing.onnx_export import float_graph, graph_logits, to_float16
from model.training.train import train

__all__ = ["evaluate_unseen_classes", "main"]


def evaluate_unseen_classes(
    dataset: Dataset,
    *,
    run_folder: Path,
    count: int = 10,
    epochs: int = 20,
    seed: int = 0,
    options: Mapping[str, JsonValue] | None = None,
) -> dict[str, object]:
    """Return the AUROC of each score between `holdout` images of the classes trained on and images of `count` others.

    Trains by the recipe `scratch` for `epochs` epochs in `run_folder`. The result says that it is of a short run.
    Raises DatasetError if fewer than two classes would be left, and the errors of `train`.
    """
    if len(dataset.classes) < count + 2:
        raise DatasetError(f"holding out {count} of {len(dataset.classes)} classes leaves too few to train on")
    chosen = set(np.random.default_rng(seed).permutation(len(dataset.classes))[:count].tolist())
    classes = [name for index, name in enumerate(dataset.classes) if index not in chosen]
    seen = tuple(image for image in dataset.images if image.label not in chosen)
    known = _relabelled(replace(dataset, images=seen), classes)
    trained = train(known, recipe="scratch", run_folder=run_folder, epochs=epochs, seed=seed, options=options)
    size = trained.image_sizes[0]
    graph = float_graph(to_float16(trained.weights, len(classes)), size)
    inside = graph_logits(graph, decode_files([image.file for image in known.of("holdout")], size))
    others = [image.file for image in dataset.images if image.label in chosen]
    outside = graph_logits(graph, decode_files(others, size))
    return asdict(compare_scores(inside, outside, temperature=1.0)) | {
        "classes": sorted(dataset.classes[index] for index in chosen),
        "known_images": len(inside),
        "known_top1": float((inside.argmax(axis=1) == known.labels("holdout")).mean()),
        "epochs": epochs,
        "image_size": size,
        "of": "a short run without these classes, not the published weights",
    }


def _relabelled(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    position = {name: index for index, name in enumerate(classes)}
    images = tuple(replace(image, label=position[dataset.classes[image.label]]) for image in dataset.images)
    return replace(dataset, classes=tuple(classes), images=images)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the result as JSON and return the exit status: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Measure how well cars of unseen classes are told from known ones.")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("run", type=Path, help="a folder for the run; started again with it, the run continues")
    parser.add_argument("out", type=Path, help="the JSON file to write, for `publish_weights --held-out`")
    parser.add_argument("--classes", type=int, default=10, help="how many classes are held out")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    try:
        dataset = open_dataset(options.dataset)
        found = evaluate_unseen_classes(dataset, run_folder=options.run, count=options.classes, epochs=options.epochs)
    except (ModelError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(found, indent=1))
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
