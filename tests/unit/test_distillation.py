"""What can teach, and what is refused before any training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from model.errors import ArtifactUnsafe
from model.training.distillation import open_teacher
from model.training.errors import TrainingFailed
from tests.support.artifacts import CLASSES as VERSION_CLASSES
from tests.support.artifacts import SIZE, write_artifact
from tests.support.teachers import MEAN, STD, graph, weights, write_teacher

CLASSES = ("Acura TL Sedan 2012", "BMW M3 Coupe 2012", "Land Rover LR2 SUV 2012")


def test_its_logits_are_in_the_order_of_the_run(tmp_path: Path) -> None:
    file = write_teacher(tmp_path / "t.onnx", CLASSES, temperature=2.0)
    turned = CLASSES[::-1]
    teacher = open_teacher(file, turned)
    pixels = torch.rand(20, 3, 24, 24)
    found = teacher.logits(pixels)
    color = ((pixels.numpy().mean(axis=(2, 3)) - MEAN) / STD).astype(np.float32)
    assert np.allclose(found.numpy(), (color @ weights(3))[:, ::-1] / 2, atol=1e-4)
    assert teacher.origin == {
        "name": "t.onnx",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "source": "made for a test",
        "licence": "CC0",
        "size": 24,
        "temperature": 2.0,
    }


def test_an_input_without_fixed_sides_will_do(tmp_path: Path) -> None:
    file = write_teacher(tmp_path / "t.onnx", CLASSES, model=graph(3, size="S"))
    assert open_teacher(file, CLASSES).logits(torch.rand(1, 3, 24, 24)).shape == (1, 3)


def test_a_published_version_can_teach(tmp_path: Path) -> None:
    card = write_artifact(tmp_path / "v1", temperature=4.0)
    teacher = open_teacher(tmp_path / "v1", VERSION_CLASSES)
    assert (teacher.name, teacher.sha256, teacher.size) == ("v1", card.files["model.onnx"], SIZE)
    pixels = torch.rand(3, 3, SIZE, SIZE)
    images = (pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    from model.engines.onnx import OnnxEngine

    expected = OnnxEngine(card=card, folder=tmp_path / "v1").logits(images) / 4
    assert np.allclose(teacher.logits(pixels).numpy(), expected, atol=1e-4)
    with pytest.raises(TrainingFailed, match="other classes"):
        open_teacher(tmp_path / "v1", VERSION_CLASSES[:3])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (CLASSES[:2], "lacks 'Land Rover LR2 SUV 2012'"),
        ((*CLASSES, "Lada Niva 1977"), "knows 'Lada Niva 1977', which the data does not have"),
        ((*CLASSES, CLASSES[0]), "names a class twice"),
    ],
)
def test_other_classes_are_refused(classes: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=words):
        open_teacher(write_teacher(tmp_path / "t.onnx", classes), CLASSES)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (graph(3, shape=["N", 24, 24, 3], axes=[1, 2]), "a teacher takes one input"),
        (graph(3, kind=TensorProto.UINT8), r"takes photos: tensor\(uint8\)"),
        (graph(3, size=32), r"\['N', 3, 32, 32\]"),
        (graph(3, shape=[2, 3, 24, 24]), "with N free"),
        (graph(4), "gives logits"),
        (graph(3, softmax=True), "gives probabilities"),
    ],
    ids=["layout", "uint8", "size", "fixed batch", "columns", "softmax"],
)
def test_another_input_or_output_is_refused(model: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=words):
        open_teacher(write_teacher(tmp_path / "t.onnx", CLASSES, model=model), CLASSES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licence": None}, "licence: Field required"),
        ({"source": ""}, "source"),
        ({"mean": [127, 127, 127]}, "scale 0 to 1"),
        ({"std": [128, 128, 128]}, "scale 0 to 1"),
        ({"std": [0, 1, 1]}, "std"),
        ({"size": 0}, "size"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_a_sidecar_that_says_too_little_or_wrong_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingFailed, match=words):
        open_teacher(write_teacher(tmp_path / "t.onnx", CLASSES, **changes), CLASSES)


def test_a_teacher_without_a_sidecar_is_refused(tmp_path: Path) -> None:
    file = write_teacher(tmp_path / "t.onnx", CLASSES)
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(TrainingFailed, match="not JSON"):
        open_teacher(file, CLASSES)
    (tmp_path / "t.json").unlink()
    with pytest.raises(TrainingFailed, match=r"t\.json is not there"):
        open_teacher(file, CLASSES)


def test_what_is_not_a_graph_or_reaches_outside_is_refused(tmp_path: Path) -> None:
    file = write_teacher(tmp_path / "t.onnx", CLASSES)
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="t.data", size_threshold=0)
    assert (tmp_path / "t.data").exists()
    with pytest.raises(ArtifactUnsafe, match="another file"):
        open_teacher(file, CLASSES)
    file.write_bytes(b"no graph")
    with pytest.raises(TrainingFailed, match="not an ONNX graph"):
        open_teacher(file, CLASSES)
    file.write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(ArtifactUnsafe):
        open_teacher(file, CLASSES)
