"""Turning a float32 ONNX graph into int8 for processors with AVX2."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import shape_inference
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from model.publishing.onnx_graph import INPUT

__all__ = ["CALIBRATIONS", "Calibration", "Images", "quantize"]

Images = npt.NDArray[np.uint8]

# Normalization keeps full precision: it is cheap, and its output is the range that the first convolution needs.
_FLOAT_NODES = ("scaled", "normalized")
_OPERATORS = ("Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Gemm")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How activations' ranges are chosen (the extremes of all images, or their mean over batches), what stays float."""

    name: str
    mean_of_batches: bool = False
    float_nodes: tuple[str, ...] = ()


# Publishing tries them all and takes the one that stays nearest to float32.
CALIBRATIONS = (
    Calibration(name="extremes"),
    Calibration(name="mean of batches", mean_of_batches=True),
    Calibration(name="extremes, first and last layer float", float_nodes=("conv1", "logits")),
)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, images: Images, batch: int = 32) -> None:
        self._batches: Iterator[Images] = iter([images[i : i + batch] for i in range(0, len(images), batch)])

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(model: onnx.ModelProto, images: Images, *, calibration: Calibration = CALIBRATIONS[0]) -> onnx.ModelProto:
    """Return the int8 form of a float32 graph: weights per channel, activations by the ranges that `images` (N, S, S,
    3) show.

    Activations are unsigned and weights signed with seven bits (reduced range): the product of the full ranges would
    saturate AVX2's 16-bit accumulator. Nothing of the images stays in the result but each tensor's range.
    """
    prepared = shape_inference.infer_shapes(model)
    # Says that batch norms are folded and shapes known, which is what the quantizer's own preparation would do.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory(prefix="cars-quantize-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        quantize_static(
            source,
            target,
            _Batches(images),
            quant_format=QuantFormat.QDQ,  # as fast as QOperator under onnxruntime, and other runtimes read it too
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_FLOAT_NODES, *calibration.float_nodes],
            extra_options={"CalibMovingAverage": calibration.mean_of_batches, "CalibMovingAverageConstant": 0.1},
        )
        quantized: onnx.ModelProto = onnx.load(target)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
