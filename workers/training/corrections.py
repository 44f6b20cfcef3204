"""People's corrections in a training run: which it takes, and what it says of those that it leaves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.db.paging import pages
from jobs.db.queries import corrections
from jobs.disk import replacing
from jobs.errors import ImageNotFound
from jobs.photo_store import CorrectionPhotoStore
from model import preprocess
from model.data.dataset import Dataset
from model.errors import ImageError
from workers.runtime import Runtime
from workers.training.monitor import RunMonitor

__all__ = ["with_corrections"]

PAGE = 500
CHOSEN = "corrections.json"
FOLDER = "corrections"  # of the run's: the corrected images


def with_corrections(dataset: Dataset, runtime: Runtime, *, folder: Path, monitor: RunMonitor) -> Dataset:
    """Return the data set with the corrections that the run of this folder takes; note how many, which not and why."""
    wanted = _chosen(runtime, folder)
    unknown = sorted({label for label in wanted.values() if label not in dataset.classes})
    if unknown:
        monitor.note(f"corrections to classes that the data does not have are left out: {', '.join(unknown)}")
    store = CorrectionPhotoStore(runtime.settings.model_store)
    images = folder / FOLDER
    images.mkdir(exist_ok=True)
    files = {
        images / name: label
        for name, label in wanted.items()
        if label in dataset.classes and _is_usable(store, name, images / name, monitor)
    }
    found, repeats = dataset.corrected(files)
    if repeats:
        monitor.note(
            f"{len(repeats)} corrections are left out: the same image, in another file, is among the images that are "
            "only evaluated on"
        )
    if len(files) > len(repeats):
        evaluated = {image.digest for image in dataset.images if image.split != "train"}
        both = sum(file.name in evaluated for file in files)
        monitor.note(
            f"{len(files) - len(repeats)} corrections taken"
            + f", {both} of them to images that are only evaluated on" * (both > 0)
        )
    return found


def _chosen(runtime: Runtime, folder: Path) -> Mapping[str, str]:
    """Return hashes of corrected images and their classes, which the run's first attempt has chosen."""
    chosen = folder / CHOSEN
    if not chosen.exists():
        with replacing(chosen) as draft:
            draft.write(json.dumps(_all(runtime)).encode())
    wanted: Mapping[str, str] = json.loads(chosen.read_text())
    return wanted


def _all(runtime: Runtime) -> dict[str, str]:
    def fetch(after: int | None, limit: int) -> Sequence[corrections.CorrectionRecord]:
        with runtime.database.read() as connection:
            return corrections.page(connection, after=after or 0, limit=limit)

    found = pages(fetch, key=lambda row: row.id, size=PAGE)
    return {row.content_hash.hex(): row.label for rows in found for row in rows}


def _is_usable(store: CorrectionPhotoStore, name: str, file: Path, monitor: RunMonitor) -> bool:
    """Return whether the image is there and can be decoded as training does it; it is written to `file`.

    What an earlier attempt has written there is taken as it is: the data stays the same though the store loses images.
    """
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == name:
        return True
    try:
        content = store.read(bytes.fromhex(name))
        preprocess.decode(content, 64)
    except (ImageNotFound, ImageError) as exc:
        monitor.note(f"a correction is left out: {exc}")
        return False
    file.write_bytes(content)
    return True
