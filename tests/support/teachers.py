"""Tiny teachers for tests: the mean color of a picture times a matrix, as an ONNX graph with its JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.5, 0.25)


def weights(classes: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The matrix (3, classes) that a teacher's logits are made with."""
    return np.random.default_rng(5).normal(size=(3, classes)).astype(np.float32) * 4


def graph(classes: int, *, size: int | str = 24, softmax: bool = False, **changes: Any) -> onnx.ModelProto:
    """float32 (N, 3, S, S) → logits (N, classes).

    `changes`: the input's `shape` or `kind`, and the `axes` of its sides.
    """
    kind = changes.get("kind", TensorProto.FLOAT)
    nodes = [
        helper.make_node("Cast", ["photos"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["color"], keepdims=0),
        helper.make_node("MatMul", ["color", "weights"], ["scores"]),
        helper.make_node("Softmax" if softmax else "Identity", ["scores"], ["logits"]),
    ]
    body = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("photos", kind, changes.get("shape", ["N", 3, size, size]))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [
            numpy_helper.from_array(np.array(changes.get("axes", [2, 3]), dtype=np.int64), "axes"),
            numpy_helper.from_array(weights(classes), "weights"),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_teacher(
    file: Path, classes: Sequence[str], *, model: onnx.ModelProto | None = None, size: int = 24, **changes: Any
) -> Path:
    """Write `file` and the JSON beside it, whose fields `changes` replace, or leave out where None."""
    onnx.save(model or graph(len(classes), size=size), file)
    told = {
        "classes": list(classes),
        "size": size,
        "mean": MEAN,
        "std": STD,
        "source": "made for a test",
        "licence": "CC0",
        **changes,
    }
    told = {name: value for name, value in told.items() if value is not None}
    file.with_suffix(".json").write_text(json.dumps(told))
    return file
