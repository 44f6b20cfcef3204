"""Whole training runs on made-up pictures, small enough for a test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.data.dataset import Dataset, open_dataset
from model.data.decoding import decode_files
from model.errors import ArtifactUnsafe, DatasetError
from model.network import build
from model.publishing.open_set import evaluate_unseen_classes
from model.training.augment import normalize, resized
from model.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.training.errors import TrainingFailed
from model.training.initialization import starting_network
from model.training.loader import load_table
from model.training.progress import RunProgress
from model.training.recipes import RECIPES, Plan, make_plan
from model.training.train import Trained, TrainingStopped, train, with_plain_statistics
from tests.support.labelled_photos import COLORS, write_folders
from tests.support.teachers import write_teacher

pytestmark = pytest.mark.usefixtures("one_torch_thread")

OPTIONS: dict[str, Any] = {
    "progressive_sizes": [[0.5, 24], [1.0, 32]],
    "eval_sizes": [32],
    "batch_size": 8,
    "finder_steps": 16,
}
OPTIONS |= {"bfloat16": False}  # in a test nothing may hang on what was measured
OLD = Path(__file__).parents[1] / "fixtures" / "release_0_1_0"
ONE_SIZE = {**OPTIONS, "progressive_sizes": [[1.0, 24]]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    labels = tuple(COLORS)[:3]
    return open_dataset(write_folders(tmp_path_factory.mktemp("photos"), photos=10, labels=labels))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights for a thousand classes, as ImageNet's are."""
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "imagenet.safetensors"
    save_file(build(1000).state_dict(), file)
    return file


def _nested(report: Mapping[str, object]) -> dict[str, Any]:  # Any: a report nests as its recipe does
    """Return what a run reports, its parts open to indexing."""
    return dict(report)


def _same(one: Trained, other: Trained) -> bool:
    return all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


def _stop_after(epochs: int) -> tuple[Callable[[RunProgress], None], Callable[[], bool]]:
    """A listener and a question that stop a run in the first batch after so many epochs."""
    seen: list[int] = []

    def listen(progress: RunProgress) -> None:
        seen.append(progress.epoch)

    return listen, lambda: bool(seen) and seen[-1] >= epochs


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(dataset: Dataset, tmp_path: Path) -> None:
    whole = train(dataset, recipe="scratch", epochs=3, run_folder=tmp_path / "whole", options=OPTIONS)
    listen, should_stop = _stop_after(2)
    with pytest.raises(TrainingStopped, match="epoch 3"):
        train(
            dataset,
            recipe="scratch",
            epochs=3,
            run_folder=tmp_path / "cut",
            options=OPTIONS,
            on_progress=listen,
            should_stop=should_stop,
        )
    again: list[int] = []
    rest = train(
        dataset,
        recipe="scratch",
        run_folder=tmp_path / "cut",
        on_progress=lambda progress: again.append(progress.epoch) if progress.is_whole_epoch else None,
    )
    assert again == [3]  # only the epoch that was cut off is run again
    assert [record["image_size"] for record in _nested(rest.report)["history"]] == [24, 24, 32]
    assert _same(whole, rest)
    assert not [file for file in (tmp_path / "cut").rglob("*") if file.suffix in {".pkl", ".pth", ".pt"}]


def test_the_original_recipe_runs_its_phases_in_order(dataset: Dataset, imagenet: Path, tmp_path: Path) -> None:
    records: list[RunProgress] = []
    trained = train(
        dataset,
        recipe="original",
        epochs=3,
        run_folder=tmp_path,
        pretrained=imagenet,
        options=ONE_SIZE,
        on_progress=records.append,
    )
    plan = Plan.from_json(_nested(trained.report)["plan"])
    assert [(phase.frozen, phase.epochs) for phase in plan.phases] == [(True, 1), (False, 2)]
    assert [progress.epoch for progress in records if progress.is_whole_epoch] == [1, 2, 3]
    assert len(_nested(trained.report)["lr_max"]) == 2
    assert [plot.name for plot in trained.plots] == ["history.png", "learning_rate_1.png", "learning_rate_2.png"]
    assert all(plot.stat().st_size > 0 for plot in trained.plots)


def test_the_rate_finder_finds_the_same_after_a_kill(dataset: Dataset, imagenet: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"recipe": "original", "epochs": 5, "pretrained": imagenet, "options": ONE_SIZE}
    whole = train(dataset, run_folder=tmp_path / "whole", **settings)
    listen, should_stop = _stop_after(2)  # the whole of the first phase
    with pytest.raises(TrainingStopped, match="epoch 3"):
        train(dataset, run_folder=tmp_path / "cut", on_progress=listen, should_stop=should_stop, **settings)
    rest = train(dataset, run_folder=tmp_path / "cut", **settings)
    assert rest.report["lr_max"] == whole.report["lr_max"]
    assert _same(whole, rest)


def test_a_run_continues_with_labels_that_are_listed_in_another_order(dataset: Dataset, tmp_path: Path) -> None:
    turned = replace(dataset, images=dataset.images[::-1])
    for data in (dataset, turned):
        table = load_table(data, "train", 8, folder=tmp_path, device=torch.device("cpu"))
        wanted = decode_files([image.file for image in data.of("train")], 8)
        assert np.array_equal(table.images.permute(0, 2, 3, 1).numpy(), wanted)
        assert table.labels.tolist() == data.labels("train").tolist()


def test_the_original_recipe_is_the_original_work() -> None:
    plan = make_plan("original", gpu=True)
    assert [(phase.frozen, phase.epochs, phase.lr_max) for phase in plan.phases] == [(True, 3, None), (False, 5, None)]


def test_a_frozen_body_stays_as_it_was(dataset: Dataset, imagenet: Path, tmp_path: Path) -> None:
    listen, should_stop = _stop_after(1)
    before = starting_network("imagenet", dataset.classes, pretrained=imagenet, seed=0).network.state_dict()
    with pytest.raises(TrainingStopped):
        train(
            dataset,
            recipe="original",
            epochs=2,
            run_folder=tmp_path,
            pretrained=imagenet,
            options=ONE_SIZE,
            on_progress=listen,
            should_stop=should_stop,
        )
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.phase, checkpoint.epoch) == (0, 1)
    assert torch.equal(checkpoint.network["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"])
    assert not torch.equal(checkpoint.network["fc.weight"], before["fc.weight"])


def test_finetuning_learns_and_reports(dataset: Dataset, imagenet: Path, tmp_path: Path) -> None:
    records: list[RunProgress] = []
    options = {**ONE_SIZE, "augmentation": {"crop": 1.0, "strong": False}}
    trained = train(
        dataset,
        recipe="finetune",
        epochs=3,
        run_folder=tmp_path,
        init=imagenet,
        options=options,
        on_progress=records.append,
    )
    epochs = [progress for progress in records if progress.is_whole_epoch]
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert epochs[-1].eta_seconds == 0
    assert all(progress.images_per_second > 0 and progress.epochs == 3 for progress in records)
    report = _nested(trained.report)
    assert report["name"] == "finetune"
    scores = report["calibration_accuracy"]
    plain = [f"{name}, statistics of plain photos" for name in ("last", "ema")]
    assert set(scores) == {"last", "ema", *plain}
    assert scores[report["weights"]] == max(scores.values())
    json.dumps(trained.report, allow_nan=False)


def test_a_partial_start_is_noted_estimated_once_and_kept_in_the_card(dataset: Dataset, tmp_path: Path) -> None:
    state = {"conv1.weight": torch.randn(64, 3, 7, 7) / 12, "conv1.bias": torch.randn(64)}
    file = tmp_path / "stem.safetensors"
    save_file(state, file)
    settings: dict[str, Any] = {"recipe": "finetune", "epochs": 2, "init": file, "options": ONE_SIZE}
    notes: list[str] = []
    listen, should_stop = _stop_after(1)
    with pytest.raises(TrainingStopped):
        train(
            dataset,
            run_folder=tmp_path / "cut",
            on_progress=listen,
            on_note=notes.append,
            should_stop=should_stop,
            **settings,
        )
    assert notes[0].startswith("start: conv1 is taken from stem.safetensors")
    assert "1 folded batch norms are those of 24 images" in notes[-1]
    notes.clear()
    rest = train(dataset, run_folder=tmp_path / "cut", on_note=notes.append, **settings)
    assert not [note for note in notes if "folded" in note]  # the checkpoint's statistics are newer
    assert _same(rest, train(dataset, run_folder=tmp_path / "whole", **settings))
    start = _nested(rest.report)["start"]
    assert start["taken"] == ["conv1"]
    assert start["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    save_file({**state, "conv1.bias": torch.zeros(64)}, file)
    with pytest.raises(TrainingFailed, match="new folder"):
        train(dataset, run_folder=tmp_path / "cut", **settings)


def test_a_student_learns_from_its_teacher_and_a_cut_makes_no_difference(dataset: Dataset, tmp_path: Path) -> None:
    file = write_teacher(tmp_path / "colors.onnx", dataset.classes)
    settings: dict[str, Any] = {
        "recipe": "distill",
        "teacher": file,
        "init": "scratch",
        "epochs": 3,
        "options": {**OPTIONS, "mixup_probability": 0.5},
    }
    notes: list[str] = []
    whole = train(dataset, run_folder=tmp_path / "whole", on_note=notes.append, **settings)
    assert any(note.startswith("teacher: colors.onnx") and "CC0" in note for note in notes)
    listen, should_stop = _stop_after(2)
    with pytest.raises(TrainingStopped, match="epoch 3"):
        train(dataset, run_folder=tmp_path / "cut", on_progress=listen, should_stop=should_stop, **settings)
    rest = train(dataset, run_folder=tmp_path / "cut", **settings)
    assert _same(whole, rest)
    report = _nested(rest.report)
    assert report["teacher"]["name"] == "colors.onnx"
    assert report["teacher"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert report["teacher"]["licence"] == "CC0"
    assert report["plan"]["distillation"] == {"size": 24, "weight": 0.7, "temperature": 2.0, "fresh": 0.3}
    assert [entry["image_size"] for entry in report["speed"]["by_size"]] == [24, 32]
    assert all(entry["network_images_per_second"] > 0 for entry in report["speed"]["by_size"])
    json.dumps(rest.report, allow_nan=False)
    write_teacher(file, dataset.classes, temperature=3.0)
    with pytest.raises(TrainingFailed, match="new folder"):
        train(dataset, run_folder=tmp_path / "cut", **settings)


def test_a_teacher_that_will_not_do_is_refused_before_anything_is_decoded(dataset: Dataset, tmp_path: Path) -> None:
    other = write_teacher(tmp_path / "other.onnx", [*dataset.classes, "Lada Niva 1977"])
    fine = write_teacher(tmp_path / "fine.onnx", dataset.classes)
    for recipe, teacher, words in (
        ("distill", other, "Lada Niva 1977"),
        ("distill", None, "--teacher"),
        ("scratch", fine, "no use for a teacher"),
        ("distill", tmp_path / "gone.onnx", "is not there"),
    ):
        with pytest.raises(TrainingFailed, match=words):
            train(dataset, recipe=recipe, init="scratch", teacher=teacher, run_folder=tmp_path / "run", options=OPTIONS)
    assert list((tmp_path / "run").iterdir()) == []


def _as_in_0_1_0(folder: Path) -> None:
    """Write a run's plan and checkpoint as that release did."""
    plan = json.loads((OLD / "plan.json").read_text())["plan"]
    document = json.loads((folder / "plan.json").read_text())
    new = document["plan"]
    plan |= {"sizes": new["progressive_sizes"], "test_sizes": new["eval_sizes"], "batch": new["batch_size"]}
    plan["stages"] = [{"epochs": 2, "frozen": False, "peak": 0.05, "spread": 1.0}]
    identity = {name: document["identity"][name] for name in ("recipe", "data", "classes", "init", "seed")}
    (folder / "plan.json").write_text(json.dumps({"identity": identity, "plan": plan}))
    index = json.loads((folder / "checkpoint.json").read_text())
    index["stage"] = index.pop("phase")
    for record in index["history"]:
        del record["network_images_per_second"]
    (folder / "checkpoint.json").write_text(json.dumps(index))


def test_a_run_that_was_begun_by_an_older_release_continues(dataset: Dataset, tmp_path: Path) -> None:
    listen, should_stop = _stop_after(1)
    with pytest.raises(TrainingStopped):
        train(
            dataset,
            recipe="scratch",
            epochs=2,
            run_folder=tmp_path,
            options=OPTIONS,
            on_progress=listen,
            should_stop=should_stop,
        )
    _as_in_0_1_0(tmp_path)
    assert len(_nested(train(dataset, recipe="scratch", run_folder=tmp_path).report)["history"]) == 2


def test_statistics_that_belong_to_no_weights_are_replaced_by_those_of_plain_photos(
    dataset: Dataset, tmp_path: Path
) -> None:
    table = load_table(dataset, "train", 24, folder=tmp_path, device=torch.device("cpu"))
    network = build(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(100.0)
    fresh = with_plain_statistics(network, table, 24, torch.device("cpu"))
    with torch.inference_mode():
        inputs = network.get_submodule("conv1")(normalize(resized(table.images, 24)))
    assert torch.allclose(fresh.get_buffer("bn1.running_mean"), inputs.mean(dim=(0, 2, 3)), atol=1e-4)
    assert network.get_buffer("bn1.running_mean").min() == 100.0  # the run's own network stays as it is


def test_classes_never_seen_are_told_from_known_ones_in_a_run_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    found = _nested(evaluate_unseen_classes(dataset, run_folder=tmp_path, count=1, epochs=1, options=ONE_SIZE))
    assert set(found["auroc"]) == {"max_softmax", "max_logit", "energy", "centered_logit", "logit_margin"}
    assert (len(found["classes"]), found["unknown_images"], found["known_images"]) == (1, 10, 2)
    assert "short run" in found["of"]
    with pytest.raises(DatasetError):
        evaluate_unseen_classes(dataset, run_folder=tmp_path / "other", count=2)


def test_an_error_of_the_listener_ends_the_run_as_itself(dataset: Dataset, tmp_path: Path) -> None:
    class LeaseLost(Exception):
        pass

    def listen(_: RunProgress) -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        train(dataset, recipe="scratch", epochs=1, run_folder=tmp_path, options=ONE_SIZE, on_progress=listen)


def test_a_folder_of_another_run_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped):
        train(dataset, recipe="scratch", run_folder=tmp_path, options=ONE_SIZE, should_stop=lambda: True)
    with pytest.raises(TrainingFailed, match="new folder"):
        train(dataset, recipe="scratch", run_folder=tmp_path, options=ONE_SIZE, seed=1)


def test_a_killed_write_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    first = Checkpoint(phase=0, epoch=1, rates=(0.1,), history=(), network={"w": torch.ones(2)})
    save_checkpoint(tmp_path, first)
    (tmp_path / "checkpoint-0-2.safetensors").write_bytes(b"half a fi")
    (tmp_path / "checkpoint.json.new").write_text('{"format"')
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.epoch, found.network["w"].tolist()) == (1, [1.0, 1.0])


def test_an_optimizer_state_survives_a_checkpoint(tmp_path: Path) -> None:
    optimizer = {
        "state": {0: {"momentum_buffer": torch.arange(3.0)}, 7: {"step": 2, "flag": True}},
        "hypers": [{"lr": 0.1}],
    }
    save_checkpoint(
        tmp_path, Checkpoint(phase=1, epoch=3, rates=(), history=(), network={"w": torch.ones(1)}, optimizer=optimizer)
    )
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.optimizer["state"][0]["momentum_buffer"].tolist() == [0.0, 1.0, 2.0]
    assert found.optimizer["state"][7] == {"step": 2, "flag": True}
    assert found.optimizer["hypers"] == [{"lr": 0.1}]


@pytest.mark.parametrize(("init", "message"), [("nowhere", "nothing to start from"), (None, "--init")])
def test_nothing_to_start_from_is_said(dataset: Dataset, tmp_path: Path, init: str | None, message: str) -> None:
    with pytest.raises(TrainingFailed, match=message):
        train(dataset, recipe="finetune", run_folder=tmp_path, init=init, options=ONE_SIZE)


def test_missing_imagenet_weights_are_an_error_with_advice(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    for pretrained in (None, tmp_path / "gone.safetensors"):
        with pytest.raises(TrainingFailed, match="CARS_PRETRAINED"):
            starting_network("imagenet", dataset.classes, pretrained=pretrained, seed=0)


def test_a_pickle_is_never_opened(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("learner.pkl", "weights.pt", "resnet34-b627a593.pth"):
        (tmp_path / name).write_bytes(b"\x80\x04cposix\nsystem\n")
        with pytest.raises(ArtifactUnsafe):
            starting_network(tmp_path / name, dataset.classes, pretrained=None, seed=0)
        with pytest.raises(TrainingFailed, match="pickle"):
            starting_network("imagenet", dataset.classes, pretrained=tmp_path / name, seed=0)


def test_the_head_is_kept_only_where_it_fits(dataset: Dataset, imagenet: Path) -> None:
    fresh = starting_network("scratch", dataset.classes, pretrained=None, seed=0)
    network = starting_network("imagenet", dataset.classes, pretrained=imagenet, seed=0)
    state, start = network.network.state_dict(), fresh.network.state_dict()
    assert state["fc.weight"].shape == (3, 512)
    assert torch.equal(state["fc.weight"], start["fc.weight"])
    assert not torch.equal(state["conv1.weight"], start["conv1.weight"])


@pytest.mark.parametrize(
    ("recipe", "changes"), [("fancy", {}), ("scratch", {"epochs": 0}), ("scratch", {"options": {"no": 1}})]
)
def test_a_plan_that_cannot_be_is_refused(recipe: str, changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingFailed):
        make_plan(recipe, gpu=False, **changes)


def test_a_plan_survives_json() -> None:
    for recipe in RECIPES:
        plan = make_plan(recipe, gpu=True, epochs=10, teacher_size=64 if recipe == "distill" else None)
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
