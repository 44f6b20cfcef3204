import json
import os
import pickle
import socket
import stat
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save

from model import cards
from model.errors import ArtifactCorrupt, ArtifactUnsafe, CardInvalid
from model.store import Store
from tests.support.artifacts import card_fields, graph, write_artifact


def _parse(fields: object) -> cards.Card:
    return cards.parse_card(json.dumps(fields).encode())


def _required(fields: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    free = {("recipe", "epochs"), ("files", "model.onnx"), ("files", "weights.safetensors")}
    optional = {*free, ("engines", "onnx"), ("engines", "torch")}
    found = []
    for name, value in fields.items():
        path = (*at, name)
        found += [] if path in optional else [path]
        found += _required(value, path) if isinstance(value, dict) else []
    return found


def _changed(path: tuple[str, ...], change: Callable[[dict[str, Any], str], None]) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(card_fields()))
    part = fields
    for name in path[:-1]:
        part = part[name]
    change(part, path[-1])
    return fields


def test_a_card_comes_back_from_its_bytes() -> None:
    card = _parse(card_fields())
    assert cards.parse_card(card.to_bytes()) == card
    assert card.to_bytes() == cards.parse_card(card.to_bytes()).to_bytes()
    written = json.loads(card.to_bytes())
    assert written["thresholds"].pop("ood") is None
    assert written == card_fields()


def test_a_card_may_have_a_threshold_for_out_of_distribution_images() -> None:
    ood = {"score": "energy", "threshold": -2.5}
    card = _parse(_changed(("thresholds", "ood"), lambda part, name: part.update({name: ood})))
    assert card.thresholds.ood == cards.OodThreshold(score="energy", threshold=-2.5)
    assert json.loads(card.to_bytes())["thresholds"]["ood"] == ood


@pytest.mark.parametrize("path", _required(card_fields()), ids=".".join)
def test_every_field_is_required(path: tuple[str, ...]) -> None:
    with pytest.raises(CardInvalid, match=path[-1]):
        _parse(_changed(path, lambda part, name: part.pop(name)))


@pytest.mark.parametrize("path", [("extra",), ("thresholds", "extra"), ("preprocessing", "extra")], ids=".".join)
def test_no_other_field_is_accepted(path: tuple[str, ...]) -> None:
    with pytest.raises(CardInvalid, match="extra"):
        _parse(_changed(path, lambda part, name: part.update({name: 1})))


PARTS = {"make": "Acura", "model": "TL Sedan", "body": None, "year": 2012}


def _with_parts(name: str = "Acura TL Sedan 2012", **changes: Any) -> dict[str, Any]:
    return card_fields(class_parts={name: {**PARTS, **changes}})


def test_a_card_may_take_classes_apart() -> None:
    card = _parse(_with_parts())
    assert cards.parse_card(card.to_bytes()) == card
    assert json.loads(card.to_bytes())["class_parts"] == {"Acura TL Sedan 2012": PARTS}
    assert [(label.name, label.model, label.body) for label in card.labels[:2]] == [
        ("Acura TL Sedan 2012", "TL Sedan", None),
        ("Acura TSX Sedan 2012", "TSX", "Sedan"),
    ]


def test_a_card_without_parts_does_not_mention_them() -> None:
    assert cards.class_parts(("BMW M3 Coupe 2012", "Kia Rio 2019"), {}) == {}
    assert "class_parts" not in json.loads(_parse(card_fields()).to_bytes())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**_with_parts(), "format": 1}, "class_parts needs format 2"),
        (_with_parts("Lada Niva 1980"), "'Lada Niva 1980' is not among the classes"),
        (_with_parts(model="RL"), "joined by blanks, are 'Acura RL 2012'"),
        (_with_parts(year=2012.5), "class_parts.*year"),
        (_with_parts(year=3000), "class_parts.*year"),
        (_with_parts(make=""), "class_parts.*make"),
        (_with_parts(doors=5), "doors: this release of car-classifier knows no such field"),
    ],
)
def test_parts_that_contradict_the_classes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CardInvalid, match=message):
        _parse(fields)


def test_a_card_of_a_later_format_is_said_to_be_one() -> None:
    fields = card_fields(format=4, classes={"something": "else"})
    with pytest.raises(CardInvalid, match="format 4, which a newer release of car-classifier has written"):
        _parse(fields)


def test_metrics_recipe_and_data_may_say_more() -> None:
    card = _parse(_changed(("metrics", "auroc"), lambda part, name: part.update({name: {"maximum softmax": 0.9}})))
    assert json.loads(card.to_bytes())["metrics"]["auroc"] == {"maximum softmax": 0.9}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 4),
        (("format",), "3"),
        (("architecture",), "resnet50"),
        (("classes",), ["only one"]),
        (("classes",), ["twice", "twice"]),
        (("classes",), ["empty", ""]),
        (("image_size",), 0),
        (("image_size",), 224.5),
        (("temperature",), 0),
        (("temperature",), True),
        (("preprocessing", "std"), [0.2, 0, 0.2]),
        (("preprocessing", "resize"), "crop"),
        (("thresholds", "model"), -0.1),
        (("thresholds", "ood"), {"score": "loudness", "threshold": 1.0}),
        (("thresholds", "ood"), {"score": "energy"}),
        (("thresholds", "ood"), {"score": "energy", "threshold": 1.0, "most": 2.0}),
        (("metrics", "top1"), 70.0),
        (("data", "holdout"), ["not a hash"]),
        (("engines",), {}),
        (("engines", "onnx", "file"), "other.onnx"),
        (("engines", "onnx", "file"), "weights.safetensors"),
        (("engines", "torch", "file"), "model.onnx"),
        (("engines", "onnx", "precision"), "int4"),
        (("files",), {"../model.onnx": "0" * 64}),
        (("files",), {"/etc/passwd": "0" * 64}),
        (("files",), {"a/b/c.png": "0" * 64}),
        (("files",), {"card.json": "0" * 64}),
        (("files", "model.onnx"), "0" * 63),
        (("created_at",), "2026-01-02T03:04:05"),
        (("created_at",), 1767322800),
    ],
)
def test_wrong_values_are_refused(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(CardInvalid, match=path[0]):
        _parse(_changed(path, lambda part, name: part.update({name: value})))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        json.dumps(card_fields()).replace("1.5", "NaN", 1).encode(),
        json.dumps(_changed(("metrics", "loss"), lambda p, n: p.update({n: float("inf")}))).encode(),
        b'{"format": 3, ' + json.dumps(card_fields()).encode()[1:],
    ],
)
def test_what_is_not_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(CardInvalid):
        cards.parse_card(text)


@pytest.mark.parametrize("name", ["v1", "2026.01.02-scratch_a", "A" * 64])
def test_version_names(name: str) -> None:
    assert _parse(card_fields(name=name)).name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "a..b", "ends.", "sp ace", "A" * 65, "nul", "COM1.x", "é", "a\n", "-x"],
)
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(CardInvalid, match="name"):
        _parse(card_fields(name=name))


@given(st.text(max_size=12))
def test_a_name_that_passes_is_a_single_path_component(name: str) -> None:
    try:
        cards.check_name(name)
    except ValueError:
        return
    assert Path("/models", name).resolve().parent == Path("/models").resolve()


def test_a_folder_without_a_card_is_not_a_version(tmp_path: Path) -> None:
    with pytest.raises(CardInvalid, match=r"card\.json"):
        cards.verify(tmp_path)


def test_a_sound_artifact_is_verified(tmp_path: Path) -> None:
    card = write_artifact(tmp_path, {"model.onnx": graph().SerializeToString(), "weights.safetensors": _weights(),
                                     "plots/curve.png": b"\x89PNG"})  # fmt: skip
    (tmp_path / "README.txt").write_text("unlisted, harmless")
    assert cards.verify(tmp_path) == card == cards.read(tmp_path)
    assert cards.read_verified(tmp_path, card, "plots/curve.png") == b"\x89PNG"


def test_the_digest_changes_with_any_file(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a")
    write_artifact(tmp_path / "b")
    write_artifact(tmp_path / "c", {"model.onnx": graph(1).SerializeToString(), "weights.safetensors": _weights()})
    a, b, c = (cards.digest(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("file", ["model.onnx", "weights.safetensors"])
def test_a_changed_or_missing_file_is_found(tmp_path: Path, file: str) -> None:
    write_artifact(tmp_path)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactCorrupt, match=file):
        cards.verify(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactCorrupt, match=file):
        cards.verify(tmp_path)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle was loaded",))


@pytest.mark.parametrize("name", ["learner.pkl", "model.pt", "weights.pth", "plots/model.PT", "notes.txt"])
def test_a_pickle_in_the_folder_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    write_artifact(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ArtifactUnsafe, match="pickle"):
        cards.verify(tmp_path)


def test_a_pickle_in_place_of_the_folder_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "learner.pkl").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ArtifactUnsafe, match="pickle"):
        cards.verify(tmp_path / "learner.pkl")


def test_a_listed_pickle_is_refused_too(tmp_path: Path) -> None:
    data = pickle.dumps(_Bomb())
    engine = {"file": "weights.safetensors", "precision": "float16", "top1_delta": 0.0}
    card = write_artifact(tmp_path, {"weights.pt": data, "weights.safetensors": b""}, engines={"torch": engine})
    with pytest.raises(ArtifactUnsafe, match="pickle"):
        cards.read_verified(tmp_path, card, "weights.pt")


def test_an_archive_as_torch_saves_it_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    with zipfile.ZipFile(tmp_path / "weights.dat", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ArtifactUnsafe, match="pickle"):
        cards.verify(tmp_path)


def test_a_link_out_of_the_artifact_is_refused(tmp_path: Path) -> None:
    card = write_artifact(tmp_path / "v1")
    outside = tmp_path / "model.onnx"
    (tmp_path / "v1" / "model.onnx").rename(outside)
    (tmp_path / "v1" / "model.onnx").symlink_to(outside)
    with pytest.raises(ArtifactUnsafe, match="link"):
        cards.verify(tmp_path / "v1")
    with pytest.raises(ArtifactUnsafe, match="link"):
        cards.read_verified(tmp_path / "v1", card, "model.onnx")


def _weights() -> bytes:
    data: bytes = save({"weight": np.zeros((2, 3), dtype=np.float16), "bias": np.zeros(2, dtype=np.float32)})
    return data


def _with_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    data = _weights()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\0\0\0\0\0\0\0nope",
        _weights()[:-1],
        _weights() + b"\0",
        _with_header(lambda h: h["weight"].update(shape=[2, 4])),
        _with_header(lambda h: h["weight"].update(shape=[-2, -3])),
        _with_header(lambda h: h["weight"].update(dtype="F128")),
        _with_header(lambda h: h["weight"].update(data_offsets=h["bias"]["data_offsets"])),
        _with_header(lambda h: h["weight"].update(data_offsets=[0])),
        _with_header(lambda h: h.update(bias=3)),
        _with_header(lambda h: h.pop("bias")),
    ],
)
def test_weights_that_contradict_their_header_are_refused(tmp_path: Path, data: bytes) -> None:
    write_artifact(tmp_path, {"model.onnx": graph().SerializeToString(), "weights.safetensors": data})
    with pytest.raises(ArtifactCorrupt, match="weights"):
        cards.verify(tmp_path)


def test_an_oversized_header_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    # 200 MB announced, none there: only the announcement can have been looked at.
    data = (200 << 20).to_bytes(8, "little") + b"{}"
    write_artifact(tmp_path, {"model.onnx": graph().SerializeToString(), "weights.safetensors": data})
    with pytest.raises(ArtifactUnsafe, match="header"):
        cards.verify(tmp_path)


def _external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _far_tensor() -> TensorProto:
    return _external(helper.make_tensor("far", TensorProto.FLOAT, [1], np.zeros(1, np.float32).tobytes(), raw=True))


def _in_initializer(model: onnx.ModelProto) -> None:
    _external(model.graph.initializer[1])


def _in_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=_far_tensor()))


def _in_subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [_far_tensor()])
    outer = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "o", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=outer, else_branch=outer))


def _in_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=_far_tensor())
    model.functions.append(helper.make_function("here", "F", [], ["c"], [node], [helper.make_opsetid("", 18)]))


def _in_sparse(model: onnx.ModelProto) -> None:
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(_far_tensor())
    model.graph.sparse_initializer.append(sparse)


def _in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(_far_tensor())


@pytest.mark.parametrize(
    "where", [_in_initializer, _in_attribute, _in_subgraph, _in_function, _in_sparse, _in_training]
)
def test_a_graph_with_data_in_another_file_is_refused(tmp_path: Path, where: Callable[[onnx.ModelProto], None]) -> None:
    model = graph()
    where(model)
    write_artifact(tmp_path, {"model.onnx": model.SerializeToString(), "weights.safetensors": _weights()})
    with pytest.raises(ArtifactUnsafe, match="another file"):
        cards.verify(tmp_path)


def test_a_graph_that_is_none_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path, {"model.onnx": b"no protobuf at all", "weights.safetensors": _weights()})
    with pytest.raises(ArtifactCorrupt, match="ONNX"):
        cards.verify(tmp_path)


def _announcing(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[:] = [100_000, 100_000]


def _announcing_numbers(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1 << 40], float_data=[1.0]))


def _announcing_less_than_nothing(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[:] = [-1, -12]


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    model.graph.node.append(helper.make_node("Relu", ["logits"], ["z"], domain="my.domain"))


def _operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def _operator_in_subgraph(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([helper.make_node("Evil", ["x"], ["y"], domain="evil")], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("here", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))


def _filling(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ConstantOfShape", ["axes"], ["z"]))


def _repeating(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["axes"], ["z"], body=helper.make_graph([], "body", [], [])))


def _sparse(model: onnx.ModelProto) -> None:
    sparse = onnx.SparseTensorProto(dims=[1 << 40])
    sparse.values.CopyFrom(helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [1], [3]))
    model.graph.sparse_initializer.append(sparse)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_announcing, "do not fill"), (_announcing_numbers, "do not fill"),
        (_announcing_less_than_nothing, "do not fill"), (_domain, "my.domain.Relu"), (_operator, "NoSuchOperator"),
        (_operator_in_subgraph, "evil.Evil"), (_function, "functions of its own"), (_filling, "ConstantOfShape"),
        (_repeating, "Loop"), (_sparse, "sparse"),
    ],
)  # fmt: skip
def test_a_graph_that_could_do_harm_is_refused(
    tmp_path: Path, harm: Callable[[onnx.ModelProto], None], said: str
) -> None:
    model = graph()
    harm(model)
    write_artifact(tmp_path, {"model.onnx": model.SerializeToString(), "weights.safetensors": _weights()})
    with pytest.raises(ArtifactUnsafe, match=said):
        cards.verify(tmp_path)


@pytest.mark.parametrize("name", ["card.json", "model.onnx", "notes", "plots/x.png"])
@pytest.mark.parametrize("what", ["fifo", "link", "device", "sparse", "socket"])
def test_only_regular_files_of_a_bounded_size_are_read(
    tmp_path: Path, name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "v1"
    write_artifact(folder)
    (folder / "plots").mkdir()
    file = folder / name
    file.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(file)
    elif what == "link":
        file.symlink_to("/dev/zero")
    elif what == "device":
        try:
            os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")
    elif what == "socket":
        monkeypatch.chdir(file.parent)
        with closing(socket.socket(socket.AF_UNIX)) as server:
            server.bind(file.name)
    else:
        with file.open("wb") as stream:
            stream.truncate(8 << 30)
    if what == "sparse" and name in ("notes", "plots/x.png"):
        assert cards.verify(folder).name == "v1"  # not listed: never read
        return
    with pytest.raises(ArtifactUnsafe, match=name):
        cards.verify(folder)
    with pytest.raises(ArtifactUnsafe, match=name):
        Store(str(tmp_path / "store"), tmp_path / "cache").put(folder, "v1")


def test_a_store_with_a_file_too_large_is_not_downloaded(tmp_path: Path) -> None:
    write_artifact(tmp_path / "v1")
    url = f"memory://cars-{tmp_path.name}"
    digest = Store(url, tmp_path / "cache").put(tmp_path / "v1", "v1")
    files, root = fsspec.core.url_to_fs(url)
    size = files.size
    files.size = lambda path: 8 << 30 if path.endswith(".onnx") else size(path)
    try:
        with pytest.raises(ArtifactUnsafe, match=r"model\.onnx has 8,589,934,592 bytes"):
            Store(url, tmp_path / "cache").fetch("v1", digest)
    finally:
        del files.size
        files.rm(root, recursive=True)
