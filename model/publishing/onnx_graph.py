"""The ONNX graph of a torchvision ResNet of basic blocks (ResNet18, ResNet34), written node by node from its weights.

Batch norms are folded into the convolutions before them, which is exact at inference and leaves the quantizer one
tensor a layer. Normalization stays a step of its own: folding it into the first convolution would turn that
convolution's zero padding from "the mean color" into "black".

`torch.onnx.export` was tried on the bundled weights at 144 px (torch 2.15): `dynamo=False` gives the same nodes,
size (85.5 MB, 21.6 MB as int8) and speed (25.7 against 25.5 images per second of one core, 51.3 against 51.6 as int8).
But that exporter is deprecated, its successor needs onnxscript, and the names by which the quantizer leaves nodes out,
and the weights stored as float16, would have to be put into its result afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["BATCH_NORM_EPSILON", "INPUT", "IR_VERSION", "OPSET", "OUTPUT", "Weights", "build_graph", "fold_batch_norm"]

Weights = Mapping[str, npt.NDArray[np.generic]]
FloatArray = npt.NDArray[np.float32]

OPSET = 17
IR_VERSION = 8  # what opset 17 came with: old runtimes refuse a newer number even where they know every operator
INPUT, OUTPUT = "images", "logits"
BATCH_NORM_EPSILON = 1e-5  # torch's default, which torchvision's ResNets keep


def fold_batch_norm(weights: Weights, convolution: str, norm: str) -> tuple[FloatArray, FloatArray]:
    """Return the kernel and bias of `convolution` with `norm` multiplied in, both float32."""

    def of(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(weights[name], dtype=np.float64)

    scale = of(f"{norm}.weight") / np.sqrt(of(f"{norm}.running_var") + BATCH_NORM_EPSILON)
    kernel = of(f"{convolution}.weight") * scale[:, None, None, None]
    bias = of(f"{norm}.bias") - of(f"{norm}.running_mean") * scale
    return kernel.astype(np.float32), bias.astype(np.float32)


class _Graph:
    """Collects nodes and initializers; every method appends one operator and returns the name of its output."""

    def __init__(self, *, half: bool) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a weight: stored as float16 and widened on load where `half`, so that the file is half the size."""
        if not self.half:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            return name
        stored = np.ascontiguousarray(value, dtype=np.float16)
        self.initializers.append(numpy_helper.from_array(stored, f"{name}.half"))
        return self.node("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def convolution(self, x: str, weights: Weights, name: str, *, norm: str, stride: int) -> str:
        kernel, bias = fold_batch_norm(weights, name, norm)
        inputs = [x, self.constant(f"{name}.weight", kernel), self.constant(f"{name}.bias", bias)]
        side = kernel.shape[-1]
        return self.node("Conv", inputs, name, kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4)

    def block(self, x: str, weights: Weights, name: str, *, stride: int) -> str:
        y = self.convolution(x, weights, f"{name}.conv1", norm=f"{name}.bn1", stride=stride)
        y = self.node("Relu", [y], f"{name}.relu1")
        y = self.convolution(y, weights, f"{name}.conv2", norm=f"{name}.bn2", stride=1)
        if f"{name}.downsample.0.weight" in weights:
            x = self.convolution(x, weights, f"{name}.downsample.0", norm=f"{name}.downsample.1", stride=stride)
        return self.node("Relu", [self.node("Add", [y, x], f"{name}.add")], f"{name}.relu2")

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> str:
        """Convert uint8 NHWC → float32 NCHW, (x / 255 - mean) / std, as one multiplication and one addition."""
        scale = (1 / (255 * np.asarray(std, dtype=np.float64))).astype(np.float32).reshape(1, 3, 1, 1)
        shift = (-np.asarray(mean, dtype=np.float64) / np.asarray(std)).astype(np.float32).reshape(1, 3, 1, 1)
        self.initializers += [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(shift, "shift")]
        x = self.node("Transpose", [INPUT], "planes", perm=[0, 3, 1, 2])
        x = self.node("Mul", [self.node("Cast", [x], "float", to=TensorProto.FLOAT), "scale"], "scaled")
        return self.node("Add", [x, "shift"], "normalized")


def build_graph(
    weights: Weights, *, image_size: int, mean: Sequence[float], std: Sequence[float], half: bool = False
) -> onnx.ModelProto:
    """Return the network as one checked ONNX model: `images` uint8 (N, S, S, 3) → `logits` float32 (N, C).

    `weights` have torchvision's names. With `half` they are stored as float16 and widened to float32 when the
    model is loaded; the arithmetic is float32 either way.
    """
    graph = _Graph(half=half)
    x = graph.convolution(graph.normalized(mean, std), weights, "conv1", norm="bn1", stride=2)
    x = graph.node("Relu", [x], "relu")
    x = graph.node("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage in range(1, 5):
        for position in count():
            name = f"layer{stage}.{position}"
            if f"{name}.conv1.weight" not in weights:
                break
            x = graph.block(x, weights, name, stride=2 if stage > 1 and position == 0 else 1)
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "avgpool")], "features")
    head = [
        graph.constant(f"fc.{part}", np.asarray(weights[f"fc.{part}"], dtype=np.float32)) for part in ("weight", "bias")
    ]
    graph.node("Gemm", [x, *head], OUTPUT, transB=1)
    classes = len(weights["fc.bias"])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "resnet",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", image_size, image_size, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="car-classifier",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
