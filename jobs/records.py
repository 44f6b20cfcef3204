"""Records that users rely on: frozen, and each with the JSON object that the command line prints for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self, TypeAlias, TypedDict, overload

from jobs.durations import written
from jobs.redaction import redacted
from jobs.states import FireOutcome, ImageErrorCode, ImageFailure, ImageStatus, JobState, RunState, VersionState

__all__ = [
    "CheckResult",
    "Correction",
    "FailedImage",
    "Fire",
    "ImageFailure",
    "JobStatus",
    "Json",
    "ModelVersion",
    "Promotion",
    "Record",
    "Result",
    "RunOptions",
    "RunProgress",
    "Schedule",
    "ScheduleDetail",
    "Selected",
    "SkippedSuffix",
    "TopLabel",
    "TrainingStatus",
    "WorkerStatus",
    "iso",
    "top_labels",
]

Json: TypeAlias = dict[str, Any]
"""A JSON object, whose values are whatever JSON has."""

Selected: TypeAlias = Any
"""A record of `jobs.db.queries`, which lies above this module."""


class Record:
    """A frozen object with named fields."""

    __slots__: tuple[str, ...] = ()
    _json_names: ClassVar[Mapping[str, str]] = {}  # of fields whose name in JSON is another

    def to_dict(self) -> Json:
        """Return the record as a JSON object."""
        names = self._json_names
        return {names.get(name, name): _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Record) else value


class TopLabel(TypedDict):
    """One of the most probable labels."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Record):
    """What is known of one image of one job.

    `label` to `decision` are None unless `status` is `ok`; `finished_at` (ISO 8601 in UTC) is None while it is
    `pending`; `correction` is the label that a person gave to this content.
    """

    job: str
    path: str
    listing: str | None
    status: str
    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    confidence: float | None
    decision: str | None
    top: list[TopLabel]
    model_version: str
    content_hash: str | None
    finished_at: str | None
    correction: str | None
    error: ImageFailure | None

    def to_dict(self) -> Json:
        """Return the result as a JSON object; there may be millions, so that only `error` is asked what it is."""
        found = {name: getattr(self, name) for name in self.__slots__}
        if self.error is not None:
            found["error"] = self.error.to_dict()
        return found

    @classmethod
    def from_row(cls, row: Selected, *, classes: Sequence[str], top_k: int | None) -> Self:
        """Make one of a row of `queries.results.page` and the classes of its model version in the card's order."""
        failed = row.status == ImageStatus.FAILED
        predicted = row.probabilities is not None
        return cls(
            job=str(row.job_id),
            path=row.path,
            listing=row.listing,
            status=row.status,
            label=row.label,
            make=row.make,
            model=row.model,
            body=row.body,
            year=row.year,
            confidence=row.confidence,
            decision=row.decision,
            top=top_labels(row.probabilities, classes=classes, k=top_k or row.top_k) if predicted else [],
            model_version=row.model_version,
            content_hash=row.content_hash.hex() if row.content_hash is not None else None,
            finished_at=iso(row.finished_at),
            correction=row.correction,
            error=ImageFailure(code=ImageErrorCode(row.error_code), message=row.error_message or "")
            if failed
            else None,
        )


def top_labels(probabilities: bytes, *, classes: Sequence[str], k: int) -> list[TopLabel]:
    """Return the k most probable labels, the best first; equal ones in the card's order."""
    import numpy as np  # slow to load, and no status needs it

    values = np.frombuffer(probabilities, dtype="<f2").astype(np.float64)
    best = np.argsort(-values, kind="stable")[:k]
    return [{"label": classes[i], "confidence": float(values[i])} for i in best]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedImage(Record):
    """A failed image of a job."""

    job: str
    path: str
    code: str
    message: str

    @classmethod
    def from_row(cls, row: Selected, *, job_id: int) -> Self:
        """Make one of a row of `queries.results.errors`."""
        return cls(job=str(job_id), path=row.path, code=row.error_code, message=row.error_message or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSuffix(Record):
    """How many files of a job's source are not images and end in `suffix` (None: have none)."""

    job: str
    suffix: str | None
    files: int

    @classmethod
    def from_job(cls, row: Selected) -> list[Self]:
        """List those of a row of `queries.jobs.get`, the most files first."""
        counts = sorted(row.skipped_suffixes.items(), key=lambda item: (-item[1], item[0]))
        return [cls(job=str(row.id), suffix=suffix or None, files=files) for suffix, files in counts]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus(Record):
    """How far a job is, as one moment saw it. Times are ISO 8601 in UTC.

    `images_per_second` is the rate of the whole job so far; `waiting` says why nothing of it can be done at present;
    `notified` is how far it is that its URL is told of its end: None, `pending`, `delivered` or `given_up`.
    """

    id: str
    name: str
    state: JobState
    source: str
    model_version: str
    total: int
    ok: int
    failed: int
    canceled: int
    pending: int
    cached: int
    skipped: int
    images_per_second: float | None
    eta_seconds: float | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    waiting: str | None
    unchanged: int | None = None  # until a job can be compared with an earlier one
    notified: str | None = None
    error: str | None

    @property
    def done(self) -> int:
        """How many images have a result; a canceled one has none."""
        return self.ok + self.failed

    @property
    def how_far(self) -> str:
        """The state and the count of images in words."""
        return f"it is {self.state}, {self.total - self.pending:,} of {self.total:,} images are done"

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.jobs.get`."""
        done = row.ok + row.failed
        pending = row.total - done - row.canceled
        end = row.finished_at or row.now
        seconds = (end - row.started_at).total_seconds() if row.started_at else 0.0
        rate = done / seconds if seconds > 0 and done else None
        running = row.finished_at is None
        return cls(
            id=str(row.id),
            name=row.name,
            state=JobState(row.state),
            source=redacted(row.source),
            model_version=row.model_version,
            total=row.total,
            ok=row.ok,
            failed=row.failed,
            canceled=row.canceled,
            pending=pending,
            cached=row.cached,
            skipped=row.skipped,
            images_per_second=round(rate, 2) if rate else None,
            eta_seconds=round(pending / rate, 1) if running and rate else (None if running else 0.0),
            created_at=iso(row.created_at),
            started_at=iso(row.started_at),
            finished_at=iso(row.finished_at),
            waiting=_waiting(row),
            notified=row.notified,
            error=row.error,
        )


def _waiting(row: Selected) -> str | None:
    """Why nothing of the job can be done at present, and since when, by this machine's clock."""
    if row.waiting is None:
        return None
    since = row.waiting_since.astimezone()
    form = "%H:%M" if row.now - row.waiting_since < timedelta(hours=12) else "%Y-%m-%d %H:%M"
    return f"since {since.strftime(form)}: {row.waiting}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Record):
    """A source that is classified again and again, and what came of its newest due time. Times are ISO 8601 in UTC.

    Either `cron` and `timezone` are given, or `every`; `next_at` is None while it is paused.
    """

    name: str
    source: str
    cron: str | None
    every: str | None
    timezone: str | None
    paused: bool
    next_at: str | None
    last_at: str | None
    last_outcome: FireOutcome | None
    last_reason: str | None
    last_job: str | None

    @classmethod
    def from_row(cls, row: Selected, **more: Any) -> Self:
        """Make one of a row of `queries.schedules`."""
        return cls(
            name=row.name,
            source=redacted(row.source),
            cron=row.cron,
            every=None if row.every is None else written(timedelta(seconds=row.every)),
            timezone=row.timezone,
            paused=row.paused,
            next_at=None if row.paused else iso(row.next_at),
            last_at=iso(row.last_at),
            last_outcome=row.last_outcome and FireOutcome(row.last_outcome),
            last_reason=row.last_reason,
            last_job=None if row.last_job is None else str(row.last_job),
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire(Record):
    """A row of a schedule's ledger: what came of a due time. `reason` says why it was skipped; `job` is None for a job
    that was deleted, too.
    """

    due_at: str
    outcome: FireOutcome
    reason: str | None
    job: str | None

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.schedules.ledger`."""
        job = None if row.job_id is None else str(row.job_id)
        return cls(due_at=iso(row.due_at), outcome=FireOutcome(row.outcome), reason=row.reason, job=job)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDetail(Schedule):
    """A schedule with the newest rows of its ledger, newest first."""

    ledger: Sequence[Fire]

    def to_dict(self) -> Json:
        """Return the schedule as a JSON object, with its ledger."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        return own | {"ledger": [row.to_dict() for row in self.ledger]}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Record):
    """What was asked of a training run besides its data set, recipe, start and epochs; see `Client.train`."""

    min_gain: float = 0.0
    teacher: str | None = None
    other: str | None = None
    force: bool = False
    promote: bool = True
    min_photos: int | None = None
    seed: int = 0
    plan: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe's plan, whose types `model` checks


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress(Record):
    """How far a training run has come; losses and rates are the newest."""

    stage: str | None = None
    epoch: int = 0
    epochs: int | None = None
    epochs_run: int = 0
    epoch_share: float | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    accuracy: float | None = None
    images_per_second: float | None = None
    network_images_per_second: float | None = None
    eta_seconds: float | None = None
    notes: Sequence[str] = ()

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Make one of what a worker has stored; a field that it does not know is left out."""
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus(Record):
    """How far a training run is. Losses and rates are the newest; times are ISO 8601 in UTC.

    `candidate` and `production` are what the new version and the one in production reach on the holdout.
    """

    id: str
    state: RunState
    stage: str | None
    dataset: str
    recipe: str
    init: str
    epoch: int
    epochs: int | None
    epochs_run: int
    epoch_share: float | None
    train_loss: float | None
    valid_loss: float | None
    accuracy: float | None
    images_per_second: float | None
    network_images_per_second: float | None
    eta_seconds: float | None
    notes: list[str]
    model_version: str | None
    promoted: bool
    candidate: Json | None
    production: Json | None
    reason: str | None
    error: str | None
    cancel_requested: bool
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None

    @property
    def how_far(self) -> str:
        """The state and the count of epochs in words."""
        return f"it is {self.state}, {self.epoch} of {self.epochs or '?'} epochs are done"

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.training_runs.get`."""
        progress = RunProgress.from_json(row.progress or {})
        running = row.state == RunState.RUNNING
        return cls(
            id=str(row.id),
            state=RunState(row.state),
            stage=(progress.stage or "starting") if running else None,
            dataset=row.dataset,
            recipe=row.recipe,
            init=row.init,
            epoch=progress.epoch,
            epochs=row.epochs if progress.epochs is None else progress.epochs,
            epochs_run=progress.epochs_run,
            epoch_share=progress.epoch_share,
            train_loss=progress.train_loss,
            valid_loss=progress.valid_loss,
            accuracy=progress.accuracy,
            images_per_second=progress.images_per_second if running else None,
            network_images_per_second=progress.network_images_per_second if running else None,
            eta_seconds=progress.eta_seconds if running else None,
            notes=list(progress.notes),
            model_version=row.model_version,
            promoted=row.promoted,
            candidate=row.candidate,
            production=row.production,
            reason=row.reason,
            error=row.error,
            cancel_requested=row.cancel_requested,
            attempt=row.attempt,
            created_at=iso(row.created_at),
            started_at=iso(row.started_at),
            finished_at=iso(row.finished_at),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion(Record):
    """A model version as a line of the registry; `top1` is its accuracy on the holdout, by its card."""

    name: str
    production: bool
    state: VersionState
    top1: float | None
    created_at: str | None
    registered_at: str

    @classmethod
    def from_row(cls, row: Selected, *, production: bool) -> Self:
        """Make one of a row of `queries.versions`."""
        metrics: Mapping[str, Any] = row.card.get("metrics") or {}
        return cls(
            name=row.name,
            production=production,
            state=VersionState(row.state),
            top1=metrics.get("top1"),
            created_at=row.card.get("created_at"),
            registered_at=iso(row.registered_at),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion(Record):
    """That a version was in production from `since` until `until` (None: until now), and why it became so."""

    model_version: str
    since: str
    until: str | None
    reason: str

    _json_names: ClassVar[Mapping[str, str]] = {"since": "from"}  # a keyword of Python


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus(Record):
    """A worker that was seen in the last week, and what its processes do; alive while its heartbeat is fresh."""

    id: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    device: str
    release: str
    state: str
    images_per_second: float | None
    last_seen_seconds: float
    alive: bool

    @property
    def broken(self) -> bool:
        """Whether it takes no batches, for the reason that `state` gives."""
        return self.state.startswith("broken")

    @property
    def takes_batches(self) -> bool:
        """Whether it is alive, classifies and is not broken."""
        return self.alive and "classify" in self.queues and not self.broken

    @property
    def trains(self) -> bool:
        """Whether it is alive and takes training runs."""
        return self.alive and "train" in self.queues

    @classmethod
    def from_row(cls, row: Selected, *, work: Sequence[str]) -> Self:
        """Make one of a row of `queries.workers.page`; `work` is what its processes do."""
        age = max((row.now - row.seen_at).total_seconds(), 0.0)
        return cls(
            id=row.id,
            host=row.host,
            pid=row.pid,
            queues=row.queues.split(","),
            concurrency=row.concurrency,
            device=row.device,
            release=row.release,
            state=f"broken: {row.broken}" if row.broken is not None else "; ".join(work) or "idle",
            images_per_second=row.images_per_second,
            last_seen_seconds=round(age, 1),
            alive=row.alive,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction(Record):
    """The label that a person gave to an image, by the hash of its bytes, and in which job it was seen."""

    content_hash: str
    label: str
    job: str | None
    path: str | None
    created_at: str

    @classmethod
    def from_row(cls, row: Selected) -> Self:
        """Make one of a row of `queries.corrections.page`."""
        return cls(
            content_hash=row.content_hash.hex(),
            label=row.label,
            job=None if row.job_id is None else str(row.job_id),
            path=row.path,
            created_at=iso(row.created_at),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult(Record):
    """What one check of `cars doctor` found, and what to do where it failed."""

    check: str
    ok: bool
    detail: str
    advice: str


@overload
def iso(moment: datetime) -> str: ...
@overload
def iso(moment: None) -> None: ...
def iso(moment: datetime | None) -> str | None:
    """Return the time as ISO 8601 in UTC with a `Z`, or None for none."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
