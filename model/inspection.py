"""Refuses files that could run code, reach outside the artifact, or exhaust memory, before any library parses them."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Final

from model.errors import ArtifactCorrupt, ArtifactUnsafe

__all__ = ["HEADER_BYTES", "inspect", "inspect_onnx", "inspect_safetensors", "refuse_pickle"]

HEADER_BYTES: Final = 1 << 20
_PICKLE_SUFFIXES = (
    *(".bin", ".ckpt", ".dill", ".joblib", ".mar", ".npy", ".npz"),
    *(".pickle", ".pk", ".pkl", ".pt", ".pt2", ".pth", ".tar", ".zip"),
)
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
_WIDTH_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
# TensorProto.DataType: bytes of one value in `raw_data`, of those that a classifier has.
_ONNX_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
_ONNX_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_DOMAINS = frozenset(("", "ai.onnx"))
_UNBOUNDED = frozenset(
    ("ConstantOfShape", "Expand", "EyeLike", "Loop", "OneHot", "RandomNormal", "RandomUniform", "Range", "Scan", "Tile")
)


def refuse_pickle(path: Path) -> None:
    """Raise ArtifactUnsafe if the file is a pickle or an archive of pickles, by its name or its first bytes."""
    start = b""
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            start = file.read(4)
    if path.suffix.lower() in _PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS):
        raise ArtifactUnsafe(
            f"{path} may hold a pickle, which can run code when loaded; it was not opened; weights are taken as "
            ".safetensors, graphs as .onnx: publish the model with `cars train`, or convert the file where it was made"
        )


def inspect(path: Path, data: bytes) -> None:
    """Inspect the bytes of a weight file or a graph; other kinds pass. Raises ArtifactUnsafe or ArtifactCorrupt."""
    if path.suffix.lower() == ".safetensors":
        inspect_safetensors(path, data)
    elif path.suffix.lower() == ".onnx":
        inspect_onnx(path, data)


def inspect_safetensors(path: Path, data: bytes) -> None:
    """Raise ArtifactUnsafe for a header above `HEADER_BYTES`, ArtifactCorrupt for one that contradicts the file.

    Layout: 8 bytes little-endian header length, JSON header, tensors without gaps or overlap (safetensors format).
    """
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_BYTES:
        raise ArtifactUnsafe(f"{path} announces a header of {length} bytes; at most {HEADER_BYTES} are read")
    try:
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        spans = [_span(entry) for entry in header.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ArtifactCorrupt(f"{path} is not a safetensors file: {exc}; import the version again") from exc
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(data) - 8 - length]
    if ends != starts or any(a > b for a, b in pairwise(ends)):
        raise ArtifactCorrupt(f"{path} is inconsistent: its header does not describe its {len(data)} bytes")


def _span(entry: dict[str, Any]) -> tuple[int, int]:
    start, end = (int(offset) for offset in entry["data_offsets"])
    size = prod(int(side) for side in entry["shape"]) * _WIDTH_BYTES[entry["dtype"]]
    if start < 0 or any(side < 0 for side in entry["shape"]) or end - start != size:
        raise ValueError(f"a tensor of shape {entry['shape']} and type {entry['dtype']} cannot lie at {start}:{end}")
    return start, end


def inspect_onnx(path: Path, data: bytes) -> None:
    """Raise ArtifactUnsafe if any tensor of the graph, its subgraphs or functions lies in another file or announces
    more than it holds, and for operators that are not ONNX's own or that make something large of nothing.

    Parses without following such references. Needs the package onnx, which comes with onnxruntime in the extra `cpu`;
    where it is missing no runtime here can load the graph either, and nothing is checked.
    """
    try:
        import onnx
    except ImportError:
        return
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as exc:
        raise ArtifactCorrupt(f"{path} is not an ONNX graph: {exc}; import the version again") from exc
    for tensor in _tensors(model):
        if tensor.data_location == _EXTERNAL or tensor.external_data:
            raise ArtifactUnsafe(
                f"{path} keeps the tensor {tensor.name!r} in another file, which could be any file of this machine; "
                "export the graph with its weights inside"
            )
        _check_tensor(path, tensor)
    _check_operators(path, model, known=onnx.defs.has)


def _check_tensor(path: Path, tensor: Any) -> None:
    """Raise ArtifactUnsafe for a tensor that announces more than it holds: a runtime would find memory for all of
    it.
    """
    if not tensor.data_type and not tensor.dims:  # what an attribute of another type has in its place
        return
    announced = prod(tensor.dims)
    if tensor.HasField("raw_data"):
        present, unit = len(tensor.raw_data), _ONNX_WIDTHS.get(tensor.data_type, 0)
        fits = present == announced * unit
    else:
        present = max(len(getattr(tensor, field)) for field in _ONNX_FIELDS)
        fits = announced <= present <= 2 * announced  # a complex number is two
    if not fits or min(tensor.dims, default=0) < 0:
        raise ArtifactUnsafe(
            f"{path} has a tensor {tensor.name!r} of the shape {list(tensor.dims)[:8]}, which its data do not fill; "
            "export the graph with its weights inside"
        )


def _check_operators(path: Path, model: Any, *, known: Callable[[str, str], bool]) -> None:
    """Raise ArtifactUnsafe for operators that ONNX itself does not define, and for those that make tensors of any size
    from a number, or repeat themselves.
    """
    if model.functions:
        raise ArtifactUnsafe(f"{path} defines functions of its own; export the graph with them inlined")
    for graph in _graphs(model):
        for node in graph.node:
            if node.domain not in _DOMAINS or not known(node.op_type, ""):
                name = f"{node.domain}.{node.op_type}".lstrip(".")
                raise ArtifactUnsafe(f"{path} uses the operator {name!r}; only those that ONNX defines are loaded")
            if node.op_type in _UNBOUNDED:
                raise ArtifactUnsafe(
                    f"{path} uses the operator {node.op_type!r}, by which a graph of a few bytes can fill the memory "
                    "or run for ever; a classifier has no need of it"
                )
        if graph.sparse_initializer:
            raise ArtifactUnsafe(
                f"{path} has sparse tensors, which a runtime unpacks; export the graph with dense ones"
            )


def _graphs(model: Any) -> Iterator[Any]:
    pending = [model.graph]
    for training in model.training_info:
        pending += [training.initialization, training.algorithm]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [subgraph for subgraph in (attribute.g, *attribute.graphs) if subgraph.ByteSize()]


def _tensors(model: Any) -> Iterator[Any]:
    pending = [model.graph]
    for training in model.training_info:
        pending += [training.initialization, training.algorithm]
    for function in model.functions:
        yield from _node_tensors(function.node, pending)
        yield from _attribute_tensors(function.attribute_proto, pending)
    while pending:
        graph = pending.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _node_tensors(graph.node, pending)


def _node_tensors(nodes: Iterable[Any], pending: list[Any]) -> Iterator[Any]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute, pending)


def _attribute_tensors(attributes: Iterable[Any], pending: list[Any]) -> Iterator[Any]:
    """Return the tensors of the attributes; their subgraphs are put on `pending`."""
    for attribute in attributes:
        pending += [attribute.g, *attribute.graphs]
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
