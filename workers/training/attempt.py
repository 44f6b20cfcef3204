"""What a training run does: opens the photos, trains, publishes, judges, and ends in one transaction."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jobs.db.queries import training_runs, versions
from jobs.disk import private_folder
from jobs.errors import VersionNotFound
from jobs.settings import Settings
from jobs.sources.addresses import Address, parse, permitted_folder
from jobs.states import RunState, VersionState
from model import cards
from model.cards import Card
from model.data.dataset import SPLITS, Dataset, open_dataset
from model.data.ood_images import OodImages, open_ood_images
from model.errors import DatasetError, ModelError, StoreUnavailable
from model.evaluation.metrics import accuracy_of_version
from model.publishing.publish import publish
from model.training.train import Trained, TrainingStopped, train
from workers.lease import LeaseLost
from workers.runtime import Runtime
from workers.training.corrections import corrected
from workers.training.promotion import Judged, Verdict, compare
from workers.training.task import FOLDER, Watch

__all__ = ["Learning"]

logger = logging.getLogger(__name__)


class Learning:
    """One attempt at a run. What it leaves behind in its folder, the next attempt goes on from."""

    def __init__(self, runtime: Runtime, claim: training_runs.Claim, row: Any, watch: Watch) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._claim = claim
        self._row = row
        self._watch = watch
        self._name = f"{row.recipe}-{row.id}-{row.token}"
        self._folder = _take_folder(runtime.settings, row, claim.attempt, watch)

    def go(self) -> None:
        """See the run to its end. Raises Stopped, LeaseLost, and whatever makes it fail."""
        self._watch.stage("opening the photos")
        start = self._start()
        dataset = self._dataset(start)
        candidate = self._made_before() or self._make(dataset, start)
        self._watch.stage("judging")
        mine = self._judge(candidate, dataset)
        while not self._end(candidate, mine, dataset):
            logger.info("run %d: production has changed meanwhile; it is judged again", self._row.id)

    # -- what it learns from -----------------------------------------------------------------------------------------

    def _start(self) -> str | Path:
        """The word, file or version folder that training starts from. Raises VersionNotFound and its like."""
        init = self._row.init
        return str(init) if init in {"imagenet", "scratch"} else self._place(init)

    def _teacher(self) -> Path | None:
        """The file or version folder that training learns from, if its recipe does. Raises as `_start`."""
        teacher = self._row.options.get("teacher")
        if teacher is None:
            return None
        place = self._place(teacher)
        if not place.is_dir():  # what lies beside it is read, too
            _permitted(place.with_suffix(".json"), roots=self._settings.roots)
        return place

    def _others(self) -> OodImages | None:
        """The photos that show no car, if the run was given some. Raises DatasetError and the errors of `_place`."""
        place = self._row.options.get("other")
        if place is None:
            return None
        others = open_ood_images(self._place(place))
        for photo in others.photos:
            _permitted(photo.file, roots=self._settings.roots)
        return others

    def _place(self, name: str) -> Path:
        """A permitted file by its path, or a version's folder by its name."""
        if name.startswith("/"):
            return Path(os.fsdecode(permitted_folder(parse(name), self._settings.roots)))
        with self._runtime.database.read() as connection:
            version = versions.by_name(connection, name)
        if version is None:
            raise VersionNotFound(f"no model version {name!r}; `cars models` lists them")
        return self._runtime.artifact(version)[0]

    def _dataset(self, start: str | Path) -> Dataset:
        """The labelled photos with people's corrections, in the classes of the version that training starts from if
        it knows all of them: so it stays able to name the others."""
        options = self._row.options
        real = permitted_folder(parse(self._row.dataset), self._settings.roots)
        card = cards.read(start) if isinstance(start, Path) and start.is_dir() else None
        dataset = open_dataset(
            Path(os.fsdecode(real)),
            split_seed=options["seed"],
            min_photos=_min_photos(options),
            holdout=frozenset(card.data.holdout if card else ()),
            permitted=partial(_permitted, roots=self._settings.roots),
        )
        if dataset.left_out:
            few = ", ".join(f"{name} ({count})" for name, count in dataset.left_out.items())
            self._watch.note(f"classes left out, under {_min_photos(options)} photos to learn from: {few}")
        for file, reason in dataset.unreadable:
            self._watch.note(f"left out: {file}: {reason}")
        if card is not None:
            self._note_unknown(dataset, card)
            if set(dataset.classes) <= set(card.classes):
                dataset = dataset.ordered(card.classes)
            dataset = dataset.with_parts({name: parts.label for name, parts in card.class_parts.items()})
        self._watch.check()
        return corrected(dataset, self._runtime, folder=self._folder, watch=self._watch)

    def _note_unknown(self, dataset: Dataset, start: Card) -> None:
        """Say how many of the drawn holdout photos the version that training starts from may have learned from."""
        if dataset.split_seed is None:
            return
        holdout, known = dataset.of("holdout"), frozenset(start.data.holdout)
        unknown = sum(photo.digest not in known for photo in holdout)
        if unknown:
            self._watch.note(
                f"{unknown} of the {len(holdout)} holdout photos are not in the holdout of {start.name}, from which "
                "training starts: it may have been trained on them"
            )

    # -- what it makes -----------------------------------------------------------------------------------------------

    def _made_before(self) -> Path | None:
        """The run's version where an earlier attempt has come that far: in the store, or still in the folder."""
        digest = self._runtime.store.digest(self._name)
        if digest is not None:
            return self._runtime.store.fetch(self._name, digest)
        folder = self._folder / "version" / self._name
        return folder if folder.exists() else None

    def _make(self, dataset: Dataset, start: str | Path) -> Path:
        options = self._row.options
        for split in ("calibration", "holdout"):
            if not dataset.of(split):
                raise DatasetError(f"the data has no photos in {split!r}, without which a version cannot be judged")
        others = self._others()  # wrong ones are refused before the training
        self._watch.stage("training")
        try:
            trained = train(
                dataset,
                recipe=self._row.recipe,
                run_folder=self._folder,
                init=start,
                teacher=self._teacher(),
                epochs=self._row.epochs,
                on_progress=self._watch.trained,
                on_note=self._watch.note,
                should_stop=self._watch.to_stop,
                seed=options["seed"],
                device=_torch_device(self._runtime.device),
                pretrained=self._settings.pretrained,
                options=options["plan"],
            )
        except TrainingStopped:
            self._watch.check()
            raise
        self._watch.stage("publishing")
        return self._publish(trained, dataset, others=others)

    def _publish(self, trained: Trained, dataset: Dataset, *, others: OodImages | None) -> Path:
        def report(line: str) -> None:
            logger.info("run %d: %s", self._row.id, line)
            self._watch.check()

        out = self._folder / "version" / self._name
        publish(
            trained.weights,
            dataset=dataset,
            image_size=trained.image_sizes,
            out=out,
            recipe={**trained.report, "init": Path(self._row.init).name, "run": self._row.id},
            name=self._name,
            training_plots=trained.plots,
            ood_images=others,
            seed=self._row.options["seed"],
            report=report,
        )
        return out

    # -- what it is worth --------------------------------------------------------------------------------------------

    def _judge(self, folder: Path, dataset: Dataset) -> Judged:
        holdout = dataset.labels("holdout")
        found = accuracy_of_version(
            folder, dataset, split="holdout", engine=self._settings.engine, device=self._runtime.device
        )
        card = cards.read(folder)
        return Judged.of(card.name, found.fraction, holdout.tolist(), classes=card.classes)

    def _judge_production(self, version: Any, dataset: Dataset) -> Judged | str:
        """The live version on the same photos, or why it cannot be judged here."""
        try:
            return self._judge(self._runtime.artifact(version)[0], dataset)
        except StoreUnavailable:
            raise  # it may be there in a while
        except ModelError as exc:
            return f"{version.name}, which is in production, cannot be judged here: {exc}"

    def _end(self, folder: Path, mine: Judged, dataset: Dataset) -> bool:
        """Register, promote and end the run in one transaction; False when production is not what was judged."""
        with self._runtime.database.read() as connection:
            live = versions.production(connection)
        production = self._judge_production(live, dataset) if live is not None else None
        self._watch.check()
        card, mark = cards.verify(folder), cards.digest(folder)
        lost = [name for name in live.card["classes"] if name not in card.classes] if live is not None else []
        options = self._row.options
        verdict = compare(mine, production, lost=lost, min_gain=options["min_gain"], force=options["force"])
        self._runtime.store.put(folder, self._name)
        promote = verdict.promotable and options["promote"]
        numbers = {**asdict(mine), **_brief(card)}
        ending = training_runs.Ending(
            state=RunState.PUBLISHED if verdict.better else RunState.REJECTED,
            version_id=0,
            candidate=numbers,
            production=asdict(production) if isinstance(production, Judged) else None,
            promoted=promote,
            reason=verdict.reason,
        )
        with self._runtime.database.write() as connection:
            versions.lock(connection)
            now_live = versions.production(connection)
            if (now_live and now_live.id) != (live and live.id):
                return False
            version_id = _registered(connection, card, mark, verdict)
            if not training_runs.finish(connection, self._claim, ending._replace(version_id=version_id)):
                raise LeaseLost
            if promote:
                versions.promote(connection, version_id, reason="training")
        logger.info("run %d %s: %s: %s", self._row.id, ending.state, self._name, verdict.reason)
        return True


def _registered(connection: Any, card: Card, mark: str, verdict: Verdict) -> int:
    known = versions.by_name(connection, card.name)
    if known is not None:
        return int(known.id)
    state = VersionState.AVAILABLE if verdict.better else VersionState.REJECTED
    document = card.model_dump(mode="json")
    return versions.add(connection, name=card.name, card=document, digest=mark, location="store", state=state)


def _brief(card: Card) -> dict[str, Any]:
    """The headline numbers of a card, which are those of its shipped engine."""
    metrics = card.metrics
    return {"top5": metrics.top5, "make": metrics.make, "ece": metrics.ece, "coverage": metrics.coverage}


def _torch_device(device: str) -> str:
    return device if device.startswith("cuda") or device == "cpu" else "auto"


def _min_photos(options: Mapping[str, Any]) -> int | None:
    """Runs that were enqueued before there was this option say whether small classes are dropped."""
    before = len(SPLITS) if options.get("drop_small_classes") else None
    return options.get("min_photos", before)


def _permitted(file: Path, *, roots: Sequence[str] | None) -> None:
    """A CSV or a link may name files anywhere; workers read inside the roots only. Raises SourceNotAllowed, with the
    name as it is listed: what a link points to is not told.
    """
    if roots is not None:
        permitted_folder(Address(str(file), "", "", os.fsencode(file)), roots)


def _take_folder(settings: Settings, row: Any, attempt: int, watch: Watch) -> Path:
    """The folder of this attempt: that of the last one on this machine under a new name, or a new one.

    The name fences: a worker that has lost its lease and does not know it yet can write nothing into it any more.
    """
    root = settings.home / FOLDER
    private_folder(root)
    mine = root / f"{row.id}-{row.token}-{attempt}"
    before = sorted(root.glob(f"{row.id}-{row.token}-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    if before:
        before[-1].rename(mine)
    else:
        if attempt > 1:
            watch.note(f"attempt {attempt} starts again: the checkpoints of the last one are not on this machine")
        mine.mkdir()
    return mine
