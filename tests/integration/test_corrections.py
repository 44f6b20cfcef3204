"""Corrections: from a classified photo, by way of the database, into the next training."""

from __future__ import annotations

import csv
import getpass
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest

from jobs import Client
from jobs.errors import ImageNotFound, JobNotFound, NotPossible, OutputError, SettingsInvalid
from model.data.dataset import open_dataset
from tests.support.labelled_photos import picture, write_folders
from tests.support.plans import TINY
from tests.support.steps import version_of
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.runtime import Runtime
from workers.training.corrections import with_corrections
from workers.training.task import train_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")

BMW, ACURA = "BMW M3 Coupe 2012", "Acura TL Sedan 2012"


@pytest.fixture
def job(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> tuple[str, Path]:
    """A job with three classified photos and one that failed; and its folder."""
    folder = tmp_path / "listing"
    folder.mkdir()
    for number in range(3):
        picture(BMW, 100 + number).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    worker = runtime()
    submitted = client.submit(str(folder))
    scan_job(worker, int(submitted.id))
    while classify_batch(worker):
        pass
    assert submitted.status().ok == 3
    return submitted.id, folder


def test_a_corrected_photo_is_learned_although_it_is_gone(
    client: Client, job: tuple[str, Path], runtime: Callable[..., Runtime], tmp_path: Path
) -> None:
    number, folder = job
    content = (folder / "0.png").read_bytes()
    assert client.label(f"{number}:0.png", ACURA).content_hash == hashlib.sha256(content).hexdigest()
    assert client.label(f"{number}:0.png", BMW).label == BMW  # the later word counts
    client.label(str(folder / "1.png"), "Lada Niva 1977", new_class=True)
    shutil.rmtree(folder)
    data = write_folders(tmp_path / "data", photos=8)
    holdout = open_dataset(data).of("holdout")
    client.label(str(holdout[0].file), ACURA)
    copy = tmp_path / "copy.png"
    picture(BMW, int(next(image for image in holdout if image.file.parent.name == BMW).file.stem), side=48).save(copy)
    client.label(str(copy), BMW)
    run = client.train(data, recipe="scratch", force=True, plan={**TINY, "phases": [{"epochs": 1, "lr_max": 0.001}]})
    assert train_model(runtime(engine="onnx"), int(run.id))
    status = run.status()
    assert status.state == "published", status.error
    assert any("Lada Niva 1977" in note for note in status.notes)
    assert "2 corrections taken, 1 of them to images that are only evaluated on" in status.notes
    assert any(note.startswith("1 corrections are left out: the same image") for note in status.notes)
    assert client.model_card(version_of(run))["data"]["images"] == 4 * 8 + 1


def test_labels_travel_as_csv(client: Client, job: tuple[str, Path], tmp_path: Path) -> None:
    number, folder = job
    given = tmp_path / "given.csv"
    given.write_text(f"job,path,label\n{number},0.png,{ACURA}\n{number},1.png,{BMW}\n")
    assert client.import_labels(given) == 2
    (tmp_path / "files.csv").write_text(f"image,label\nlisting/2.png,{ACURA}\n")
    assert client.import_labels(tmp_path / "files.csv") == 1
    saved = tmp_path / "saved.csv"
    assert client.export_labels(saved) == 3
    shutil.rmtree(folder)
    before = list(client.labels())
    assert client.import_labels(saved) == 3
    key = attrgetter("content_hash", "label")
    assert list(map(key, client.labels())) == list(map(key, before))
    with saved.open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {ACURA, BMW}


def test_photos_corrected_by_two_at_once(client: Client, job: tuple[str, Path], tmp_path: Path) -> None:
    photos = [str(tmp_path / f"{number}.png") for number in range(60)]
    for number, photo in enumerate(photos):
        picture(BMW, 200 + number).save(photo)
    for label, order in ((BMW, photos), (ACURA, photos[::-1])):
        (tmp_path / f"{label}.csv").write_text("image,label\n" + "".join(f"{photo},{label}\n" for photo in order))
    barrier = Barrier(2)

    def correct(label: str) -> int:
        with Client() as other:
            assert other.label(photos[0], label).label == label  # everything is loaded and connected
            barrier.wait(timeout=200)
            return other.import_labels(tmp_path / f"{label}.csv")

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(correct, (BMW, ACURA))) == [60, 60]
    found = list(client.labels())
    assert len({row.content_hash for row in found}) == len(found) == 60
    assert len({row.label for row in found}) == 1  # the later import counts, and all of it


def test_a_wrong_line_takes_nothing(client: Client, job: tuple[str, Path], tmp_path: Path) -> None:
    number, _ = job
    file = tmp_path / "wrong.csv"
    file.write_text(f"image,label\n{number}:0.png,{ACURA}\n{number}:9.png,{ACURA}\n")
    with pytest.raises(ImageNotFound, match="line 3"):
        client.import_labels(file)
    file.write_text(f"picture\n{number}:0.png\n")
    with pytest.raises(SettingsInvalid, match="label"):
        client.import_labels(file)
    assert list(client.labels()) == []


def test_what_cannot_be_corrected_is_refused(client: Client, job: tuple[str, Path]) -> None:
    number, folder = job
    with pytest.raises(
        NotPossible, match=rf"not a class .*; did you mean '{ACURA}'.*\?; for a new class, add --new-class$"
    ):
        client.label(f"{number}:0.png", "Acura TL Sedan 2021")
    with pytest.raises(NotPossible, match=r"knows; for a new class, add --new-class$"):
        client.label(f"{number}:0.png", "zzzz")
    with pytest.raises(NotPossible, match="failed"):
        client.label(f"{number}:broken.png", ACURA)
    with pytest.raises(JobNotFound):
        client.label("999:0.png", ACURA)
    with pytest.raises(ImageNotFound):
        client.label("nowhere.png", ACURA)
    picture(BMW, 999).save(folder / "0.png")
    with pytest.raises(NotPossible, match="another image"):
        client.label(f"{number}:0.png", ACURA)
    (folder / "1.png").unlink()
    with pytest.raises(ImageNotFound, match="any more"):
        client.label(f"{number}:1.png", ACURA)
    assert list(client.labels()) == []


def test_a_later_attempt_learns_from_the_same_photos_though_the_store_lost_them(
    client: Client, runtime: Callable[..., Runtime], tmp_path: Path
) -> None:
    dataset = open_dataset(write_folders(tmp_path / "data", photos=4))
    names = []
    for number in (300, 301):
        picture(BMW, number).save(tmp_path / "photo.png")
        names.append(client.label(str(tmp_path / "photo.png"), BMW).content_hash)
    worker, run = runtime(), tmp_path / "run"
    run.mkdir()
    first = with_corrections(dataset, worker, folder=run, monitor=Mock())
    assert len(first.images) == len(dataset.images) + 2
    shutil.rmtree(Path(client.settings.model_store) / ".corrections")
    again = with_corrections(dataset, worker, folder=run, monitor=Mock())
    assert again.fingerprint == first.fingerprint
    (run / "corrections" / names[0]).write_bytes(b"half a pho")  # its process died while it wrote
    damaged = with_corrections(dataset, worker, folder=run, monitor=Mock())
    assert {image.digest for image in damaged.images} == {image.digest for image in first.images} - {names[0]}


def test_only_an_image_can_be_corrected(client: Client, job: tuple[str, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")  # nobody writes into it: who opens it as usual waits for ever
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(NotPossible, match="not a regular file"):
        client.label(str(tmp_path / "fifo.jpg"), ACURA)
    with pytest.raises(NotPossible, match="not a regular file"):
        client.label("/dev/zero", ACURA)
    with pytest.raises(NotPossible, match="not an image"):
        client.label(str(tmp_path / "text.jpg"), ACURA)
    with pytest.raises(ImageNotFound, match="cannot be read"):
        client.label(str(tmp_path / "folder.jpg"), ACURA)
    assert list(client.labels()) == []
    with pytest.raises(OutputError, match="there is no folder"):
        client.export_labels(tmp_path / "none" / "labels.csv")


def test_every_bad_line_is_named_and_nothing_is_taken_unless_they_are_skipped(
    client: Client, job: tuple[str, Path], tmp_path: Path
) -> None:
    number, _folder = job
    lines = ["job,path,label,author"]
    for line in range(97):
        lines.append(f"{number},{line % 3}.png,{(ACURA, BMW)[line % 2]},ann")
    lines[4:4] = [f"{number},nowhere.png,{BMW},ann"]  # line 5
    lines[49:49] = [f"{number},0.png,Lada Nova 1980,ann"]  # line 50
    lines[79:79] = [f"{number},broken.png,{BMW},ann"]  # line 80
    file = tmp_path / "given.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(NotPossible, match="3 of 100 lines cannot be used") as caught:
        client.import_labels(file)
    named = [re.search(r"line (\d+)", line) for line in str(caught.value).splitlines()[1:]]
    assert [int(found[1]) for found in named if found] == [5, 50, 80]
    assert list(client.labels()) == []
    done = client.corrections.import_file(file, skip_bad=True, author="bob")
    assert (done.taken, len(done.bad)) == (97, 3)
    assert "line 5: job 1 has no image nowhere.png" in done.bad[0]
    assert {row.author for row in client.labels()} == {"ann"}


def test_a_correction_has_an_author_and_can_be_removed(client: Client, job: tuple[str, Path], tmp_path: Path) -> None:
    number, folder = job
    assert client.label(f"{number}:0.png", ACURA, author="ann").author == "ann"
    assert client.label(f"{number}:1.png", ACURA).author == getpass.getuser()
    saved = tmp_path / "saved.csv"
    client.export_labels(saved)
    with saved.open(newline="") as stream:
        assert {row["author"] for row in csv.DictReader(stream)} == {"ann", getpass.getuser()}
    assert client.corrections.remove(str(folder / "0.png")).label == ACURA
    assert [row.path for row in client.corrections] == ["1.png"]
    (content_hash,) = [row.content_hash for row in client.corrections]
    assert client.corrections.remove(content_hash).author == getpass.getuser()
    with pytest.raises(NotPossible, match="no correction"):
        client.corrections.remove(f"{number}:1.png")
    with pytest.raises(ImageNotFound):
        client.corrections.remove(f"{number}:9.png")
    with pytest.raises(JobNotFound):
        client.corrections.remove("99:1.png")
