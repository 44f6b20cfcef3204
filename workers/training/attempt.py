"""What a training run does: open the images, train, publish, evaluate, and end in one transaction."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from jobs.db.queries import training_runs, versions
from jobs.db.queries.versions import VersionRecord
from jobs.errors import VersionNotFound
from jobs.records import RunOptions
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
from workers import events
from workers.lease import LeaseLost
from workers.runtime import Runtime
from workers.training.corrections import with_corrections
from workers.training.monitor import RunMonitor
from workers.training.promotion import HoldoutAccuracy, PromotionDecision, decide
from workers.training.workspace import open_workspace

__all__ = ["TrainingAttempt"]

logger = logging.getLogger(__name__)


class TrainingAttempt:
    """One attempt at a run. The next attempt continues with what this one leaves in its folder."""

    def __init__(
        self, runtime: Runtime, claim: training_runs.Claim, run: training_runs.RunRecord, monitor: RunMonitor
    ) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._claim = claim
        self._run = run
        self._monitor = monitor
        self._options = _options_of(run)
        self._name = f"{run.recipe}-{run.id}-{run.token}"
        self._folder, continued = open_workspace(runtime.settings, run, attempt=claim.attempt)
        if claim.attempt > 1 and not continued:
            monitor.note(f"attempt {claim.attempt} starts again: no checkpoints of the last one are on this machine")

    def run(self) -> None:
        """Execute the run. Raises Stopped, LeaseLost, and whatever makes it fail."""
        self._monitor.stage("opening the images")
        start = self._start()
        dataset = self._dataset(start)
        candidate = self._published_before() or self._make(dataset, start)
        self._monitor.stage("evaluating")
        mine = self._evaluate(candidate, dataset)
        while not self._end(candidate, mine, dataset):
            logger.info("run %d: production has changed meanwhile; the new one is evaluated", self._run.id)

    def _start(self) -> str | Path:
        """Return `imagenet` or `scratch`, the file or the version folder that training starts from. Raises
        VersionNotFound and its like.
        """
        init = self._run.init
        return str(init) if init in {"imagenet", "scratch"} else self._place(init)

    def _teacher(self) -> Path | None:
        """Return the file or version folder that training learns from, if its recipe does. Raises as `_start`."""
        teacher = self._options.teacher
        if teacher is None:
            return None
        place = self._place(teacher)
        if not place.is_dir():  # what lies beside it is read, too
            _permitted(place.with_suffix(".json"), roots=self._settings.roots)
        return place

    def _ood_images(self) -> OodImages | None:
        """Return the images that show no car, if the run was given some. Raises DatasetError and the errors of
        `_place`.
        """
        place = self._options.other
        if place is None:
            return None
        ood_images = open_ood_images(self._place(place))
        for image in ood_images.images:
            _permitted(image.file, roots=self._settings.roots)
        return ood_images

    def _place(self, name: str) -> Path:
        """Return a permitted file by its path, or a version's folder by its name."""
        if name.startswith("/"):
            return Path(os.fsdecode(permitted_folder(parse(name), self._settings.roots)))
        with self._runtime.database.read() as connection:
            version = versions.by_name(connection, name)
        if version is None:
            raise VersionNotFound(f"no model version {name!r}; `cars models` lists them")
        return self._runtime.artifacts.find(version)[0]

    def _dataset(self, start: str | Path) -> Dataset:
        """Return the labelled images with people's corrections, in the classes of the version that training starts from
        if it knows all of them: so it stays able to name the others.
        """
        options = self._options
        real = permitted_folder(parse(self._run.dataset), self._settings.roots)
        card = cards.read(start) if isinstance(start, Path) and start.is_dir() else None
        dataset = open_dataset(
            Path(os.fsdecode(real)),
            split_seed=options.seed,
            min_photos=options.min_photos,
            holdout=frozenset(card.data.holdout if card else ()),
            permitted=partial(_permitted, roots=self._settings.roots),
        )
        if dataset.left_out:
            few = ", ".join(f"{name} ({count})" for name, count in dataset.left_out.items())
            self._monitor.note(f"classes left out, under {options.min_photos} images to learn from: {few}")
        for file, reason in dataset.unreadable:
            self._monitor.note(f"left out: {file}: {reason}")
        if card is not None:
            self._note_unknown(dataset, card)
            if set(dataset.classes) <= set(card.classes):
                dataset = dataset.ordered(card.classes)
            dataset = dataset.with_parts({name: parts.label for name, parts in card.class_parts.items()})
        self._monitor.check()
        return with_corrections(dataset, self._runtime, folder=self._folder, monitor=self._monitor)

    def _note_unknown(self, dataset: Dataset, start: Card) -> None:
        """Say how many of the drawn holdout images the version that training starts from may have learned from."""
        if dataset.split_seed is None:
            return
        holdout, known = dataset.of("holdout"), frozenset(start.data.holdout)
        unknown = sum(image.digest not in known for image in holdout)
        if unknown:
            self._monitor.note(
                f"{unknown} of the {len(holdout)} holdout images are not in the holdout of {start.name}, from which "
                "training starts: it may have been trained on them"
            )

    def _published_before(self) -> Path | None:
        """Return the run's version where an earlier attempt has come that far: in the store, or still in the folder."""
        digest = self._runtime.artifacts.store.digest(self._name)
        if digest is not None:
            return self._runtime.artifacts.store.fetch(self._name, digest)
        folder = self._folder / "version" / self._name
        return folder if folder.exists() else None

    def _make(self, dataset: Dataset, start: str | Path) -> Path:
        for split in ("calibration", "holdout"):
            if not dataset.of(split):
                raise DatasetError(f"the data has no images in {split!r}, without which a version cannot be evaluated")
        ood_images = self._ood_images()  # wrong ones are refused before the training
        self._monitor.stage("training")
        try:
            trained = train(
                dataset,
                recipe=self._run.recipe,
                run_folder=self._folder,
                init=start,
                teacher=self._teacher(),
                epochs=self._run.epochs,
                on_progress=self._monitor.report,
                on_note=self._monitor.note,
                should_stop=self._monitor.should_stop,
                seed=self._options.seed,
                device=_torch_device(self._runtime.device),
                pretrained=self._settings.pretrained,
                options=self._options.plan,
            )
        except TrainingStopped:
            self._monitor.check()
            raise
        self._monitor.stage("publishing")
        return self._publish(trained, dataset, ood_images=ood_images)

    def _publish(self, trained: Trained, dataset: Dataset, *, ood_images: OodImages | None) -> Path:
        def report(line: str) -> None:
            logger.info("run %d: %s", self._run.id, line)
            self._monitor.check()

        out = self._folder / "version" / self._name
        publish(
            trained.weights,
            dataset=dataset,
            image_size=trained.image_sizes,
            out=out,
            recipe={**trained.report, "init": Path(self._run.init).name, "run": self._run.id},
            name=self._name,
            training_plots=trained.plots,
            ood_images=ood_images,
            seed=self._options.seed,
            report=report,
        )
        return out

    def _evaluate(self, folder: Path, dataset: Dataset) -> HoldoutAccuracy:
        labels = dataset.labels("holdout")
        found = accuracy_of_version(
            folder, dataset, split="holdout", engine=self._settings.engine, device=self._runtime.device
        )
        card = cards.read(folder)
        return HoldoutAccuracy.of(card.name, correct=found.right, labels=labels.tolist(), classes=card.classes)

    def _evaluate_production(self, version: VersionRecord, dataset: Dataset) -> HoldoutAccuracy | str:
        """Evaluate the live version on the same images, or return why that cannot be done here."""
        try:
            return self._evaluate(self._runtime.artifacts.find(version)[0], dataset)
        except StoreUnavailable:
            raise  # it may be available later
        except ModelError as exc:
            return f"{version.name}, which is in production, cannot be evaluated here: {exc}"

    def _end(self, folder: Path, mine: HoldoutAccuracy, dataset: Dataset) -> bool:
        """Register, promote and end the run in one transaction; False when production is not what was evaluated."""
        with self._runtime.database.read() as connection:
            live = versions.production(connection)
        production = self._evaluate_production(live, dataset) if live is not None else None
        self._monitor.check()
        card, digest = cards.verify(folder), cards.digest(folder)
        lost = [name for name in live.card["classes"] if name not in card.classes] if live is not None else []
        options = self._options
        decision = decide(mine, production, lost=lost, min_gain=options.min_gain, force=options.force)
        promote = decision.promotable and options.promote
        state = RunState.PUBLISHED if decision.better else RunState.REJECTED
        self._runtime.artifacts.store.put(folder, self._name)
        with self._runtime.database.write() as connection:
            versions.lock(connection)
            now_live = versions.production(connection)
            if (now_live and now_live.id) != (live and live.id):
                return False
            version_id = _register(connection, card, digest, decision)
            ending = training_runs.Ending(
                state=state,
                version_id=version_id,
                candidate={**mine.to_dict(), **_card_metrics(card)},
                production=production.to_dict() if isinstance(production, HoldoutAccuracy) else None,
                promoted=promote,
                reason=decision.reason,
            )
            if not training_runs.finish(connection, self._claim, ending):
                raise LeaseLost
            if promote:
                versions.promote(connection, version_id, reason="training")
        ended = events.RunFinished(run=self._run.id, state=state, model_version=self._name, reason=decision.reason)
        events.publish(ended)
        if promote:
            events.publish(events.VersionPromoted(model_version=self._name, run=self._run.id, reason=decision.reason))
        return True


def _register(connection: Connection, card: Card, digest: str, decision: PromotionDecision) -> int:
    """Register the version with the files that are in the store by now; return its id."""
    state = VersionState.AVAILABLE if decision.better else VersionState.REJECTED
    document = card.model_dump(mode="json")
    version_id, _ = versions.register(
        connection, name=card.name, card=document, digest=digest, location="store", state=state
    )
    return version_id


def _card_metrics(card: Card) -> Mapping[str, float | None]:
    """Return the headline numbers of a card, which are those of its shipped engine."""
    metrics = card.metrics
    return {"top5": metrics.top5, "make": metrics.make, "ece": metrics.ece, "coverage": metrics.coverage}


def _torch_device(device: str) -> str:
    return device if device.startswith("cuda") or device == "cpu" else "auto"


def _options_of(run: training_runs.RunRecord) -> RunOptions:
    """Return a run's options; older runs say whether small classes are dropped, and not below how many images."""
    before = len(SPLITS) if run.options.get("drop_small_classes") else None
    return RunOptions.from_json({"min_photos": before, **run.options})


def _permitted(file: Path, *, roots: Sequence[str] | None) -> None:
    """A CSV or a link may name files anywhere; workers read inside the roots only. Raises SourceNotAllowed, with the
    name as it is listed: the target of a link is not disclosed.
    """
    if roots is not None:
        permitted_folder(Address(str(file), "", "", os.fsencode(file)), roots)
