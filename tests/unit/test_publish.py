from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model import cards
from model.cards import Card
from model.data.dataset import Dataset, open_dataset
from model.data.decoding import decode_files
from model.data.ood_images import open_ood_images
from model.decision import ood_scores
from model.engines import open_engine
from model.errors import ArtifactExists, ArtifactUnsafe, DatasetError
from model.evaluation.metrics import accuracy_of_version, evaluate_version
from model.evaluation.ood import SCORES, fit_ood_threshold
from model.network import build
from model.publishing.onnx_export import (
    LARGEST_LOSS,
    Candidate,
    check_parity,
    choose_quantization,
    export,
    float_graph,
    graph_logits,
    to_float16,
)
from model.publishing.onnx_graph import fold_batch_norm
from model.publishing.publish import publish
from model.publishing.publish_weights import main
from model.publishing.quantize import CALIBRATIONS, quantize
from model.training.errors import PublishingFailed
from tests.support.artifacts import graph
from tests.support.labelled_photos import COLORS, write_folders

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Folders with splits that leave `calibration` enough photos to fit a threshold for cars of the classes."""
    root = write_folders(tmp_path_factory.mktemp("photos"), photos=29)
    splits = ["train"] * 4 + ["calibration"] * 20 + ["holdout"] * 5
    lines = [f"{label}/{n:03}.png,{label},{split}" for label in COLORS for n, split in enumerate(splits)]
    (root / "labels.csv").write_text("\n".join(["file,label,split", *lines]))
    return open_dataset(root)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A network whose norms do something, as those of a trained one do."""
    torch.manual_seed(1)
    network = build(len(COLORS))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.state_dict()


@pytest.fixture(scope="module")
def version(dataset: Dataset, state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions") / "cars-1"
    publish(state, dataset=dataset, image_size=SIZE, out=folder, recipe={"name": "scratch", "note": "for tests"})
    return folder


def test_folding_a_norm_changes_nothing() -> None:
    torch.manual_seed(0)
    convolution, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4).eval()
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    assert norm.running_mean is not None
    torch.nn.init.normal_(norm.running_mean)
    weights = {f"c.{name}": tensor.numpy() for name, tensor in convolution.state_dict().items()}
    weights |= {f"n.{name}": tensor.numpy() for name, tensor in norm.state_dict().items()}
    kernel, bias = (torch.from_numpy(array) for array in fold_batch_norm(weights, "c", "n"))
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = norm(convolution(images))
        assert torch.allclose(torch.nn.functional.conv2d(images, kernel, bias), expected, atol=1e-5)


def test_the_float_graph_computes_what_torch_computes(dataset: Dataset, state: dict[str, torch.Tensor]) -> None:
    weights = to_float16(state, len(COLORS))
    images = decode_files([image.file for image in dataset.images[:8]], SIZE)
    assert check_parity(weights, float_graph(weights, SIZE), images) < 1e-4
    exact, rounded = (graph_logits(float_graph(weights, SIZE, half=half), images) for half in (False, True))
    assert np.abs(exact - rounded).max() < 0.01 * np.abs(exact).max()


def test_a_graph_of_other_weights_is_caught(dataset: Dataset, state: dict[str, torch.Tensor]) -> None:
    weights = to_float16(state, len(COLORS))
    other = {**weights, "fc.bias": np.add(weights["fc.bias"], np.float16(1))}
    images = decode_files([image.file for image in dataset.images[:2]], SIZE)
    with pytest.raises(PublishingFailed, match="differ from torch"):
        check_parity(other, float_graph(weights, SIZE), images)


def test_int8_graph_is_a_quarter_of_the_size_and_close(dataset: Dataset, state: dict[str, torch.Tensor]) -> None:
    weights = to_float16(state, len(COLORS))
    graph = float_graph(weights, SIZE)
    small = quantize(graph, decode_files([image.file for image in dataset.of("train")], SIZE))
    assert len(small.SerializeToString()) < 0.3 * len(graph.SerializeToString())
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {node.op_type for node in small.graph.node}


def test_a_version_is_whole_and_says_what_it_is(version: Path, dataset: Dataset) -> None:
    card = cards.verify(version)
    assert (card.name, card.classes, card.image_size) == ("cars-1", dataset.classes, SIZE)
    assert card.recipe.model_dump() == {"name": "scratch", "note": "for tests"}
    assert card.data.fingerprint == dataset.fingerprint
    assert set(card.data.holdout) == {image.digest for image in dataset.of("holdout")}
    on_disk = {file.relative_to(version).as_posix() for file in version.rglob("*") if file.is_file()}
    assert on_disk == {*card.files, "card.json"}
    assert {"plots/reliability.png", "plots/risk_coverage.png", "plots/per_class.png", "plots/confusions.png"} < on_disk
    assert sum(file.stat().st_size for file in version.rglob("*")) < 70 * 2**20
    assert not list(version.parent.glob(".*"))


def test_the_weights_are_float16_and_those_given(version: Path, state: dict[str, torch.Tensor]) -> None:
    stored = load_file(version / "weights.safetensors")
    assert stored.keys() == state.keys()
    for name, tensor in state.items():
        assert stored[name].shape == tensor.shape
        assert torch.equal(stored[name], tensor.half() if tensor.is_floating_point() else tensor)


def test_the_graph_holds_all_its_tensors(version: Path) -> None:
    graph = onnx.load(version / "model.onnx", load_external_data=False)
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer)


def test_the_card_has_every_number(version: Path) -> None:
    card = cards.read(version)
    metrics = card.metrics.model_dump()
    assert metrics["split"] == "holdout"
    for name in ("top1", "top5", "make", "ece", "ece_limit", "coverage", "coverage_at_target", "flip_averaged_top1"):
        assert 0 <= metrics[name] <= 1, name
    assert len(metrics["per_class"]) >= 1
    assert metrics["risk_coverage"][-1]["coverage"] == 1
    engine = card.engines["onnx"].model_dump()
    assert engine["largest_distance_of_float32_graph_from_torch"] < 1e-3


def test_int8_is_chosen_by_what_calibration_says(version: Path) -> None:
    engine = cards.read(version).engines["onnx"].model_dump()
    candidates = {candidate["quantization"]: candidate for candidate in engine["int8_on_calibration"]}
    assert len(candidates) == len(CALIBRATIONS)
    assert all(candidate["divergence"] > 0 for candidate in candidates.values())
    good = [candidate for candidate in candidates.values() if candidate["top1_delta"] >= -LARGEST_LOSS]
    chosen = min(good, key=lambda candidate: candidate["divergence"])
    assert (engine["precision"], engine["quantization"]) == ("int8", chosen["quantization"])
    assert engine["top1_delta_calibration"] == pytest.approx(chosen["top1_delta"])


def test_the_nearest_of_those_that_lose_little_is_taken() -> None:
    def candidate(name: str, top1_delta: float, divergence: float) -> Candidate:
        return Candidate(quantization=name, top1_delta=top1_delta, divergence=divergence)

    better, closer, worse = candidate("a", 0.01, 0.3), candidate("b", -0.004, 0.2), candidate("c", -0.006, 0.1)
    assert choose_quantization([better, closer, worse]) == closer
    assert choose_quantization([worse]) is None


@pytest.mark.parametrize(("right", "precision"), [("float", "float16"), ("int8", "int8")])
def test_only_calibration_says_whether_int8_is_good_enough(
    right: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two small graphs stand in; each split takes the answers of another one as the truth."""
    graphs = {"float": graph(0, size=SIZE), "int8": graph(1, size=SIZE)}
    monkeypatch.setattr("model.publishing.onnx_export.float_graph", lambda *_, **__: graphs["float"])
    monkeypatch.setattr("model.publishing.onnx_export.quantize", lambda *_, **__: graphs["int8"])
    monkeypatch.setattr("model.publishing.onnx_export.check_parity", lambda *_: 0.0)
    images = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    said = {name: graph_logits(stand_in, images).argmax(axis=1) for name, stand_in in graphs.items()}
    assert (said["float"] != said["int8"]).any()
    other = "int8" if right == "float" else "float"
    splits = {"holdout": (images, said[other]), "calibration": (images, said[right])}
    found = export({}, size=SIZE, sample=images, splits=splits, report=lambda _: None)
    assert (found.precision, found.quantization is None) == (precision, precision == "float16")
    assert found.graph is graphs["float" if precision == "float16" else "int8"]
    assert len(found.candidates) == len(CALIBRATIONS)


def test_the_limit_for_known_cars_is_that_of_calibration(version: Path, dataset: Dataset) -> None:
    card = cards.verify(version)
    known, told = card.thresholds.ood, card.metrics.model_dump()["ood"]
    assert known is not None
    engine = open_engine("onnx", "cpu", version, card)
    for split in ("calibration", "holdout"):
        logits = engine.logits(decode_files([image.file for image in dataset.of(split)], SIZE))
        scores = ood_scores(logits, card.temperature)[known.score]
        assert told["rejected"][split] == (scores < known.threshold).mean()
        if split == "calibration":
            assert known.threshold == pytest.approx(fit_ood_threshold(scores))
    assert told["rejected"]["calibration"] <= told["rejected_at_most"]


def test_sample_pictures_choose_the_score(version: Path) -> None:
    pytest.importorskip("skimage")
    known = cards.read(version).thresholds.ood
    assert known is not None
    told = cards.read(version).metrics.model_dump()["ood"]["samples"]
    areas = told["auroc_on_calibration"]
    assert areas.keys() == told["auroc"].keys() == set(SCORES)
    assert known.score == told["best"] == max(areas, key=lambda score: areas[score])
    assert 0 <= told["rejected"] <= 1
    assert told["decided_model"] + told["decided_make"] <= (1 - told["rejected"]) * told["unknown_images"] + 1e-9


def test_the_card_tells_framing_sizes_and_what_held_out_of_sample(version: Path, dataset: Dataset) -> None:
    told = cards.read(version).metrics.model_dump()
    assert [row["area"] for row in told["framing"]] == [1.0, 0.7, 0.5, 0.35]
    assert told["framing"][0]["top1"] == told["top1"]
    assert all(row["images"] == len(dataset.of("holdout")) for row in told["framing"])
    assert [row["size"] for row in told["sizes"]] == [SIZE]
    assert told["threshold_halvings"]["rounds"] == 200
    assert not told["listings"]["fitted"]  # of 40 sets of two nothing can be fitted
    assert [row["sets"] for row in told["listings"]["sets"] if row["images"] == 2] == [8, 8]
    assert "ood_images" not in told


def test_photos_that_show_no_car_are_fitted_to_and_reported_on(
    state: dict[str, torch.Tensor], dataset: Dataset, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    lines = []
    for n in range(24):
        name, kind, split = f"{n}.png", f"thing {n % 4}", "calibration" if n % 4 < 2 else "holdout"
        Image.fromarray(random.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(tmp_path / name)
        lines.append(f"{name},{kind},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(["file,what,split", *lines]))
    others = open_ood_images(tmp_path)
    out = tmp_path / "version"
    publish(state, dataset=dataset, image_size=SIZE, out=out, recipe={"name": "test"}, ood_images=others)
    told = cards.read(out).metrics.model_dump()["ood_images"]
    assert told["holdout"]["images"] == told["calibration"]["images"] == 12
    assert told["calibration"]["decided_model"] == 0
    root = dataset.images[0].file.parent.parent
    found = evaluate_version(out, root, split="holdout", engine="onnx", device="cpu", ood_images=others)
    assert found["ood_images"] == told


def test_evaluating_gives_the_numbers_of_the_card(version: Path, dataset: Dataset) -> None:
    card = cards.read(version).metrics.model_dump()
    root = dataset.images[0].file.parent.parent
    found = evaluate_version(version, root, split="holdout", engine="onnx", device="cpu")
    for name in (
        "images",
        "top1_count",
        "top5_count",
        "make_count",
        "ece",
        "decisions",
        "framing",
        "listings",
        "confusable",
    ):
        assert found[name] == card[name], name
    assert found["in_holdout_of_card"] == found["images"]
    assert evaluate_version(version, root, engine="onnx", device="cpu")["images"] == 116


def test_a_version_may_know_other_classes_than_the_data(version: Path, dataset: Dataset) -> None:
    assert accuracy_of_version(version, dataset).fraction == pytest.approx(cards.read(version).metrics.top1)
    strange = Dataset(tuple(f"Lada {n} SUV 1980" for n in range(4)), dataset.images, (), 0)
    assert accuracy_of_version(version, strange).right == 0


def test_both_engines_agree_with_the_card(version: Path, dataset: Dataset) -> None:
    card: Card = cards.read(version)
    images = decode_files([image.file for image in dataset.of("holdout")], SIZE)
    for name, engine in card.engines.items():
        loaded = open_engine(name, "cpu", version, card)
        right = (loaded.logits(images).argmax(axis=1) == dataset.labels("holdout")).mean()
        assert right == pytest.approx(engine.model_dump()["top1"]["holdout"])


def test_a_version_is_never_replaced(version: Path, dataset: Dataset, state: dict[str, torch.Tensor]) -> None:
    before = hashlib.sha256((version / "card.json").read_bytes()).digest()
    with pytest.raises(ArtifactExists, match="immutable"):
        publish(state, dataset=dataset, image_size=SIZE, out=version, recipe={"name": "scratch"})
    assert hashlib.sha256((version / "card.json").read_bytes()).digest() == before


@pytest.mark.parametrize("damage", ["shape", "missing", "infinite"])
def test_unusable_weights_publish_nothing(
    damage: str, dataset: Dataset, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    broken = dict(state)
    if damage == "missing":
        del broken["layer4.2.conv2.weight"]
    else:
        broken["fc.bias"] = torch.zeros(3) if damage == "shape" else torch.full((4,), 1e6)
    with pytest.raises(PublishingFailed):
        publish(broken, dataset=dataset, image_size=SIZE, out=tmp_path / "v", recipe={"name": "scratch"})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_halfway_leaves_nothing(
    dataset: Dataset, state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("model.publishing.publish.plots.draw", fail)
    with pytest.raises(OSError, match="disk full"):
        publish(state, dataset=dataset, image_size=SIZE, out=tmp_path / "v", recipe={"name": "scratch"})
    assert list(tmp_path.iterdir()) == []


def test_without_a_holdout_nothing_is_published(
    dataset: Dataset, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    images = tuple(image for image in dataset.images if image.split != "holdout")
    without = Dataset(dataset.classes, images, (), 0)
    with pytest.raises(DatasetError, match="holdout"):
        publish(state, dataset=without, image_size=SIZE, out=tmp_path / "v", recipe={"name": "scratch"})


def test_weights_from_elsewhere_are_published_by_command(
    dataset: Dataset, state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dataset.images[0].file.parent.parent
    save_file({f"average.{name}": tensor for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04")
    assert main([str(tmp_path / "weights.pt"), str(root), str(tmp_path / "bad"), "--size", "32"]) == 1
    assert "pickle" in capsys.readouterr().err
    weights, out = str(tmp_path / "weights.safetensors"), tmp_path / "good"
    assert main([weights, str(root), str(out), "--size", "32", "24", "--prefix", "average."]) == 0
    assert cards.verify(out).image_size in (24, 32)


def test_full_decoding_differs_from_reduced_only_where_there_is_something_to_reduce(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for name in ("large.jpg", "large.png"):
        Image.fromarray(noise).save(tmp_path / name)
    files = [tmp_path / "large.jpg", tmp_path / "large.png"]
    reduced, full = decode_files(files, SIZE), decode_files(files, SIZE, reduced=False)
    assert not np.array_equal(reduced[0], full[0])
    assert np.array_equal(reduced[1], full[1])


def test_a_print_shop_s_colors_are_decoded_in_full_too(tmp_path: Path) -> None:
    Image.new("CMYK", (SIZE, SIZE), (0, 200, 200, 0)).save(tmp_path / "cmyk.jpg")
    files = [tmp_path / "cmyk.jpg"]
    assert np.array_equal(decode_files(files, SIZE), decode_files(files, SIZE, reduced=False))


def test_a_weight_file_with_an_oversized_header_is_not_parsed(tmp_path: Path, dataset: Dataset) -> None:
    from model.publishing.publish_weights import read_weights

    file = tmp_path / "weights.safetensors"
    file.write_bytes(io.BytesIO((200 << 20).to_bytes(8, "little")).getvalue() + b"{}")
    with pytest.raises(ArtifactUnsafe):
        read_weights(file)
