"""Training runs: from a row to a version that is live, or kept with its numbers; each step as the worker does it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import update

from jobs import Client, TrainingRun
from jobs.db.database import later
from jobs.db.queries import training_runs
from jobs.db.tables import TrainingRunRow
from jobs.errors import NotPossible, SettingsInvalid, SourceMissing, SourceNotAllowed, VersionNotFound
from jobs.records import TrainingStatus
from model.cards import verify
from model.errors import StoreUnavailable
from model.evaluation.metrics import evaluate_version
from tests.support.backends import embedded, server
from tests.support.drawn_cars import LOOKS, Car, draw, write_catalogue
from tests.support.labelled_photos import COLORS, picture, write_folders
from tests.support.plans import LEARNS, TINY
from tests.support.steps import version_of, versions
from workers.runtime import Runtime
from workers.training.task import reclaim_runs, train_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY_IN_0_2_0 = {  # the same in the names that releases before had
    "sizes": [[1.0, 24]],
    "test_sizes": [24],
    "batch": 16,
    "views": {"crop": 1.0, "strong": False},
    "stages": [{"epochs": 2, "peak": 0.001}],
    "loss": "cross_entropy",
    "bfloat16": False,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", photos=20)


def when(run: TrainingRun, condition: Callable[[TrainingStatus], bool], then: Callable[[], bool]) -> Callable[[], bool]:
    """For `closing`: asks `then` once the run's status fits, and says False before."""
    return lambda: condition(run.status()) and then()


@embedded
def test_what_is_better_goes_live(
    client: Client, runtime: Callable[..., Runtime], publish: Callable[..., str], data: Path
) -> None:
    worker = runtime(engine="onnx")
    client.promote(publish("colors", classes=list(COLORS)))
    before = versions(client)
    run = client.train(data, recipe="scratch", plan=LEARNS)
    assert run.status().state == "queued"
    assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.promoted, status.error) == ("published", True, None)
    assert (status.epoch, status.epochs, status.epochs_run, status.attempt) == (8, 8, 8, 1)
    assert status.candidate is not None
    assert status.production is not None
    assert status.production["version"] == "colors"
    assert status.candidate["top1"] > status.production["top1"]
    assert versions(client) - before == {status.model_version}
    assert client.history()[-1].model_version == status.model_version
    assert client.history()[-1].reason == "training"
    card = client.model_card()
    assert card["name"] == status.model_version
    assert card["recipe"]["name"] == "scratch"
    assert verify(worker.artifacts.store.fetch(card["name"], card["digest"])).name == card["name"]
    assert not any((worker.settings.home / "training").iterdir())
    assert not train_model(worker, int(run.id))  # the message once more
    assert run.status() == status


@embedded
def test_photos_that_show_no_car_are_fitted_to(
    client: Client, runtime: Callable[..., Runtime], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    worker = runtime(engine="onnx")
    refused = client.train(data, recipe="scratch", other=folder, plan=TINY)
    assert train_model(worker, int(refused.id))
    assert refused.status().state == "failed"
    assert "labels.csv cannot be read" in (refused.status().error or "")
    assert refused.status().epochs_run == 0
    rows = [f"{split}{n}.png,{split} things,{split}" for split in ("calibration", "holdout") for n in range(3)]
    (folder / "labels.csv").write_text("\n".join(["file,what,split", *rows]))
    for row in rows:
        Image.effect_noise((24, 24), 90).convert("RGB").save(folder / row.partition(",")[0])
    run = client.train(data, recipe="scratch", other=folder, force=True, promote=False, plan=TINY)
    assert train_model(worker, int(run.id))
    card = client.model_card(version_of(run))
    assert card["metrics"]["ood_images"]["holdout"]["images"] == 3


@embedded
def test_shuffled_labels_are_rejected(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    folder = tmp_path / "shuffled"
    for label in COLORS:
        (folder / label).mkdir(parents=True)
    for label in COLORS:
        for number in range(16):
            wrong = list(COLORS)[random.integers(len(COLORS))]
            picture(label, number).save(folder / wrong / f"{label} {number}.png")
    worker = runtime(engine="onnx")
    run = client.train(folder, recipe="scratch", plan=TINY)
    assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.promoted) == ("rejected", False)
    assert status.candidate is not None
    assert status.production is not None
    assert status.candidate["images"] == status.production["images"] > 0
    assert client.model().name == "tiny"
    assert client.model(version_of(run)).state == "rejected"
    with pytest.raises(NotPossible, match="rejected"):
        client.promote(version_of(run))
    forced = client.train(folder, recipe="finetune", force=True, promote=False, plan=TINY, init=status.model_version)
    assert train_model(worker, int(forced.id))
    assert (forced.status().state, forced.status().promoted) == ("published", False)
    assert client.model().name == "tiny"


@server
def test_a_worker_that_stops_releases_its_run(client: Client, runtime: Callable[..., Runtime], data: Path) -> None:
    first, second = runtime("a", engine="onnx"), runtime("b", engine="onnx")
    before = versions(client)
    run = client.train(data, recipe="scratch", force=True, plan=TINY)
    closing = when(run, lambda status: status.epoch == 1, lambda: True)
    assert train_model(first, int(run.id), closing=closing)
    assert (run.status().state, run.status().epochs_run) == ("queued", 1)
    closing = when(run, lambda status: status.stage == "evaluating", lambda: True)
    assert train_model(second, int(run.id), closing=closing)
    assert (run.status().state, run.status().epochs_run) == ("queued", 2)
    assert versions(client) == before
    assert train_model(first, int(run.id))
    status = run.status()
    assert (status.state, status.epochs_run, status.attempt) == ("published", 2, 3)
    assert versions(client) - before == {status.model_version}


@embedded
def test_cancel(client: Client, runtime: Callable[..., Runtime], data: Path) -> None:
    worker = runtime(engine="onnx")
    before = versions(client)
    waiting = client.train(data, recipe="scratch", plan=TINY)
    assert waiting.cancel().state == "canceled"
    assert not train_model(worker, int(waiting.id))
    run = client.train(data, recipe="scratch", plan={**TINY, "phases": [{"epochs": 50, "lr_max": 0.001}]})

    def cancel() -> bool:
        run.cancel()
        return False

    assert train_model(worker, int(run.id), closing=when(run, lambda status: status.epoch >= 1, cancel))
    status = run.status()
    assert status.state == "canceled"
    assert 1 <= status.epoch < 50
    assert versions(client) == before
    assert not any((worker.settings.home / "training").iterdir())


@server
def test_a_run_that_was_reclaimed_is_left_alone(client: Client, runtime: Callable[..., Runtime], data: Path) -> None:
    worker = runtime(engine="onnx")
    run = client.train(data, recipe="scratch", plan=TINY)

    def lose() -> bool:
        reclaim_runs(worker, lambda _owner: False)
        return False

    assert train_model(worker, int(run.id), closing=when(run, lambda status: status.epoch == 1, lose))
    status = run.status()
    assert (status.state, status.error, status.model_version) == ("queued", None, None)


@embedded
@pytest.mark.parametrize("end", ["canceled", "failed", "published"])
def test_what_an_ended_run_left_on_this_machine_is_removed(
    end: str, client: Client, runtime: Callable[..., Runtime], data: Path
) -> None:
    worker = runtime(engine="onnx")
    run = client.train(data, recipe="scratch", force=True, plan={**TINY, "phases": [{"epochs": 1, "lr_max": 0.001}]})
    assert train_model(worker, int(run.id), closing=lambda: True)
    folder = worker.settings.home / "training"
    other = folder / f"{run.id}-0-1"  # of another database's run
    other.mkdir()
    reclaim_runs(worker, lambda _owner: True)
    assert run.status().state == "queued"
    assert len(list(folder.iterdir())) == 2  # the run continues from there
    if end == "canceled":
        run.cancel()
    elif end == "failed":
        give_up(client, run)
    else:
        killed_while_removing(worker, run)
    assert run.status().state == end
    assert len(list(folder.iterdir())) == 2
    reclaim_runs(worker, lambda _owner: True)
    assert list(folder.iterdir()) == [other]


def killed_while_removing(worker: Runtime, run: TrainingRun) -> None:
    """The run ends, and its process crashes when it has removed one file of what the run has left."""
    remove = shutil.rmtree

    def die(folder: Path, **options: Any) -> None:
        if Path(folder).parent.name != "training":
            return remove(folder, **options)
        next(file for file in folder.rglob("*") if file.is_file()).unlink()
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(SystemExit):
            train_model(worker, int(run.id))


def give_up(client: Client, run: TrainingRun) -> None:
    """Its process crashes, time and again."""
    with client.database.write() as connection:
        for _ in range(training_runs.MAX_CRASHES):
            assert training_runs.claim(connection, int(run.id), owner="w:1", seconds=60)
            assert not training_runs.claim(connection, int(run.id), owner="w:2", seconds=60)
            training_runs.reclaim(connection, int(run.id), owner="w:1")


@embedded
def test_a_run_that_keeps_killing_its_process_is_given_up(client: Client, data: Path) -> None:
    run = client.train(data, recipe="scratch")
    give_up(client, run)
    assert run.status().state == "failed"
    assert "crashed 5 times" in (run.status().error or "")


@embedded
@pytest.mark.parametrize("what", ["one class", "small class", "missing files", "nothing"])
def test_data_that_cannot_be_used_fails_the_run(
    what: str, client: Client, runtime: Callable[..., Runtime], tmp_path: Path
) -> None:
    folder, words = tmp_path / "data", {"one class": "one class", "small class": "--min-photos 3"}
    folder.mkdir()
    if what == "missing files":
        (folder / "labels.csv").write_text("file,label\na.jpg,BMW M3 Coupe 2012\nb.jpg,Acura TL Sedan 2012\n")
    elif what != "nothing":
        names = tuple(COLORS)[: 1 if what == "one class" else 2]
        write_folders(folder, photos=5, labels=names)
    if what == "small class":
        for file in list((folder / names[0]).iterdir())[1:]:
            file.unlink()
    before = versions(client)
    run = client.train(folder, recipe="scratch", plan=TINY)
    assert train_model(runtime(engine="onnx"), int(run.id))
    status = run.status()
    assert status.state == "failed"
    wanted = words.get(what, {"missing files": "not there", "nothing": "no labelled images"}.get(what, ""))
    assert wanted in (status.error or "")
    assert versions(client) == before


@embedded
def test_a_users_own_cars_keep_their_parts(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> None:
    worker = runtime(engine="onnx")
    lada = Car("Lada", "Niva Legend")
    path = write_catalogue(tmp_path / "own", splits={"train": 6, "calibration": 2, "holdout": 2}, few=lada)
    run = client.train(path, recipe="scratch", min_photos=3, force=True, plan=TINY)
    assert train_model(worker, int(run.id))
    status = run.status()
    assert status.state == "published", status.error
    assert status.notes[0] == "classes left out, under 3 images to learn from: Lada Niva Legend (1)"
    card = client.model_card()
    parts = {
        car.label: {**car._asdict(), "body": car.body or None, "year": int(car.year or 0) or None} for car in LOOKS
    }
    assert (card["class_parts"], set(card["classes"])) == (parts, set(parts))
    assert card["data"]["classes_left_out"] == {"Lada Niva Legend": 1}

    folder = worker.artifacts.store.fetch(card["name"], card["digest"])
    for split, photos in {"all": 40, "holdout": 8}.items():  # the data has a class that the version does not know
        found = evaluate_version(folder, path, split=split, engine="onnx", device="cpu")
        assert (found["images"], [row["label"] for row in found["left_out"]]) == (photos, ["Lada Niva Legend"])
        assert found["make"] >= found["top1"]

    some = tmp_path / "folders"  # photos of two of the classes, by their names alone
    for car in list(LOOKS)[:2]:
        (some / car.label).mkdir(parents=True)
        for seed in range(500, 506):
            draw(car, seed).save(some / car.label / f"{seed}.png")
    again = client.train(some, recipe="finetune", force=True, plan=TINY)
    assert train_model(worker, int(again.id))
    assert again.status().state == "published", again.status().error
    assert client.model().name == again.status().model_version
    assert client.model_card()["class_parts"] == parts


@embedded
@pytest.mark.parametrize(
    ("options", "few"), [({"drop_small_classes": True}, True), ({"drop_small_classes": False}, False)]
)
def test_a_run_that_an_earlier_release_enqueued_continues(
    options: dict[str, Any], few: bool, client: Client, runtime: Callable[..., Runtime], tmp_path: Path
) -> None:
    data = write_folders(tmp_path / "data", photos=8, labels=tuple(COLORS)[:3])
    write_folders(data, photos=2, labels=tuple(COLORS)[3:])
    run = client.train(data, recipe="scratch", force=True, plan=TINY)
    before = {"min_gain": 0.0, "force": True, "promote": True, "seed": 0, "plan": TINY_IN_0_2_0, **options}
    with client.database.write() as connection:
        connection.execute(update(TrainingRunRow).values(options=before))
    assert train_model(runtime(engine="onnx"), int(run.id))
    assert run.status().state == ("published" if few else "failed")
    assert few or "too small" in (run.status().error or "")


def test_what_cannot_be_trained_is_refused_at_once(client: Client, publish: Callable[..., str], data: Path) -> None:
    client.promote(publish("tiny"))
    for suffix in ("pkl", "pt", "pth"):
        (data / f"learner.{suffix}").write_bytes(b"\x80\x04.")
        with pytest.raises(NotPossible, match="can run code"):
            client.train(data, init=str(data / f"learner.{suffix}"))
    with pytest.raises(SourceMissing, match="does not exist"):
        client.train(data / "gone")
    with pytest.raises(SourceMissing, match="does not exist"):
        client.train(data, init=str(data / "gone.safetensors"))
    with pytest.raises(SourceMissing, match="disk"):
        client.train("s3://bucket/data")
    with pytest.raises(SourceNotAllowed):
        client.train("/etc")
    with pytest.raises(VersionNotFound):
        client.train(data, init="nobody")
    for wrong in ({"recipe": "fancy"}, {"epochs": 0}, {"min_gain": 7}, {"min_photos": 0}):
        with pytest.raises(SettingsInvalid):
            client.train(data, **wrong)
    assert list(client.trainings()) == []


@embedded
@pytest.mark.parametrize("exists", [True, False])
def test_photos_outside_the_roots_are_never_opened(
    exists: bool, client: Client, runtime: Callable[..., Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = write_folders(tmp_path / "inside", photos=4), tmp_path / "outside"
    outside.mkdir()
    if exists:
        picture(next(iter(COLORS)), 1).save(tmp_path / "real.png")
        (outside / "a.png").symlink_to(tmp_path / "real.png")
    files = [(file, file.parent.name) for file in sorted(inside.rglob("*.png"))]
    lines = [f"{file},{label}\n" for file, label in [*files, (outside / "a.png", files[0][1])]]
    (inside / "labels.csv").write_text("file,label\n" + "".join(lines))
    opened: list[Path] = []
    read = Path.read_bytes

    def noted(file: Path) -> bytes:
        opened.append(file)
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", noted)
    run = client.train(inside, recipe="scratch", plan=TINY)
    assert train_model(runtime(engine="onnx", source_roots=str(inside)), int(run.id))
    assert run.status().state == "failed"
    error = run.status().error
    assert error is not None
    assert error.startswith(f"{outside / 'a.png'} is outside what workers may read ({inside})")
    assert [file for file in opened if file.suffix == ".png"] == []


@embedded
def test_a_link_out_of_the_roots_is_followed_as_the_system_does(
    client: Client, runtime: Callable[..., Runtime], tmp_path: Path
) -> None:
    inside = write_folders(tmp_path / "inside", photos=4)
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (inside / "link").symlink_to(tmp_path / "outside" / "sub")
    (inside / "labels.csv").write_text("file,label\nlink/../a.png,BMW M3 Coupe 2012\n")
    run = client.train(inside, recipe="scratch", plan=TINY)
    assert train_model(runtime(engine="onnx", source_roots=str(inside)), int(run.id))
    assert "outside what workers may read" in (run.status().error or "")


def absent(*_args: Any, **_options: Any) -> None:
    raise StoreUnavailable("the model store is away")


@server
def test_a_run_outlives_a_store_that_is_away(
    client: Client, runtime: Callable[..., Runtime], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime(engine="onnx")
    run = client.train(data, recipe="scratch", force=True, plan=TINY)
    with monkeypatch.context() as patch:
        patch.setattr("model.store.Store.put", absent)
        assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.error, status.finished_at) == ("queued", "the model store is away", None)
    assert not train_model(worker, int(run.id))  # not yet
    with client.database.write() as connection:
        assert training_runs.waiting(connection, patience=0) == []
        connection.execute(update(TrainingRunRow).values(expires_at=later(-1)))
        assert training_runs.waiting(connection, patience=0) == [int(run.id)]
    assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.error) == ("published", None)
    assert (status.epochs_run, status.attempt) == (2, 2)  # nothing was trained again


@embedded
def test_a_fault_that_does_not_pass_ends_the_run_at_last(
    client: Client, runtime: Callable[..., Runtime], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    worker = runtime(engine="onnx")
    run, canceled = (client.train(data, recipe="scratch", plan=TINY) for _ in range(2))
    monkeypatch.setattr("workers.training.attempt.open_dataset", full)
    monkeypatch.setattr(training_runs, "FIRST_PAUSE", 0.0)
    for attempt in range(1, training_runs.MAX_CRASHES + 1):
        assert (run.status().state, run.status().attempt) == ("queued", attempt - 1)
        assert train_model(worker, int(run.id))
    assert run.status().state == "failed"
    assert "tried 5 times" in (run.status().error or "")
    assert "No space left" in (run.status().error or "")
    monkeypatch.setattr(training_runs, "FIRST_PAUSE", 3_600.0)
    assert train_model(worker, int(canceled.id))
    assert canceled.cancel().state == "canceled"


@embedded
def test_what_production_was_evaluated_on_is_not_learned(
    client: Client, runtime: Callable[..., Runtime], data: Path, tmp_path: Path
) -> None:
    worker = runtime(engine="onnx")
    plan = {**TINY, "phases": [{"epochs": 1, "lr_max": 0.001}]}
    first = client.train(data, recipe="scratch", force=True, plan=plan)
    assert train_model(worker, int(first.id))
    again = client.train(data, recipe="finetune", seed=5, force=True, promote=False, plan=plan)
    new = write_folders(tmp_path / "new", photos=10, first=100)
    strange = client.train(new, recipe="finetune", force=True, plan=plan)
    assert train_model(worker, int(again.id))
    assert train_model(worker, int(strange.id))
    one, other = (client.model_card(version_of(run))["data"]["holdout"] for run in (first, again))
    assert one == other
    assert [note for note in again.status().notes if "trained on" in note] == []
    assert [note for note in strange.status().notes if note.startswith("4 of the 4 holdout images")] != []


@embedded
def test_a_better_version_that_would_lose_classes_is_left_to_the_user(
    client: Client, runtime: Callable[..., Runtime], data: Path
) -> None:
    run = client.train(data, recipe="scratch", plan=LEARNS)
    assert train_model(runtime(engine="onnx"), int(run.id))
    status = run.status()
    assert (status.state, status.promoted) == ("published", False), status.error
    assert "does not know 1 of the 4 classes of tiny: Acura TSX Sedan 2012" in (status.reason or "")
    assert client.model().name == "tiny"
    client.promote(version_of(run))
    assert client.model().name == status.model_version
