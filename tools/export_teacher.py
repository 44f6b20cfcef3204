#!/usr/bin/env python3
r"""Writes a torch classifier as a teacher for `cars train --recipe distill`: an ONNX file and its JSON beside it.

    python tools/export_teacher.py MODULE:CALLABLE --folder FOLDER --size 192 --classes classes.json \
        --mean 0.498 0.498 0.498 --std 0.502 0.502 0.502 --source "what it is" --licence "CC BY 4.0" --out teacher.onnx

CALLABLE of MODULE, found in FOLDER, is called without arguments and gives a torch.nn.Module with its weights loaded, or
an object that has one as `--attribute`. The module takes normalized float32 (N, 3, S, S), RGB, and gives logits (N, C).
It runs the code of FOLDER: use it on code that you trust.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import nn

from model.errors import ModelError
from model.training.distillation import Sidecar, open_teacher, sidecar_of

_TOLERANCE = 1e-3  # of the largest logit


def main() -> int:
    """Exports, opens what was written, compares; returns the exit status."""
    options = _parser().parse_args()
    classes = json.loads(options.classes.read_text())
    network = _network(options.callable, folder=options.folder, attribute=options.attribute)
    _export(network, size=options.size, out=options.out)
    sidecar = {
        "classes": classes,
        "size": options.size,
        "mean": options.mean,
        "std": options.std,
        "source": options.source,
        "licence": options.licence,
        "temperature": options.temperature,
    }
    sidecar_of(options.out).write_text(json.dumps(sidecar, ensure_ascii=False, indent=1) + "\n")
    try:
        distance = _distance(network, options.out, Sidecar.model_validate(sidecar))
    except (ModelError, ValueError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    if not distance <= _TOLERANCE:
        print(f"error: {options.out} differs from torch by {distance:.2g} of the largest logit", file=sys.stderr)
        return 1
    print(f"{options.out} and {sidecar_of(options.out).name}: differ from torch by {distance:.1e} of the largest logit")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write a torch classifier as a teacher: ONNX and JSON.")
    parser.add_argument("callable", metavar="MODULE:CALLABLE")
    parser.add_argument("--folder", type=Path, default=Path(), help="where MODULE is; default: the current folder")
    parser.add_argument("--attribute", help="where the network is in what CALLABLE gives")
    parser.add_argument("--size", type=int, required=True, help="pixels of the square that it looks at")
    parser.add_argument("--classes", type=Path, required=True, help="a JSON list, in the order of its logits")
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406], help="on the scale 0 to 1")
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225], help="on the scale 0 to 1")
    parser.add_argument("--temperature", type=float, default=1.0, help="what its logits are divided by")
    parser.add_argument("--source", required=True, help="what it is and what it was trained on")
    parser.add_argument("--licence", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the .onnx file; the JSON goes beside it")
    return parser


def _network(name: str, *, folder: Path, attribute: str | None) -> nn.Module:
    sys.path.insert(0, str(folder.resolve()))
    module, _, called = name.partition(":")
    made: Any = getattr(import_module(module), called)()
    network = getattr(made, attribute) if attribute else made
    if not isinstance(network, nn.Module):
        raise SystemExit(f"error: {name} gives a {type(network).__name__}, not a torch.nn.Module; see --attribute")
    return network.float().eval()


def _export(network: nn.Module, *, size: int, out: Path) -> None:
    free = {"photos": {0: "N"}, "logits": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the one that needs no further package
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, size, size),),
            str(out),
            input_names=["photos"],
            output_names=["logits"],
            dynamic_axes=free,
            opset_version=17,
            dynamo=False,
        )


@torch.inference_mode()
def _distance(network: nn.Module, file: Path, sidecar: Sidecar) -> float:
    """How far the file's logits are from torch's on noise, as a fraction of the largest."""
    pixels = torch.rand(3, 3, sidecar.size, sidecar.size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (sidecar.mean, sidecar.std))
    expected = network((pixels - mean) / std).numpy() / sidecar.temperature
    found = open_teacher(file, sidecar.classes).logits(pixels).numpy()
    return float(np.abs(expected - found).max() / max(1e-6, float(np.abs(expected).max())))


if __name__ == "__main__":
    raise SystemExit(main())
