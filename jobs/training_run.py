"""Training on demand: enqueueing a run, following it, and listing runs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import model_registry, workers
from jobs.db.paging import pages
from jobs.db.queries import training_runs
from jobs.errors import NotPossible, RunNotFound, SettingsInvalid, SourceMissing
from jobs.polling import WorkerPatience, brief_interrupt, follow, log_or
from jobs.records import RunOptions, TrainingStatus
from jobs.sources.addresses import canonical, parse, permitted_folder
from jobs.sources.paths import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.backend import Backend

__all__ = ["RECIPES", "TrainingRun", "enqueue", "listing"]

RECIPES = {  # and what each starts from
    "finetune": "production",
    "original": "imagenet",
    "scratch": "scratch",
    "distill": "production",
}
PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}
PAGE = 100


class TrainingRun:
    """One training run, by id; asks the database each time."""

    def __init__(self, backend: Backend, id: str) -> None:
        self._backend = backend
        self.id = id

    def __repr__(self) -> str:
        return f"TrainingRun(id={self.id!r})"

    @property
    def number(self) -> int:
        """The id as the database has it. Raises RunNotFound for what cannot be one."""
        if not (self.id.isascii() and self.id.isdigit()) or len(self.id) > 18:
            raise RunNotFound(f"no training run {self.id!r}; `cars training` lists them")
        return int(self.id)

    def status(self) -> TrainingStatus:
        """Return how far it is. Raises RunNotFound."""
        with self._backend.database.read() as connection:
            row = training_runs.get(connection, self.number)
        if row is None:
            raise RunNotFound(f"no training run {self.id!r}; `cars training` lists them")
        return TrainingStatus.from_row(row)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> TrainingStatus:
        """Wait until the run has ended and return its status; `progress` draws a bar on stderr.

        A restart of the database is waited for, with a warning in the log. Raises WaitTimeout after `timeout` seconds,
        NoWorkerAlive when for a minute no training worker is alive.
        """
        what = f"training run {self.id}"
        patience = WorkerPatience(what, kind="training worker", command="cars worker --queues train")

        def watch(_status: TrainingStatus) -> None:
            patience.look(alive=workers.anyone_trains(workers.listing(self._backend)))

        if progress:
            from jobs.progress import RunBar
        with (
            brief_interrupt(f"{what} continues; wait for it again, or end it: cars training {self.id} --cancel"),
            log_or(RunBar() if progress else None) as display,
        ):
            return follow(self.status, what=what, display=display, watch=watch, timeout=timeout)

    def cancel(self) -> TrainingStatus:
        """Stop the run and return its status; one that has begun ends within a step of its training."""
        self.status()
        with self._backend.database.write() as connection:
            training_runs.cancel(connection, self.number)
        return self.status()


def enqueue(
    backend: Backend,
    dataset: str | os.PathLike[str],
    *,
    recipe: str,
    init: str | None,
    teacher: str | None,
    other: str | os.PathLike[str] | None,
    epochs: int | None,
    options: RunOptions,
) -> TrainingRun:
    """Check what can be checked without the model, and make the run's row; see `Client.train`."""
    if recipe not in RECIPES:
        raise SettingsInvalid(f"there is no recipe {recipe!r}; use one of {', '.join(RECIPES)}")
    if epochs is not None and not 1 <= epochs <= 100_000:
        raise SettingsInvalid(f"epochs must be at least 1, not {epochs}")
    if not -1 <= options.min_gain <= 1:
        raise SettingsInvalid(
            f"min_gain is a fraction of the images, such as 0.01 for one point, not {options.min_gain}"
        )
    if options.min_photos is not None and options.min_photos < 1:
        raise SettingsInvalid(
            f"min_photos is how many images a class needs at least, such as 10, not {options.min_photos}"
        )
    options = replace(
        options,
        teacher=_teacher(backend, teacher, recipe),
        other=None if other is None else _local(backend, other, what="folder of images that show no car"),
    )
    values = {
        "token": secrets.token_hex(3),
        "dataset": _local(backend, dataset, what="data set"),
        "recipe": recipe,
        "init": _start(backend, init or RECIPES[recipe]),
        "epochs": epochs,
        "options": options.to_dict(),
    }
    with backend.database.write() as connection:
        run = TrainingRun(backend, str(training_runs.add(connection, values)))
    backend.notify("train", run.number)
    return run


def _local(backend: Backend, place: str | os.PathLike[str], *, what: str) -> str:
    """The canonical path of what a worker is to read. Raises SourceMissing or SourceNotAllowed."""
    address = parse(canonical(place))
    if address.protocol:
        raise SourceMissing(f"{address.text}: the {what} must be on a disk that the training worker sees; give a path")
    real = permitted_folder(address, backend.settings.roots)
    if not os.path.exists(real):  # noqa: PTH110 - the path is bytes
        raise SourceMissing(f"{address.text} does not exist: check the path of the {what}")
    return address.text


def _start(backend: Backend, init: str) -> str:
    """What the run starts from, made definite: a word, the name of a version, or the path of a file."""
    if init in {"imagenet", "scratch"}:
        return init
    suffix = _unpickled(init, instead=".safetensors")
    if suffix == ".safetensors" or "/" in init:
        start = _local(backend, init, what="file to start from")
        if not Path(os.fsdecode(decode(start))).is_file():
            raise NotPossible(f"{init} is not a file: give a version's name, imagenet, scratch or a .safetensors file")
        return start
    with backend.database.read() as connection:
        return str(model_registry.resolve(connection, init).name)


def _teacher(backend: Backend, teacher: str | None, recipe: str) -> str | None:
    """What the recipe `distill` learns from, made definite: the name of a version, or the path of an ONNX file."""
    if (teacher is not None) != (recipe == "distill"):
        raise SettingsInvalid(
            "the recipe distill learns from a teacher: give one, an .onnx file or a version"
            if teacher is None
            else f"the recipe {recipe} has no use for a teacher; distill has"
        )
    if teacher is None:
        return None
    suffix = _unpickled(teacher, instead=".onnx")
    if suffix != ".onnx" and "/" not in teacher:
        with backend.database.read() as connection:
            return str(model_registry.resolve(connection, teacher).name)
    place = _local(backend, teacher, what="teacher")
    real = Path(os.path.realpath(os.fsdecode(decode(place))))
    if suffix != ".onnx" or not real.is_file():
        raise NotPossible(
            f"{teacher} is not an .onnx file: give one, with its JSON file beside it, or a version's name"
        )
    try:
        _local(backend, real.with_suffix(".json"), what="teacher's JSON file")
    except SourceMissing as exc:
        raise SourceMissing(f"{exc}; it gives classes, size, mean, std, source and licence of {real.name}") from exc
    return place


def _unpickled(file: str, *, instead: str) -> str:
    """The file's suffix. Raises NotPossible for one of a pickle."""
    suffix = Path(file).suffix.lower()
    if suffix in PICKLED:
        raise NotPossible(
            f"{file}: a {suffix} file can run code when it is opened, so it never is; convert it to {instead}"
        )
    return suffix


def listing(backend: Backend, *, limit: int | None = None) -> Iterator[TrainingStatus]:
    """Yield the statuses of training runs, newest first."""

    def fetch(before: int | None, size: int) -> Sequence[training_runs.RunRecord]:
        with backend.database.read() as connection:
            return training_runs.page(connection, before=before, limit=size)

    for rows in pages(fetch, key=lambda row: row.id, size=PAGE, limit=limit):
        yield from map(TrainingStatus.from_row, rows)
