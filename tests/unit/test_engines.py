import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from model.cards import Card, parse_card, read
from model.engines import Engine, choose, open_engine
from model.engines.onnx import OnnxEngine
from model.engines.torch import TorchEngine
from model.errors import ArtifactCorrupt, ArtifactUnsafe, DeviceUnavailable, ModelError
from model.network import build, load_weights
from model.publishing.onnx_graph import build_graph
from tests.support.artifacts import CLASSES, SIZE, card_fields, graph, write_artifact

NETWORK_SIZE = 32


def _images(count: int, size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(name="resnet", scope="module")
def _resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole artifact: a ResNet34 of random weights and the float32 graph of the same weights."""
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(3)
    network = build(len(CLASSES))
    for module in network.modules():
        # A fresh norm is the identity, and the last of each block is zero: nothing would depend on it.
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            assert module.running_mean is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
    weights = {
        name: tensor.half().numpy() if tensor.is_floating_point() else tensor.numpy()
        for name, tensor in network.state_dict().items()
    }
    exact = {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in weights.items()}
    preprocessing = card_fields()["preprocessing"]
    model = build_graph(exact, image_size=NETWORK_SIZE, mean=preprocessing["mean"], std=preprocessing["std"])
    files = {"model.onnx": model.SerializeToString(), "weights.safetensors": save(weights)}
    write_artifact(folder, files, image_size=NETWORK_SIZE)
    return folder


def test_the_graph_runs_on_bytes(tmp_path: Path) -> None:
    card, images = write_artifact(tmp_path), _images(5)
    engine = OnnxEngine(card=card, folder=tmp_path)
    weights = np.random.default_rng(0).normal(size=(3, len(CLASSES))).astype(np.float32)
    assert np.allclose(engine.logits(images), images.mean(axis=(1, 2)) @ weights, rtol=1e-4, atol=1e-3)
    assert engine.input_size == SIZE
    assert tuple(engine.classes) == CLASSES
    assert isinstance(engine, Engine)


@pytest.mark.parametrize("count", [1, 16, 37])
def test_any_number_of_images_gives_what_one_at_a_time_does(tmp_path: Path, count: int) -> None:
    engine, images = OnnxEngine(card=write_artifact(tmp_path), folder=tmp_path), _images(count)
    logits = engine.logits(images)
    assert logits.shape == (count, len(CLASSES))
    assert logits.dtype == np.float32
    assert np.allclose(logits, np.concatenate([engine.logits(image[None]) for image in images]), atol=1e-4)


def test_an_unloaded_engine_says_so(tmp_path: Path) -> None:
    engine = OnnxEngine(card=write_artifact(tmp_path), folder=tmp_path)
    engine.unload()
    engine.unload()
    with pytest.raises(RuntimeError, match="unloaded"):
        engine.logits(_images(1))


@pytest.mark.parametrize("model", [graph(classes=3), graph(size=9)])
def test_a_graph_that_does_not_fit_its_card_is_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    card = write_artifact(tmp_path, {"model.onnx": model.SerializeToString(), "weights.safetensors": _nothing()})
    with pytest.raises(ArtifactCorrupt, match="does not fit"):
        OnnxEngine(card=card, folder=tmp_path)


def test_a_replaced_graph_is_not_run(tmp_path: Path) -> None:
    card = write_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(graph(1).SerializeToString())
    with pytest.raises(ArtifactCorrupt, match="SHA-256"):
        OnnxEngine(card=card, folder=tmp_path)


def test_a_graph_the_runtime_cannot_load_is_corrupt(tmp_path: Path) -> None:
    model = graph()
    model.graph.node[0].input[0] = "nothing"
    card = write_artifact(tmp_path, {"model.onnx": model.SerializeToString(), "weights.safetensors": _nothing()})
    with pytest.raises(ArtifactCorrupt, match="onnxruntime"):
        OnnxEngine(card=card, folder=tmp_path)


def test_external_data_is_refused_before_the_runtime_sees_it(tmp_path: Path) -> None:
    model = graph()
    tensor = model.graph.initializer[1]
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    card = write_artifact(tmp_path, {"model.onnx": model.SerializeToString(), "weights.safetensors": _nothing()})
    with pytest.raises(ArtifactUnsafe, match="another file"):
        OnnxEngine(card=card, folder=tmp_path)


def test_torch_and_onnx_agree(resnet: Path) -> None:
    card, images = read(resnet), _images(19, NETWORK_SIZE)
    by_graph = OnnxEngine(card=card, folder=resnet).logits(images)
    by_torch = TorchEngine(card=card, folder=resnet, device="cpu").logits(images)
    assert by_torch.dtype == np.float32
    assert by_torch.shape == by_graph.shape == (19, len(CLASSES))
    assert by_graph.std(axis=0).min() > 1e-3
    assert np.allclose(by_graph, by_torch, atol=1e-3 * np.abs(by_graph).max())


def test_a_compiled_network_gives_the_same(resnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself is torch's matter; the padding to one shape is ours.
    shapes = set()

    def compile_recording(network: Callable[[torch.Tensor], torch.Tensor], **_: object) -> object:
        def run(batch: torch.Tensor) -> torch.Tensor:
            shapes.add(tuple(batch.shape))
            return network(batch)

        return run

    monkeypatch.setattr(torch, "compile", compile_recording)
    card, images = read(resnet), _images(21, NETWORK_SIZE)
    plain = TorchEngine(card=card, folder=resnet, device="cpu")
    compiled = TorchEngine(card=card, folder=resnet, device="cpu", compile=True)
    assert np.allclose(plain.logits(images), compiled.logits(images), atol=1e-4)
    assert len(shapes) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_cuda_is_close_to_the_cpu(resnet: Path) -> None:
    card, images = read(resnet), _images(70, NETWORK_SIZE)
    on_cpu = TorchEngine(card=card, folder=resnet, device="cpu").logits(images)
    on_cuda = TorchEngine(card=card, folder=resnet, device="cuda").logits(images)
    assert np.allclose(on_cuda, on_cpu, atol=0.02 * np.abs(on_cpu).max())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_and_not_there_is_a_clear_error(resnet: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match="CARS_DEVICE=cpu"):
        open_engine("torch", device, resnet, read(resnet))
    with pytest.raises(DeviceUnavailable, match="CARS_DEVICE=cpu"):
        open_engine("auto", device, resnet, read(resnet))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_auto_is_onnx_where_there_is_no_cuda(resnet: Path) -> None:
    assert isinstance(open_engine("auto", "auto", resnet, read(resnet)), OnnxEngine)
    assert isinstance(open_engine("torch", "auto", resnet, read(resnet)), TorchEngine)


def test_auto_takes_what_the_version_has() -> None:
    card = _card(engines={"torch": card_fields()["engines"]["torch"]})
    assert choose("auto", "cpu", card)[1] == "TorchEngine"
    card = _card(engines={"onnx": card_fields()["engines"]["onnx"]})
    assert choose("auto", "auto", card)[1] == "OnnxEngine"
    with pytest.raises(DeviceUnavailable, match="nothing for the torch engine"):
        choose("torch", "cpu", card)


@pytest.mark.parametrize(
    ("spec", "device", "said"),
    [
        ("tensorflow", "cpu", "unknown engine"),
        ("onnx", "tpu", "unknown device"),
        ("onnx", "cuda:x", "unknown device"),
        ("onnx", "cuda", "runs on the CPU"),
        ("no_such_module:Engine", "cpu", "no_such_module"),
        ("tests.unit.test_engines:Missing", "cpu", "Missing"),
    ],
)
def test_what_cannot_be_opened_is_explained(tmp_path: Path, spec: str, device: str, said: str) -> None:
    with pytest.raises(DeviceUnavailable, match=said):
        open_engine(spec, device, tmp_path, write_artifact(tmp_path))


class NoEngine:
    def __init__(self, *, card: Card, folder: Path, device: str) -> None:
        self.classes: Sequence[str] = card.classes


class OwnEngine(NoEngine):
    def __init__(self, *, card: Card, folder: Path, device: str) -> None:
        super().__init__(card=card, folder=folder, device=device)
        self.input_size, self.told = card.image_size, (folder, device)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((len(images), len(self.classes)), dtype=np.float32)

    def unload(self) -> None:
        pass


class FewerClasses(OwnEngine):
    def __init__(self, *, card: Card, folder: Path, device: str) -> None:
        super().__init__(card=card, folder=folder, device=device)
        self.classes = card.classes[:1]


def test_an_engine_of_ones_own_is_opened_by_name(tmp_path: Path) -> None:
    engine = open_engine(f"{__name__}:OwnEngine", "cuda:1", tmp_path, write_artifact(tmp_path))
    assert isinstance(engine, OwnEngine)
    assert engine.told == (tmp_path, "cuda:1")


@pytest.mark.parametrize(("name", "said"), [("NoEngine", "lacks"), ("FewerClasses", "1 classes")])
def test_an_engine_of_ones_own_must_fit(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        open_engine(f"{__name__}:{name}", "cpu", tmp_path, write_artifact(tmp_path))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match="ResNet34"):
        load_weights(tmp_path, write_artifact(tmp_path))


def test_weights_are_loaded_whole_and_ready(resnet: Path) -> None:
    network = load_weights(resnet, read(resnet))
    assert not network.training
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "model.engines.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceUnavailable, match="extra `cpu`"):
        open_engine("onnx", "cpu", tmp_path, write_artifact(tmp_path))


def _card(**changes: Any) -> Card:
    import json

    return parse_card(json.dumps(card_fields(**changes)).encode())


def _nothing() -> bytes:
    data: bytes = save({"weight": np.zeros(1, dtype=np.float16)})
    return data
