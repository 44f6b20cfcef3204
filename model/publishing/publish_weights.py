"""Publishing weights that were trained elsewhere: `python -P -m model.publishing.publish_weights --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from model.data.dataset import open_dataset
from model.data.ood_images import open_ood_images
from model.errors import ModelError
from model.inspection import inspect_safetensors, refuse_pickle
from model.publishing.publish import publish

__all__ = ["main", "read_weights"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish as the command line says and return the exit status: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description="Publish a ResNet34's safetensors weights as a version folder.")
    parser.add_argument("weights", type=Path, help=".safetensors with torchvision's names")
    parser.add_argument("dataset", type=Path, help="the labelled images, with the split the weights were trained on")
    parser.add_argument("out", type=Path, help="the version folder to write; its name names the version")
    parser.add_argument("--size", type=int, nargs="+", required=True, help="image size, or several to choose from")
    parser.add_argument("--recipe", type=Path, help="JSON object with a `name` that says how the weights were trained")
    parser.add_argument("--prefix", default="", help="take only tensors whose names start with this, and cut it off")
    parser.add_argument("--held-out", type=Path, help="the JSON file that model.publishing.open_set wrote")
    parser.add_argument("--other", type=Path, help="images that show no car of the classes, with a labels.csv")
    parser.add_argument("--target-precision", type=float, default=0.95)
    options = parser.parse_args(arguments)
    try:
        recipe = json.loads(options.recipe.read_text("utf-8")) if options.recipe else {"name": "unknown"}
        publish(
            read_weights(options.weights, prefix=options.prefix),
            dataset=open_dataset(options.dataset),
            image_size=options.size,
            out=options.out,
            recipe=recipe,
            unseen_classes=json.loads(options.held_out.read_text("utf-8")) if options.held_out else None,
            ood_images=open_ood_images(options.other) if options.other else None,
            target_precision=options.target_precision,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ModelError, OSError, ValueError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(options.out)
    return 0


def read_weights(file: Path, *, prefix: str = "") -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors of a safetensors file, inspected before they are parsed. Raises ArtifactUnsafe or
    ArtifactCorrupt.
    """
    refuse_pickle(file)
    content = file.read_bytes()
    inspect_safetensors(file, content)
    return {name.removeprefix(prefix): array for name, array in load(content).items() if name.startswith(prefix)}


if __name__ == "__main__":
    raise SystemExit(main())
