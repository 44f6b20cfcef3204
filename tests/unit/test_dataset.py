from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.dataset import SPLITS, Dataset, open_dataset
from model.errors import DatasetError
from model.labels import Label, joined
from tests.support.labelled_photos import COLORS, picture, write_folders

LABELS = tuple(COLORS)


def _sides(dataset: Dataset) -> dict[str, str]:
    return {f"{image.file.parent.name}/{image.file.name}": image.split for image in dataset.images}


def _write_csv(
    folder: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("file", "label", "split")
) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header[: len(rows[0])], *rows])
    return path


def test_a_folder_a_class_is_split_by_class(tmp_path: Path) -> None:
    dataset = open_dataset(write_folders(tmp_path, photos=20))
    assert dataset.classes == tuple(sorted(LABELS))
    assert dataset.split_seed == 0
    for split, count in {"train": 16, "calibration": 2, "holdout": 2}.items():
        assert Counter(dataset.labels(split).tolist()) == dict.fromkeys(range(4), count)
    assert all(dataset.classes[image.label] == image.file.parent.name for image in dataset.images)


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=20)
    first, again, other = (open_dataset(root, split_seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert _sides(first) != _sides(other)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_a_changed_label_changes_the_fingerprint(tmp_path: Path) -> None:
    write_folders(tmp_path / "images", photos=4, labels=LABELS[:2])
    rows = [
        (f"images/{label}/{n:03}.png", label, split)
        for label in LABELS[:2]
        for n, split in enumerate([*SPLITS, "train"])
    ]
    before = open_dataset(_write_csv(tmp_path, rows)).fingerprint
    rows[0] = (rows[0][0], LABELS[1], "train")
    assert open_dataset(_write_csv(tmp_path, rows)).fingerprint != before


def test_a_csv_keeps_its_own_split_and_order_of_classes(tmp_path: Path) -> None:
    write_folders(tmp_path / "images", photos=3, labels=LABELS[:2])
    rows = [(f"{label}/{n:03}.png", label, split) for label in LABELS[:2] for n, split in enumerate(SPLITS)]
    _write_csv(tmp_path, rows)
    (tmp_path / "classes.json").write_text(json.dumps([LABELS[1], LABELS[3], LABELS[0]]))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == (LABELS[1], LABELS[0])
    assert dataset.split_seed is None
    assert [image.split for image in dataset.images] == [*SPLITS, *SPLITS]


def test_a_split_that_the_csv_lacks_is_drawn_from_train(tmp_path: Path) -> None:
    write_folders(tmp_path, photos=12, labels=LABELS[:2])
    rows = [(f"{label}/{n:03}.png", label, "holdout" if n < 2 else "train") for label in LABELS[:2] for n in range(12)]
    dataset = open_dataset(_write_csv(tmp_path, rows))
    assert {image.file.name for image in dataset.of("holdout")} == {"000.png", "001.png"}
    assert len(dataset.of("calibration")) == 2


def test_the_devkit_as_published(tmp_path: Path) -> None:
    from scipy.io import savemat

    (tmp_path / "devkit").mkdir()
    (tmp_path / "cars_train").mkdir()
    names = np.empty((1, 2), dtype=object)
    names[0] = [LABELS[2], LABELS[0]]
    savemat(tmp_path / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    annotations = np.empty((1, 20), dtype=fields)
    for n in range(20):
        annotations[0, n] = (1, 1, 40, 40, n % 2 + 1, f"{n + 1:05}.jpg")
        picture((LABELS[2], LABELS[0])[n % 2], n).save(tmp_path / "cars_train" / f"{n + 1:05}.jpg")
    savemat(tmp_path / "devkit" / "cars_train_annos.mat", {"annotations": annotations})
    dataset = open_dataset(tmp_path)
    assert dataset.classes == (LABELS[2], LABELS[0])
    assert {image.file.name: image.label for image in dataset.images} == {f"{n + 1:05}.jpg": n % 2 for n in range(20)}


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=10, labels=LABELS[:2])
    for number in range(10):
        twin = picture(LABELS[0], number).resize((64, 64), Image.Resampling.BICUBIC)
        twin.save(root / LABELS[0] / f"twin-{number:03}.jpg", quality=85)
    for seed in range(5):
        sides = _sides(open_dataset(root, split_seed=seed))
        pairs = [(f"{LABELS[0]}/{n:03}.png", f"{LABELS[0]}/twin-{n:03}.jpg") for n in range(10)]
        assert all(sides[one] == sides[other] for one, other in pairs)
        assert {sides[one] for one, _ in pairs} == set(SPLITS)


def test_one_picture_under_two_labels_is_only_trained_on(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=5, labels=LABELS[:2])
    picture(LABELS[0], 0).save(root / LABELS[1] / "again.png")
    for seed in range(8):
        sides = _sides(open_dataset(root, split_seed=seed))
        assert (sides[f"{LABELS[0]}/000.png"], sides[f"{LABELS[1]}/again.png"]) == ("train", "train")


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one class"):
        open_dataset(write_folders(tmp_path, labels=LABELS[:1]))
    assert len(open_dataset(tmp_path, split_seed=None).of("all")) == 12


def test_a_class_too_small_is_refused_unless_dropped(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=6, labels=LABELS[:2])
    (root / LABELS[2]).mkdir()
    for number in range(2):
        picture(LABELS[2], number).save(root / LABELS[2] / f"{number}.png")
    with pytest.raises(DatasetError, match=rf"too small.*{LABELS[2]}.*--min-photos 3"):
        open_dataset(root)
    dataset = open_dataset(root, min_photos=3)
    assert dataset.classes == tuple(sorted(LABELS[:2]))
    assert dataset.left_out == {LABELS[2]: 2}


def test_fewer_photos_than_asked_for_are_left_out_and_listed(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=6, labels=LABELS[:2])
    write_folders(root, photos=5, labels=LABELS[2:])
    shutil.copy(root / LABELS[3] / "000.png", root / LABELS[3] / "again.png")  # the same picture is counted once
    dataset = open_dataset(root, min_photos=6)
    assert dataset.classes == tuple(sorted(LABELS[:2]))
    assert dataset.left_out == {LABELS[2]: 5, LABELS[3]: 5}
    assert {image.file.parent.name for image in dataset.images} == set(LABELS[:2])
    assert dataset.ordered([*LABELS]).left_out == dataset.left_out
    assert set(open_dataset(root, min_photos=5).classes) == set(LABELS)
    with pytest.raises(DatasetError, match=rf"0 classes are left.*{LABELS[0]} \(6\)"):
        open_dataset(root, min_photos=7)


def test_what_is_counted_are_photos_to_learn_from(tmp_path: Path) -> None:
    write_folders(tmp_path, photos=6, labels=LABELS[:3])
    splits = {label: ["train", *SPLITS, "train", "train"] for label in LABELS[:2]} | {LABELS[2]: ["holdout"] * 6}
    rows = [(f"{label}/{n:03}.png", label, split) for label, of in splits.items() for n, split in enumerate(of)]
    path = _write_csv(tmp_path, rows)
    with pytest.raises(DatasetError, match=rf"no image in `train`.*{LABELS[2]}.*--min-photos 1"):
        open_dataset(path)
    dataset = open_dataset(path, min_photos=1)
    assert (set(dataset.classes), dataset.left_out) == (set(LABELS[:2]), {LABELS[2]: 0})
    assert open_dataset(path, min_photos=4).left_out == {LABELS[2]: 0}


@pytest.mark.parametrize("seed", [0, None])
def test_classes_are_left_out_by_name(tmp_path: Path, seed: int | None) -> None:
    root = write_folders(tmp_path, photos=4, labels=LABELS[:2])
    write_folders(root, photos=2, labels=LABELS[2:3])
    dataset = open_dataset(root, split_seed=seed, leave_out={LABELS[2], "Lada Niva 1980"})
    assert (set(dataset.classes), dataset.left_out) == (set(LABELS[:2]), {LABELS[2]: 2})


def _write_cars(folder: Path, lines: list[str], header: str = "file,make,model,body,year,split") -> Path:
    """A CSV of cars and a picture for each line, `0.png` and so on, whose names go before the lines."""
    folder.mkdir(exist_ok=True)
    for number in range(len(lines)):
        picture(LABELS[0], number).save(folder / f"{number}.png")
    path = folder / "cars.csv"
    path.write_text("\n".join([header, *(f"{number}.png,{line}" for number, line in enumerate(lines)), ""]), "utf-8")
    return path


def test_a_csv_of_cars_keeps_the_parts_of_its_classes(tmp_path: Path) -> None:
    lines = ["Lynk & Co,01,SUV,2023,", "Lynk  & Co, 01 ,SUV,2023,holdout", "Kia,Rio Sedan 2012,,,", 'VW,"ID.3, Pro",,,']
    dataset = open_dataset(_write_cars(tmp_path, lines), split_seed=None)
    assert dataset.class_parts == {
        "Lynk & Co 01 SUV 2023": Label("Lynk & Co 01 SUV 2023", "Lynk & Co", "01", "SUV", 2023),
        "Kia Rio Sedan 2012": Label("Kia Rio Sedan 2012", "Kia", "Rio Sedan 2012", None, None),
        "VW ID.3, Pro": Label("VW ID.3, Pro", "VW", "ID.3, Pro", None, None),
    }
    assert dataset.classes == tuple(sorted(dataset.class_parts))
    assert [dataset.classes[image.label].split()[0] for image in dataset.images] == ["Lynk", "Lynk", "Kia", "VW"]
    assert [image.split for image in dataset.images] == ["train", "holdout", "train", "train"]


def test_body_and_year_need_no_column(tmp_path: Path) -> None:
    dataset = open_dataset(_write_cars(tmp_path, ["Kia,Rio", "BYD,Seal U"], "file,make,model"), split_seed=None)
    assert dataset.classes == ("BYD Seal U", "Kia Rio")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",Rio,,,", "line 3.*needs a make and a model"),
        ("Kia, ,,,", "line 3.*needs a make and a model"),
        ("Kia,Rio,,2015-2018,", "line 3: '2015-2018' is not a year from 1885 to 2100.*`model`"),
        ("Kia,Rio,,15,", "line 3: '15' is not a year"),
        ("Kia,Rio,,,test", "line 3.*as split one of"),
        ("Kia,Rio,1.2,Hatchback,2019,train", "line 3 has more fields than the first line; quote"),
        (
            "Land,Rover Defender,,,",
            r"'Land Rover Defender' apart in two ways: make Land Rover, model Defender \(0.png\)",
        ),
    ],
)
def test_a_csv_of_cars_that_is_wrong_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(_write_cars(tmp_path, ["Land Rover,Defender,,,", line]))


def test_a_csv_names_classes_in_one_way(tmp_path: Path) -> None:
    path = _write_cars(tmp_path, ["Kia Rio,Kia,Rio", "Kia Ceed,Kia,Ceed"], "file,label,make,model")
    with pytest.raises(DatasetError, match="leave out one of the two"):
        open_dataset(path)


def test_parts_are_taken_over_where_the_data_has_none(tmp_path: Path) -> None:
    dataset = open_dataset(_write_cars(tmp_path, ["Kia,Rio,,,", "BYD,Seal U,,,"]), split_seed=None)
    theirs = {name: joined("?", name) for name in ("Kia Rio", "Lada Niva", "Lada Samara")}
    both = dataset.ordered(["Lada Niva", *dataset.classes]).with_parts(theirs)
    assert both.class_parts == {**dataset.class_parts, "Lada Niva": theirs["Lada Niva"]}


@pytest.mark.parametrize("name", ["x" * 201, "Kia\nRio", os.fsdecode(b"Kia \xff")])
def test_a_class_that_no_version_can_have_is_refused_at_once(tmp_path: Path, name: str) -> None:
    write_folders(tmp_path, photos=3, labels=LABELS[:2])
    if len(name) > 200:
        path = _write_csv(tmp_path, [(f"{LABELS[0]}/{n:03}.png", name) for n in range(3)])
    else:
        (tmp_path / LABELS[0]).rename(tmp_path / name)
        path = tmp_path
    with pytest.raises(DatasetError, match=r"cannot name a class: it has .*; rename it"):
        open_dataset(path)


def test_a_class_named_twice_in_the_order_is_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, photos=3, labels=LABELS[:2])
    (tmp_path / "classes.json").write_text(json.dumps([LABELS[0], *LABELS]))
    with pytest.raises(DatasetError, match="names a class twice"):
        open_dataset(tmp_path)


def test_three_photos_are_just_enough(tmp_path: Path) -> None:
    dataset = open_dataset(write_folders(tmp_path, photos=3, labels=LABELS[:2]))
    assert Counter(image.split for image in dataset.images) == dict.fromkeys(SPLITS, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("no-such-file.png", LABELS[0])], r"not there.*no-such-file\.png"),
        ([("000.png", "")], "needs a file, a label"),
        ([("000.png", LABELS[0], "test")], "split"),
        ([("000.png", LABELS[1])], "labelled more than once"),
    ],
)
def test_a_csv_that_is_wrong_is_refused(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    for number in range(3):
        picture(LABELS[0], number).save(tmp_path / f"{number:03}.png")
    good = [(f"{number:03}.png", LABELS[number % 2], "") for number in range(3)]
    with pytest.raises(DatasetError, match=message):
        open_dataset(_write_csv(tmp_path, [*good, *rows]))


def test_a_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = _write_csv(tmp_path, [("000.png", "x")], header=("path", "name"))
    with pytest.raises(DatasetError, match="file,label"):
        open_dataset(path)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_photos_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"data set|no labelled images"):
        open_dataset(tmp_path / name)


def test_unreadable_photos_are_left_out_and_listed(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=60, labels=LABELS[:2])
    broken = root / LABELS[0] / "broken.png"
    broken.write_bytes(b"no picture")
    dataset = open_dataset(root)
    assert [file for file, _ in dataset.unreadable] == [broken]
    assert dataset.unreadable[0][1]
    assert len(dataset.images) == 120


def test_too_many_unreadable_photos_are_an_error(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=20, labels=LABELS[:2])
    (root / LABELS[0] / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"1 of 41 .*broken\.png"):
        open_dataset(root)


def test_labels_in_the_order_of_a_model(tmp_path: Path) -> None:
    dataset = open_dataset(write_folders(tmp_path, photos=3, labels=LABELS[:2]))
    ordered = dataset.ordered(["BMW X6 SUV 2012", LABELS[0], LABELS[1]])
    assert {ordered.classes[image.label] == image.file.parent.name for image in ordered.images} == {True}
    assert ordered.fingerprint == dataset.fingerprint
    with pytest.raises(DatasetError, match=LABELS[0]):
        dataset.ordered([LABELS[1]])


def test_corrections_join_train_or_relabel_where_the_photo_is(tmp_path: Path) -> None:
    dataset = open_dataset(write_folders(tmp_path / "data", photos=6, labels=LABELS[:2]))
    known = dataset.of("holdout")[0]
    wrong = dataset.classes[1 - known.label]
    new = tmp_path / "new.png"
    picture(LABELS[0], 99).save(new)
    corrected, repeats = dataset.corrected({known.file: wrong, new: LABELS[0]})
    assert repeats == ()
    assert len(corrected.images) == 13
    found = {image.digest: image for image in corrected.images}
    assert (found[known.digest].label, found[known.digest].split) == (1 - known.label, "holdout")
    assert [image.split for image in corrected.images if image.file == new] == ["train"]
    with pytest.raises(DatasetError, match="Lada"):
        dataset.corrected({new: "Lada Niva SUV 1980"})


def _smaller(file: Path, copy: Path, side: int = 32) -> Path:
    """The same picture in another file."""
    with Image.open(file) as image:
        image.resize((side, side), Image.Resampling.BICUBIC).save(copy, quality=85)
    return copy


@pytest.mark.parametrize("split", SPLITS)
def test_a_correction_that_repeats_what_is_evaluated_on_is_left_out(tmp_path: Path, split: str) -> None:
    dataset = open_dataset(write_folders(tmp_path / "data", photos=6, labels=LABELS[:2]))
    image = dataset.of(split)[0]
    copy = _smaller(image.file, tmp_path / "copy.jpg")
    new = tmp_path / "new.png"
    picture(LABELS[0], 99).save(new)
    corrected, repeats = dataset.corrected({copy: dataset.classes[image.label], new: LABELS[0]})
    assert repeats == (() if split == "train" else (copy,))
    joined = set(corrected.images) - set(dataset.images)
    assert {image.file for image in joined} == {new, copy} - set(repeats)
    assert {image.split for image in joined} == {"train"}


def test_what_repeats_a_correction_that_is_left_out_is_left_out_too(tmp_path: Path) -> None:
    write_folders(tmp_path, photos=3, labels=LABELS[:2])
    rows = [(f"{label}/{n:03}.png", label, split) for label in LABELS[:2] for n, split in enumerate(SPLITS)]
    evaluated, other = (picture(LABELS[0], seed, side=64) for seed in (2, 99))
    dataset = open_dataset(_write_csv(tmp_path, rows))
    files = [tmp_path / f"frame-{step}.png" for step in range(1, 17)]  # from a holdout image to quite another one
    for step, file in enumerate(files, start=1):
        Image.blend(evaluated, other, step / 16).save(file)
    assert dataset.corrected({files[-1]: LABELS[0]})[1] == ()
    assert dataset.corrected(dict.fromkeys(files, LABELS[0])) == (dataset, tuple(files))


def test_corrections_leave_no_copy_of_a_photo_out_and_relabel_all(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "data", photos=6, labels=LABELS[:2])
    files = {root / LABELS[0] / "000.png", root / LABELS[0] / "again.png"}
    shutil.copy(*sorted(files))
    dataset = open_dataset(root)
    assert dataset.corrected({}) == (dataset, ())
    corrected, _ = dataset.corrected({root / LABELS[0] / "000.png": LABELS[1]})
    assert {image.file for image in dataset.images if image not in corrected.images} == files
    assert [corrected.classes[image.label] for image in corrected.images if image.file in files] == [LABELS[1]] * 2


def test_a_photo_more_or_less_moves_few_others(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=40, labels=LABELS[:2])
    before = _sides(open_dataset(root))
    picture(LABELS[0], 99).save(root / LABELS[0] / "0005.png")
    after = _sides(open_dataset(root))
    assert sum(after[name] != side for name, side in before.items()) <= 2
    (root / LABELS[0] / "003.png").unlink()
    assert sum(before[name] != side for name, side in _sides(open_dataset(root)).items() if name in before) <= 4


def _holdout(dataset: Dataset, label: str) -> set[str]:
    return {image.digest for image in dataset.of("holdout") if dataset.classes[image.label] == label}


@pytest.mark.parametrize("seed", range(4))
def test_photos_that_a_version_was_evaluated_on_stay_in_the_holdout(tmp_path: Path, seed: int) -> None:
    root = write_folders(tmp_path, photos=20, labels=LABELS[:3])
    dataset = open_dataset(root, split_seed=9)
    held = _holdout(dataset, LABELS[0]) | set(sorted(_holdout(dataset, LABELS[1]))[:1])
    for number in range(20, 26):
        picture(LABELS[0], number).save(root / LABELS[0] / f"{number:03}.png")
    for number in range(20, 60):
        picture(LABELS[1], number).save(root / LABELS[1] / f"{number:03}.png")
    again = open_dataset(root, split_seed=seed, holdout=held)
    assert _holdout(again, LABELS[0]) == _holdout(dataset, LABELS[0])  # no image that may have been learned joins them
    assert held & _holdout(again, LABELS[1])
    assert len(_holdout(again, LABELS[1])) == 6  # one is too few to evaluate 60 by
    assert len(_holdout(again, LABELS[2])) == 2
    assert len(again.of("calibration")) == 3 + 6 + 2


def test_a_copy_of_a_photo_that_was_evaluated_on_is_not_learned(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=20, labels=LABELS[:2])
    image = open_dataset(root).of("holdout")[0]
    copy = _smaller(image.file, image.file.with_name("copy.jpg"))
    again = open_dataset(root, split_seed=1, holdout={image.digest})
    assert copy in {image.file for image in again.of("holdout")}


def test_photos_evaluated_on_leave_some_to_learn_from(tmp_path: Path) -> None:
    root = write_folders(tmp_path, photos=3, labels=LABELS[:2])
    everything = {image.digest for image in open_dataset(root).images}
    dataset = open_dataset(root, holdout=everything)
    assert Counter(image.split for image in dataset.images) == dict.fromkeys(SPLITS, 2)


def test_splits_that_the_data_brings_are_kept_whatever_was_evaluated_on(tmp_path: Path) -> None:
    write_folders(tmp_path, photos=6, labels=LABELS[:2])
    rows = [(f"{label}/{n:03}.png", label, SPLITS[n % 3]) for label in LABELS[:2] for n in range(6)]
    before = open_dataset(_write_csv(tmp_path, rows))
    assert open_dataset(tmp_path, holdout={image.digest for image in before.of("train")}) == before


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("form", ["csv", "link", "folder link", "list link"])
def test_a_file_that_is_not_permitted_is_never_touched(
    tmp_path: Path, form: str, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write_folders(inside, photos=3, labels=LABELS[:2])
    outside.mkdir()
    if exists:
        picture(LABELS[0], 1).save(outside / "a.png")
    if form == "csv":
        _write_csv(inside, [("../outside/a.png", LABELS[0]), (f"{LABELS[1]}/000.png", LABELS[1])])
    elif form == "link":
        (inside / LABELS[0] / "a.png").symlink_to(outside / "a.png")
    elif form == "folder link":
        (inside / "Lada").symlink_to(outside)
    else:
        (inside / "labels.csv").symlink_to(outside / "secret.csv")
        (outside / "secret.csv").write_text("key\n1234\n")
    stat, touched = Path.stat, []

    def permitted(file: Path) -> None:
        if not Path(os.path.realpath(file)).is_relative_to(inside):
            raise DatasetError("not permitted")

    def watched(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if self.name != "labels.csv" and os.path.realpath(self).startswith(str(outside)):
            touched.append(self)
        return stat(self, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", watched)
        with pytest.raises(DatasetError, match="not permitted"):
            open_dataset(inside, permitted=permitted)
    assert touched == []
