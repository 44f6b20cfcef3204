"""Small artifacts for tests: a card, a graph of one layer, weights of a few bytes; made here, trained on nothing."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from model import cards
from model.cards import Card

CLASSES = ("Acura TL Sedan 2012", "Acura TSX Sedan 2012", "BMW M3 Coupe 2012", "Land Rover LR2 SUV 2012")
SIZE = 8


def card_fields(**changes: Any) -> dict[str, Any]:
    """The JSON of a valid card, with top-level fields replaced."""
    engines = {
        "onnx": {"file": "model.onnx", "precision": "int8", "top1_delta": -0.002},
        "torch": {"file": "weights.safetensors", "precision": "float16", "top1_delta": 0.0},
    }
    metrics = {"split": "holdout", "images": 9, "top1": 0.7, "top5": 0.9, "make": 0.8, "ece": 0.02, "coverage": 0.4}
    fields = {
        "format": 3,
        "name": "v1",
        "architecture": "resnet34",
        "classes": list(CLASSES),
        "image_size": SIZE,
        "preprocessing": {
            "resize": "squish",
            "resample": "bicubic",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "temperature": 1.5,
        "thresholds": {"model": 0.6, "make": 0.7, "target_precision": 0.95},
        "metrics": metrics,
        "recipe": {"name": "scratch", "epochs": 3},
        "data": {"fingerprint": "f" * 64, "images": 90, "split_seed": None, "holdout": ["a" * 64]},
        "engines": engines,
        "files": {"model.onnx": "0" * 64, "weights.safetensors": "1" * 64},
        "created_at": "2026-01-02T03:04:05Z",
    }
    return {**fields, **changes}


def graph(seed: int = 0, *, classes: int = len(CLASSES), size: int = SIZE) -> onnx.ModelProto:
    """Images uint8 (N, S, S, 3) → logits float32 (N, classes): the mean colour times a random matrix."""
    weights = np.random.default_rng(seed).normal(size=(3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
    ]
    initializers = [
        numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
        numpy_helper.from_array(weights, "weights"),
    ]
    body = helper.make_graph(
        nodes,
        "mean-colour",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        initializers,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_artifact(folder: Path, files: Mapping[str, bytes] | None = None, **changes: Any) -> Card:
    """An artifact whose card fits its files; by default the graph above and weights of no network."""
    folder.mkdir(parents=True, exist_ok=True)
    if files is None:
        weights = save({"weight": np.arange(6, dtype=np.float16).reshape(2, 3)})
        files = {"model.onnx": graph().SerializeToString(), "weights.safetensors": weights}
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    card = cards.parse_card(json.dumps(card_fields(**{"files": hashes, **changes})).encode())
    cards.write(folder, card)
    return card
