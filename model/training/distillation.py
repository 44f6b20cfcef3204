"""A teacher for distillation: an ONNX classifier over the same classes, run by onnxruntime on the CPU.

It is a file `NAME.onnx` with the JSON file `NAME.json` beside it, or a published version. The file takes float32
(N, 3, S, S), RGB, normalized by the mean and std that the JSON gives on the scale 0 to 1, and gives logits (N, C).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from model import cards
from model.cores import available_cores
from model.engines.onnx import OnnxEngine
from model.errors import ArtifactCorrupt
from model.inspection import inspect_onnx, refuse_pickle
from model.training.errors import TrainingFailed

__all__ = ["Sidecar", "Teacher", "open_teacher", "sidecar_of"]

_SIDECAR_BYTES = 8 << 20
_NAMES_LISTED = 3
_PART = 16  # images that a graph is run on at once

Unit = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1.01)]  # 128 / 255 and the like; more is another scale


class Sidecar(BaseModel):
    """What an ONNX file does not say of itself. `temperature`: what its logits are divided by to be calibrated."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    classes: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(min_length=2)]
    size: Annotated[int, Field(ge=4, le=1024)]
    mean: tuple[Unit, Unit, Unit]
    std: tuple[Deviation, Deviation, Deviation]
    source: Annotated[str, Field(min_length=1, max_length=2000)]
    licence: Annotated[str, Field(min_length=1, max_length=2000)]
    temperature: Annotated[float, Field(gt=0, le=1000)] = 1.0


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A classifier that can be asked. `order`: for each class of the run its place in the teacher's logits."""

    name: str
    sha256: str
    sidecar: Sidecar
    order: npt.NDArray[np.int64]
    runs: _Graph | OnnxEngine

    @property
    def size(self) -> int:
        """What it looks at, pixels."""
        return self.sidecar.size

    @property
    def identity(self) -> str:
        """A hash of all that decides about its logits: the graph and what its JSON file says."""
        return hashlib.sha256(f"{self.sha256} {self.sidecar.model_dump_json()}".encode()).hexdigest()

    @property
    def origin(self) -> dict[str, JsonValue]:
        """What the card of a student says of it."""
        fields = self.sidecar.model_dump(mode="json", include={"source", "licence", "size", "temperature"})
        return {"name": self.name, "sha256": self.sha256, **fields}

    @property
    def summary(self) -> str:
        """What the log says of it."""
        return f"{self.name} ({self.sha256[:12]}…) at {self.size} px, licence: {self.sidecar.licence}"

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return for RGB pixels (N, 3, S, S) of 0..1, S = `size` → its logits (N, C) in the run's order of classes."""
        array = pixels.detach().cpu().numpy()
        if isinstance(self.runs, OnnxEngine):
            found = self.runs.logits((array.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))
        else:
            fields = self.sidecar.mean, self.sidecar.std
            mean, std = (np.array(part, np.float32).reshape(1, 3, 1, 1) for part in fields)
            found = self.runs.logits((array - mean) / std)
        if found.ndim != 2 or found.shape[1] != len(self.order):
            raise ValueError(f"it gives an array of shape {found.shape}, not one logit for each of {len(self.order)}")
        ordered = np.ascontiguousarray(found[:, self.order] / np.float32(self.sidecar.temperature))
        return torch.from_numpy(ordered).to(pixels.device)


def open_teacher(place: Path, classes: Sequence[str]) -> Teacher:
    """Return the teacher in a file with its JSON beside it, or in a published version's folder, for a run over
    `classes`.

    Raises TrainingFailed for whatever makes it none: other classes, another input or output, a missing or wrong JSON
    file; ArtifactUnsafe for a pickle or tensors in other files; the errors of `cards.verify` for a version.
    """
    if place.is_dir():
        return _version(place, classes)
    refuse_pickle(place)
    sidecar = _read_sidecar(place)
    order = _order(sidecar.classes, classes, name=place.name)
    content = _content(place)
    graph = _Graph(place, content, sidecar)
    teacher = Teacher(
        name=place.name, sha256=hashlib.sha256(content).hexdigest(), sidecar=sidecar, order=order, runs=graph
    )
    _try(teacher)
    return teacher


def sidecar_of(file: Path) -> Path:
    """Return the JSON file that belongs to an ONNX file."""
    return file.with_suffix(".json")


class _Graph:
    """A graph that takes normalized float32 images, loaded from bytes: no other file is ever looked for."""

    def __init__(self, file: Path, content: bytes, sidecar: Sidecar) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # training needs the cores in between
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            if not type(exc).__module__.startswith("onnxruntime"):
                raise
            raise TrainingFailed(f"onnxruntime cannot load the teacher {file}: {exc}; export it again") from exc
        self._input = self._checked_input(file, sidecar)
        self._output = self._checked_output(file, sidecar)

    def logits(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return for normalized images (N, 3, S, S) → logits (N, C)."""
        parts = [
            self._session.run([self._output], {self._input: np.ascontiguousarray(images[start : start + _PART])})[0]
            for start in range(0, len(images), _PART)
        ]
        return np.concatenate(parts)

    def _checked_input(self, file: Path, sidecar: Sidecar) -> str:
        inputs = self._session.get_inputs()
        size = sidecar.size
        fits = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4
        sides = zip(inputs[0].shape, (None, 3, size, size), strict=True) if fits else ()
        if not fits or any(isinstance(side, int) and side != wanted for side, wanted in sides):
            found = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
            raise TrainingFailed(
                f"the teacher {file} takes {found}; a teacher takes one input, tensor(float) [N, 3, {size}, {size}] "
                f"with N free ({size} is the size in {sidecar_of(file).name}): export it so"
            )
        return str(inputs[0].name)

    def _checked_output(self, file: Path, sidecar: Sidecar) -> str:
        output, count = self._session.get_outputs()[0], len(sidecar.classes)
        last = output.shape[-1] if len(output.shape) == 2 else 0
        if output.type != "tensor(float)" or last == 0 or (isinstance(last, int) and last != count):
            raise TrainingFailed(
                f"the teacher {file} gives {output.name}: {output.type} {output.shape}; a teacher gives logits, "
                f"tensor(float) [N, {count}], one per class of {sidecar_of(file).name}"
            )
        return str(output.name)


def _version(folder: Path, classes: Sequence[str]) -> Teacher:
    """Return a published version's own graph, calibrated as its card has it."""
    card = cards.verify(folder)
    if "onnx" not in card.engines:
        raise TrainingFailed(f"the version {card.name} has no ONNX graph, so it cannot teach; take another")
    fields = card.recipe.model_dump(mode="json")
    sidecar = Sidecar(
        classes=card.classes,
        size=card.image_size,
        mean=card.preprocessing.mean,
        std=card.preprocessing.std,
        source=f"the version {card.name} (recipe {card.recipe.name})",
        licence=str(fields.get("licence") or "as the version's own"),
        temperature=card.temperature,
    )
    return Teacher(
        name=card.name,
        sha256=card.files[card.engines["onnx"].file],
        sidecar=sidecar,
        order=_order(card.classes, classes, name=card.name),
        runs=OnnxEngine(card=card, folder=folder),
    )


def _read_sidecar(file: Path) -> Sidecar:
    beside = sidecar_of(file)
    needs = "classes, size, mean, std, source and licence"
    try:
        with beside.open("rb") as opened:
            content = opened.read(_SIDECAR_BYTES + 1)
        if len(content) > _SIDECAR_BYTES:
            raise TrainingFailed(f"{beside} has more than {_SIDECAR_BYTES} bytes; it holds {needs} and little else")
        return Sidecar.model_validate(json.loads(content))
    except FileNotFoundError as exc:
        raise TrainingFailed(f"{beside} is not there: a teacher needs a JSON file with {needs} beside it") from exc
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in exc.errors()[:5])
        raise TrainingFailed(
            f"{beside} does not describe a teacher: {wrong}; it needs {needs}; mean and std are on the scale 0 to 1"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise TrainingFailed(f"{beside} is not JSON: {exc}") from exc


def _content(file: Path) -> bytes:
    """Return the file's bytes, looked through. Raises ArtifactUnsafe for tensors that lie in other files."""
    content = file.read_bytes()
    try:
        inspect_onnx(file, content)
    except ArtifactCorrupt as exc:
        raise TrainingFailed(f"the teacher {file} is not an ONNX graph; export it again") from exc
    return content


def _order(mine: Sequence[str], classes: Sequence[str], *, name: str) -> npt.NDArray[np.int64]:
    position: Mapping[str, int] = {label: index for index, label in enumerate(mine)}
    if len(position) < len(mine):
        raise TrainingFailed(f"the teacher {name} names a class twice")
    missing = [label for label in classes if label not in position]
    foreign = sorted(position.keys() - set(classes))
    if missing or foreign:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"knows {_some(foreign)}, which the data does not have"] if foreign else []
        raise TrainingFailed(
            f"the teacher {name} has other classes than the data: it {' and '.join(parts)}; a teacher has the same"
        )
    return np.array([position[label] for label in classes], dtype=np.int64)


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NAMES_LISTED} more" if len(labels) > _NAMES_LISTED else ""
    return ", ".join(map(repr, labels[:_NAMES_LISTED])) + more


def _try(teacher: Teacher) -> None:
    """Ask once: a graph may promise shapes that it does not keep, and give probabilities where logits are needed."""
    random = torch.rand(2, 3, teacher.size, teacher.size, generator=torch.Generator().manual_seed(0))
    try:
        found = teacher.logits(random)
    except Exception as exc:
        if not isinstance(exc, IndexError | ValueError) and not type(exc).__module__.startswith("onnxruntime"):
            raise
        raise TrainingFailed(f"the teacher {teacher.name} fails on two images of {teacher.size} px: {exc}") from exc
    if found.shape != (2, len(teacher.order)) or not bool(torch.isfinite(found).all()):
        raise TrainingFailed(f"the teacher {teacher.name} does not give one finite logit per class and image")
    sums = found.sum(dim=1) * teacher.sidecar.temperature
    if bool((found >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        raise TrainingFailed(f"the teacher {teacher.name} gives probabilities: export it without the softmax")
