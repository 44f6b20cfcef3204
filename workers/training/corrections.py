"""People's corrections in a training run: which it takes, and what it says of those that it leaves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from jobs.db.queries import corrections
from jobs.errors import ImageNotFound
from jobs.photo_store import PhotoStore
from model import preprocess
from model.data.dataset import Dataset
from model.errors import ImageError
from workers.runtime import Runtime
from workers.training.task import Watch

__all__ = ["corrected"]

PAGE = 500
SETTLED = "corrections.json"
PHOTOS = "corrections"


def corrected(dataset: Dataset, runtime: Runtime, *, folder: Path, watch: Watch) -> Dataset:
    """The data set with the corrections that the run of this folder takes; notes how many, and which not and why."""
    wanted = _settled(runtime, folder)
    strangers = sorted({label for label in wanted.values() if label not in dataset.classes})
    if strangers:
        watch.note(f"corrections to classes that the data does not have are left out: {', '.join(strangers)}")
    kept = PhotoStore(runtime.settings.model_store)
    photos = folder / PHOTOS
    photos.mkdir(exist_ok=True)
    files = {
        photos / name: label
        for name, label in wanted.items()
        if label in dataset.classes and _is_usable(kept, name, photos / name, watch)
    }
    found, repeats = dataset.corrected(files)
    if repeats:
        watch.note(
            f"{len(repeats)} corrections are left out: the same picture, in another file, is among the photos that are "
            "only judged on"
        )
    if len(files) > len(repeats):
        judged = {photo.digest for photo in dataset.photos if photo.split != "train"}
        both = sum(file.name in judged for file in files)
        watch.note(
            f"{len(files) - len(repeats)} corrections taken"
            + f", {both} of them to photos that are only judged on" * (both > 0)
        )
    return found


def _settled(runtime: Runtime, folder: Path) -> Mapping[str, str]:
    """Hashes of corrected photos and their classes. Which ones, is settled by the run's first attempt."""
    settled = folder / SETTLED
    if not settled.exists():
        draft = settled.with_suffix(".new")
        draft.write_text(json.dumps(_all(runtime)))
        draft.replace(settled)
    wanted: Mapping[str, str] = json.loads(settled.read_text())
    return wanted


def _all(runtime: Runtime) -> dict[str, str]:
    found: dict[str, str] = {}
    after = 0
    while True:
        with runtime.database.read() as connection:
            rows = corrections.page(connection, after=after, limit=PAGE)
        found |= {row.content_hash.hex(): row.label for row in rows}
        if len(rows) < PAGE:
            return found
        after = rows[-1].id


def _is_usable(kept: PhotoStore, name: str, file: Path, watch: Watch) -> bool:
    """Whether the photo is there and can be decoded as training does it; it is written to `file`.

    What an earlier attempt has written there is taken as it is: the data stays the same though the store loses photos.
    """
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == name:
        return True
    try:
        content = kept.read(bytes.fromhex(name))
        preprocess.decode(content, 64)
    except (ImageNotFound, ImageError) as exc:
        watch.note(f"a correction is left out: {exc}")
        return False
    file.write_bytes(content)
    return True
