"""Training on demand: enqueueing a run, following it, and its shape."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import model_registry, records
from jobs.db.queries import training_runs
from jobs.errors import (
    DatabaseUnavailable,
    NotPossible,
    NoWorkerAlive,
    RunNotFound,
    SettingsInvalid,
    SourceMissing,
    WaitTimeout,
)
from jobs.polling import brief_interrupt, outlasting
from jobs.sources.addresses import canonical, parse, permitted_folder
from jobs.sources.paths import decode
from jobs.states import RunState

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["RECIPES", "Training", "anyone_trains", "enqueue", "listing"]

logger = logging.getLogger(__name__)
RECIPES = {  # and what each starts from
    "finetune": "production",
    "original": "imagenet",
    "scratch": "scratch",
    "distill": "production",
}
PICKLED = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}
PAGE = 100
POLL_SECONDS = 0.25
WORKER_PATIENCE = 60.0  # a worker that is restarted has time to come back
WORKER_CHECK_SECONDS = 5.0


class Training:
    """One training run, by id; asks the database each time."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"Training(id={self.id!r})"

    def status(self) -> dict[str, Any]:
        """Where it stands. Raises RunNotFound."""
        with self._client.database.read() as connection:
            row = training_runs.get(connection, self._number())
        if row is None:
            raise RunNotFound(f"no training run {self.id!r}; `cars training` lists them")
        return shape(row)

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> dict[str, Any]:
        """Wait until the run has ended; returns its status. `progress` draws it on stderr. A restart of the database is
        waited for, and a warning in the log.

        Raises WaitTimeout after `timeout` seconds, NoWorkerAlive when for a minute no training worker is alive.
        """
        start = time.monotonic()
        alive_at, checked_at = start, float("-inf")
        words = f"training run {self.id} goes on; wait for it again, or end it: cars training {self.id} --cancel"
        with brief_interrupt(words), _bar() if progress else nullcontext() as bar:
            while True:
                asked_at = time.monotonic()
                status = outlasting(self.status, logger.warning if bar is None else bar.tell)
                alive_at += time.monotonic() - asked_at  # while the database was away no worker could be seen
                if bar is not None:
                    bar.show(status)
                if RunState(status["state"]).terminal:
                    return status
                now = time.monotonic()
                if timeout is not None and now - start >= timeout:
                    raise WaitTimeout(
                        f"training run {self.id} is still {status['state']} after {timeout:g} s; it goes on"
                    )
                if now - checked_at >= WORKER_CHECK_SECONDS:
                    checked_at = now
                    with suppress(DatabaseUnavailable):  # the next look at the status waits for it
                        alive_at = now if anyone_trains(self._client) else alive_at
                if now - alive_at > WORKER_PATIENCE:
                    raise NoWorkerAlive(
                        f"no training worker has been alive for {WORKER_PATIENCE:g} s: start one with "
                        f"`cars worker --queues train`; run {self.id} waits in the database"
                    )
                left = start + timeout - now if timeout is not None else POLL_SECONDS
                time.sleep(max(0.0, min(POLL_SECONDS, left)))

    def cancel(self) -> dict[str, Any]:
        """Stop the run; one that has begun ends within a step of its training. Returns its status."""
        self.status()
        with self._client.database.write() as connection:
            training_runs.cancel(connection, self._number())
        return self.status()

    def _number(self) -> int:
        if not (self.id.isascii() and self.id.isdigit()) or len(self.id) > 18:
            raise RunNotFound(f"no training run {self.id!r}; `cars training` lists them")
        return int(self.id)


def enqueue(
    client: Client,
    dataset: str | os.PathLike[str],
    *,
    recipe: str,
    init: str | None,
    teacher: str | None,
    other: str | os.PathLike[str] | None,
    epochs: int | None,
    min_gain: float,
    options: Mapping[str, Any],
) -> Training:
    """Check what can be checked without the model, and make the run's row; see `Client.train`."""
    if recipe not in RECIPES:
        raise SettingsInvalid(f"there is no recipe {recipe!r}; use one of {', '.join(RECIPES)}")
    if epochs is not None and not 1 <= epochs <= 100_000:
        raise SettingsInvalid(f"epochs must be at least 1, not {epochs}")
    if not -1 <= min_gain <= 1:
        raise SettingsInvalid(f"min_gain is a share of the photos, such as 0.01 for one point, not {min_gain}")
    min_photos = options.get("min_photos")
    if min_photos is not None and min_photos < 1:
        raise SettingsInvalid(f"min_photos is how many photos a class needs at least, such as 10, not {min_photos}")
    values = {
        "token": secrets.token_hex(3),
        "dataset": _local(client, dataset, what="data set"),
        "recipe": recipe,
        "init": _start(client, init or RECIPES[recipe]),
        "epochs": epochs,
        "options": {
            "min_gain": min_gain,
            "teacher": _teacher(client, teacher, recipe),
            "other": None if other is None else _local(client, other, what="folder of photos that show no car"),
            **options,
        },
    }
    with client.database.write() as connection:
        run_id = training_runs.add(connection, values)
    return Training(client, str(run_id))


def _local(client: Client, place: str | os.PathLike[str], *, what: str) -> str:
    """The canonical path of what a worker is to read. Raises SourceMissing or SourceNotAllowed."""
    address = parse(canonical(place))
    if address.protocol:
        raise SourceMissing(f"{address.text}: the {what} must be on a disk that the training worker sees; give a path")
    real = permitted_folder(address, client.settings.roots)
    if not os.path.exists(real):  # noqa: PTH110 - the path is bytes
        raise SourceMissing(f"{address.text} does not exist: check the path of the {what}")
    return address.text


def _start(client: Client, init: str) -> str:
    """What the run starts from, made definite: a word, the name of a version, or the path of a file."""
    if init in {"imagenet", "scratch"}:
        return init
    suffix = _unpickled(init, instead=".safetensors")
    if suffix == ".safetensors" or "/" in init:
        start = _local(client, init, what="file to start from")
        if not Path(os.fsdecode(decode(start))).is_file():
            raise NotPossible(f"{init} is no file: give a version's name, imagenet, scratch or a .safetensors file")
        return start
    with client.database.read() as connection:
        return str(model_registry.resolve(connection, init).name)


def _teacher(client: Client, teacher: str | None, recipe: str) -> str | None:
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
        with client.database.read() as connection:
            return str(model_registry.resolve(connection, teacher).name)
    place = _local(client, teacher, what="teacher")
    real = Path(os.path.realpath(os.fsdecode(decode(place))))
    if suffix != ".onnx" or not real.is_file():
        raise NotPossible(f"{teacher} is no .onnx file: give one, with its JSON file beside it, or a version's name")
    try:
        _local(client, real.with_suffix(".json"), what="teacher's JSON file")
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


def listing(client: Client, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Statuses of training runs, newest first."""
    before: int | None = None
    left = limit if limit is not None else -1
    while left != 0:
        size = PAGE if left < 0 else min(PAGE, left)
        with client.database.read() as connection:
            rows = training_runs.page(connection, before=before, limit=size)
        yield from map(shape, rows)
        if len(rows) < size:
            return
        before, left = rows[-1].id, left - len(rows)


def shape(row: training_runs.RunRecord) -> dict[str, Any]:
    """A row of `queries.training_runs.get` as a status. Losses and rate are the newest; times are ISO 8601 in UTC."""
    progress: Mapping[str, Any] = row.progress or {}
    running = row.state == RunState.RUNNING
    return {
        "id": str(row.id),
        "state": row.state,
        "stage": (progress.get("stage") or "starting") if running else None,
        "dataset": row.dataset,
        "recipe": row.recipe,
        "init": row.init,
        "epoch": progress.get("epoch", 0),
        "epochs": progress.get("epochs", row.epochs),
        "epochs_run": progress.get("epochs_run", 0),
        **{name: progress.get(name) for name in ("epoch_share", "train_loss", "valid_loss", "accuracy")},
        "images_per_second": progress.get("images_per_second") if running else None,
        "network_images_per_second": progress.get("network_images_per_second") if running else None,
        "eta_seconds": progress.get("eta_seconds") if running else None,
        "notes": progress.get("notes", []),
        "model_version": row.model_version,
        "promoted": row.promoted,
        "candidate": row.candidate,
        "production": row.production,
        "reason": row.reason,
        "error": row.error,
        "cancel_requested": row.cancel_requested,
        "attempt": row.attempt,
        **{name: records.iso(getattr(row, name)) for name in ("created_at", "started_at", "finished_at")},
    }


def anyone_trains(client: Client) -> bool:
    """Whether a worker is alive that takes training runs."""
    return any(worker["alive"] and "train" in worker["queues"] for worker in client.workers())


def _bar() -> Any:
    from jobs.training_progress import RunBar

    return RunBar()
