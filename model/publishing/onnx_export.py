"""From trained weights to the graph that is shipped, with proof that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from scipy.special import log_softmax

from model.cards import Preprocessing
from model.data.decoding import Images
from model.network import build
from model.preprocess import MEAN, STD
from model.publishing.onnx_graph import INPUT, OUTPUT, Weights, build_graph
from model.publishing.quantize import CALIBRATIONS, quantize
from model.training.errors import PublishingFailed

__all__ = [
    "LARGEST_LOSS",
    "PREPROCESSING",
    "Candidate",
    "Exported",
    "check_parity",
    "choose_quantization",
    "export",
    "float_graph",
    "graph_logits",
    "to_float16",
]

Floats = npt.NDArray[np.float32]

PREPROCESSING = Preprocessing(resize="squish", resample="bicubic", mean=MEAN, std=STD)
LARGEST_LOSS = 0.005  # of top-1 on `calibration`, above which int8 is not shipped
_PARITY = 1e-3  # of the largest logit: float32 sums taken in another order differ by far less


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An int8 graph beside the float32 one on `calibration`, by the name of its way to quantize.

    `top1_delta`: the difference of top-1, as a fraction. `divergence`: the mean Kullback-Leibler divergence of its
    probabilities from float32's, in nats.
    """

    quantization: str
    top1_delta: float
    divergence: float


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The graph to ship, and how it was chosen.

    `quantization`: the name of the candidate taken, None for float16. `reference`: the float32 graph's logits by
    split; `parity`: their gap to torch's.
    """

    graph: onnx.ModelProto
    precision: Literal["int8", "float16"]
    quantization: str | None
    candidates: tuple[Candidate, ...]
    reference: Mapping[str, Floats]
    parity: float


def to_float16(state: Mapping[str, Any], classes: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return a network's state, torch tensors or arrays of torchvision's names, rounded to float16 as it is stored.

    Raises PublishingFailed if the tensors are not those of a ResNet34 with that many classes, or not finite in float16.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build(classes).state_dict().items()}
    arrays = {name: value.detach().cpu().numpy() if torch.is_tensor(value) else value for name, value in state.items()}
    found = {name: np.shape(value) for name, value in arrays.items()}
    if found != expected:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise PublishingFailed(
            f"the weights are not those of a ResNet34 with {classes} classes: see {', '.join(odd[:5])}"
        )
    with np.errstate(over="ignore"):
        halves = {name: _rounded(np.asarray(value)) for name, value in arrays.items()}
    broken = [name for name, value in halves.items() if not np.isfinite(value).all()]
    if broken:
        raise PublishingFailed(f"{broken[0]} holds numbers that float16 cannot (or NaN); the training has diverged")
    return halves


def graph_logits(graph: onnx.ModelProto, images: Images, *, batch: int = 32) -> Floats:
    """Return the logits (N, C) of a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    parts = [session.run([OUTPUT], {INPUT: images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(parts)


def float_graph(weights: Weights, size: int, *, half: bool = False) -> onnx.ModelProto:
    """Return the graph at an image size, with this project's normalization."""
    return build_graph(weights, image_size=size, mean=MEAN, std=STD, half=half)


def export(
    weights: Weights,
    *,
    size: int,
    sample: Images,
    splits: Mapping[str, tuple[Images, npt.NDArray[np.integer]]],
    report: Callable[[str], None],
) -> Exported:
    """Return the int8 graph that `calibration` chooses if one is good enough there, else float16 weights.

    `sample`: training images that the activations' ranges are taken from; `splits`: images and labels by split,
    of which only `calibration` has a say. Raises PublishingFailed if the float32 graph computes other than torch does.
    """
    graph = float_graph(weights, size)
    reference = {split: graph_logits(graph, images) for split, (images, _) in splits.items()}
    images, labels = splits["calibration"]
    parity = check_parity(weights, graph, images[:8])
    report(f"the float32 graph agrees with torch to {parity:.1e}")
    graphs, candidates = {}, []
    for way in CALIBRATIONS:
        graphs[way.name] = quantize(graph, sample, calibration=way)
        found = _compare(way.name, graph_logits(graphs[way.name], images), reference["calibration"], labels)
        report(f"int8 ({way.name}): {100 * found.top1_delta:+.2f} points, divergence {found.divergence:.4f}")
        candidates.append(found)
    chosen = choose_quantization(candidates)
    return Exported(
        graph=graphs[chosen.quantization] if chosen else float_graph(weights, size, half=True),
        precision="int8" if chosen else "float16",
        quantization=chosen.quantization if chosen else None,
        candidates=tuple(candidates),
        reference=reference,
        parity=parity,
    )


def choose_quantization(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the least divergent of those that lose at most half a point of top-1; None if all lose more.

    Top-1 only sorts out: on some hundred images it differs by a few of them, which is chance. The divergence uses all
    probabilities of every image, and they are what decisions are made of.
    """
    good = [candidate for candidate in candidates if candidate.top1_delta >= -LARGEST_LOSS]
    return min(good, key=lambda candidate: candidate.divergence, default=None)


def check_parity(weights: Weights, graph: onnx.ModelProto, images: Images) -> float:
    """Return the largest distance between torch's and the graph's logits; PublishingFailed if it is not rounding."""
    network = build(len(weights["fc.bias"])).eval()
    network.load_state_dict({name: torch.from_numpy(np.array(value)).float() for name, value in weights.items()})
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    with torch.inference_mode():
        expected = network((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std).numpy()
    distance = float(np.abs(expected - graph_logits(graph, images)).max())
    if not distance <= _PARITY * max(1.0, float(np.abs(expected).max())):
        raise PublishingFailed(
            f"the exported graph's logits differ from torch's by {distance:.3g}; nothing was published"
        )
    return distance


def _compare(name: str, found: Floats, reference: Floats, labels: npt.NDArray[np.integer]) -> Candidate:
    expected, said = (log_softmax(np.asarray(logits, dtype=np.float64), axis=1) for logits in (reference, found))
    return Candidate(
        quantization=name,
        top1_delta=_top1(found, labels) - _top1(reference, labels),
        divergence=float((np.exp(expected) * (expected - said)).sum(axis=1).mean()),
    )


def _rounded(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    kind = np.float16 if np.issubdtype(array.dtype, np.floating) else array.dtype
    return np.ascontiguousarray(array, dtype=kind).reshape(
        array.shape
    )  # a 0-d array would come back with one dimension


def _top1(logits: Floats, labels: npt.NDArray[np.integer]) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
