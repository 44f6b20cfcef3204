"""The input size that is served: the smallest that is nearly as accurate as the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from model.data.decoding import Images
from model.publishing.onnx_export import float_graph, graph_logits
from model.publishing.onnx_graph import Weights

__all__ = ["LOSS_FOR_SPEED", "SizeTried", "choose_size"]

Network = Callable[[Images], npt.NDArray[np.floating]]

LOSS_FOR_SPEED = 0.005  # of top-1 on `calibration` that a smaller size may cost


@dataclass(frozen=True, kw_only=True)
class SizeTried:
    """One size: top-1 of the float32 graph on `calibration` (0..1) and its rate on the machine that published."""

    size: int
    top1_calibration: float
    images_per_second: float


def choose_size(
    weights: Weights,
    sizes: Sequence[int],
    decoded: Callable[[int], Images],
    labels: npt.NDArray[np.integer],
    *,
    network: Callable[[Weights, int], Network] | None = None,
) -> tuple[int, tuple[SizeTried, ...]]:
    """Return the smallest of `sizes` whose top-1 is within half a point of the best one's, and what each reached.

    `decoded(size)` gives the images of `calibration` (N, size, size, 3). The rate counts inference alone.
    `network(weights, size)` gives what turns them into logits (N, C): the float32 graph unless told otherwise.
    """
    make = network or _graph
    tried = tuple(_try(make(weights, size), size, decoded(size), labels) for size in sorted(set(sizes)))
    best = max(result.top1_calibration for result in tried)
    enough = [result.size for result in tried if result.top1_calibration >= best - LOSS_FOR_SPEED]
    return min(enough), tried


def _graph(weights: Weights, size: int) -> Network:
    return partial(graph_logits, float_graph(weights, size))


def _try(network: Network, size: int, images: Images, labels: npt.NDArray[np.integer]) -> SizeTried:
    started = time.perf_counter()
    right = network(images).argmax(axis=1) == labels
    elapsed = max(1e-9, time.perf_counter() - started)
    return SizeTried(size=size, top1_calibration=float(right.mean()), images_per_second=len(images) / elapsed)
