"""A client and a local worker that answer from memory, and `Cars`, which runs commands against them.

The client has the shape that commands need of the real one (`jobs.cli.context.CommandClient`), which mypy checks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, Unpack

from typer.testing import CliRunner
from typer.testing import Result as Run

from jobs.cli.app import app
from jobs.cli.context import Dependencies
from jobs.errors import CarClassifierError, JobNotFound, NotPossible, RunNotFound, ScheduleNotFound, WorkerFailed
from jobs.listings import ListingFilters
from jobs.metrics import Exposition
from jobs.records import (
    CheckResult,
    Correction,
    Difference,
    FailedImage,
    Fire,
    ImageFailure,
    ImportedCorrections,
    JobStatus,
    Listing,
    ListingDetails,
    ModelVersion,
    Promotion,
    Result,
    Retagging,
    Schedule,
    ScheduleDetail,
    SharedContent,
    SkippedSuffix,
    TrainingStatus,
    WorkerStatus,
)
from jobs.report import Written
from jobs.results import Page, ResultFilters
from jobs.settings import Settings, load
from jobs.states import FireOutcome, ImageErrorCode, JobState, RunState, VersionState
from jobs.summary import SummaryRow

STATUS = JobStatus(
    id="7", name="photos", state=JobState.COMPLETED, source="/photos", model_version="resnet34-1",
    total=3, ok=3, failed=0, canceled=0, pending=0, cached=0, skipped=0, waiting=None,
    images_per_second=40.0, eta_seconds=None, created_at="2026-01-02T03:04:05+00:00",
    started_at="2026-01-02T03:04:06+00:00", finished_at="2026-01-02T03:04:10+00:00", error=None,
)  # fmt: skip
RUNNING = replace(STATUS, state=JobState.RUNNING, ok=1, pending=2, eta_seconds=1.0, finished_at=None)
SOME_FAILED = replace(STATUS, state=JobState.COMPLETED_WITH_ERRORS, ok=2, failed=1)
WORKER = WorkerStatus(
    id="w", host="h", pid=1, queues=["control", "classify"], concurrency=1, device="cpu",
    release="1", state="idle", images_per_second=None, last_seen_seconds=1.0, alive=True,
)  # fmt: skip
RUN = TrainingStatus(
    id="3", state=RunState.PUBLISHED, stage=None, dataset="/cars", recipe="finetune", init="v1", epoch=2, epochs=2,
    epochs_run=2, epoch_share=0.0, train_loss=0.5, valid_loss=0.4, accuracy=0.9, images_per_second=None,
    network_images_per_second=None, eta_seconds=None, notes=["left out: a.jpg: not an image"], curve=[],
    model_version="finetune-3-abc", promoted=True, candidate={"top1": 0.9}, production={"top1": 0.8},
    reason="top-1 90.00%", error=None, cancel_requested=False, attempt=1, created_at="2026-01-02T03:04:05Z",
    started_at="2026-01-02T03:04:06Z", finished_at="2026-01-02T03:05:06Z",
)  # fmt: skip
_WITHOUT_VERSION = replace(
    RUN, model_version=None, promoted=False, candidate=None, production=None, reason=None, notes=[]
)
RUN_FAILED = replace(_WITHOUT_VERSION, state=RunState.FAILED, error="/cars has one class")
RUN_CANCELED = replace(_WITHOUT_VERSION, state=RunState.CANCELED)
RUN_RUNNING = replace(_WITHOUT_VERSION, state=RunState.RUNNING, stage="training", epoch=1, finished_at=None)
A_SCHEDULE = Schedule(
    name="nightly", source="/photos", cron="0 2 * * *", every=None, timezone="Europe/Berlin", paused=False,
    next_at="2026-01-03T01:00:00.000Z", last_at="2026-01-02T01:00:00.000Z", last_outcome=FireOutcome.SKIPPED,
    last_reason="job 6 is still running", last_job=None,
)  # fmt: skip
A_LEDGER = ScheduleDetail(
    **A_SCHEDULE.to_dict(),
    ledger=[
        Fire(due_at="2026-01-02T01:00:00.000Z", outcome=FireOutcome.SKIPPED, reason="job 6 is still running", job=None),
        Fire(due_at="2026-01-01T01:00:00.000Z", outcome=FireOutcome.FIRED, reason=None, job="6"),
    ],
)
A_RESULT = Result(
    job="7", path="a.jpg", listing=None, status="ok", label="Acura TL Sedan 2012", make="Acura",
    model="TL", body="Sedan", year=2012, confidence=0.875, decision="model",
    top=[{"label": "Acura TL Sedan 2012", "confidence": 0.875}, {"label": "BMW M3 Coupe 2012", "confidence": 0.1}],
    model_version="resnet34-1", content_hash="00", finished_at="2026-01-02T03:04:07.000Z", correction=None, error=None,
)  # fmt: skip


def a_result(path: str, **changes: Any) -> Result:
    return replace(A_RESULT, path=path, **changes)


A_FAILURE = a_result(
    "bad.jpg", status="failed", label=None, make=None, model=None, body=None, year=None, confidence=None, decision=None,
    top=[], error=ImageFailure(code=ImageErrorCode.TRUNCATED, message="the file ends too early"),
)  # fmt: skip


A_LISTING = Listing(
    job="7", listing="a", complete=True, label="Acura TL Sedan 2012", make="Acura", model="TL", body="Sedan", year=2012,
    confidence=0.9375, decision="model", agreement=1.0, photos=2, used=1, failed=1, conflict=False, photo="a.jpg",
    source="model", model_version="resnet34-1", updated_at="2026-01-02T03:04:07.000Z",
)  # fmt: skip


@dataclass
class FakeResults:
    rows: Iterable[Result]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.rows)

    paged = True

    def page(self, after: str | None = None, *, limit: int = 100) -> Page:
        first = int(after or 0)
        rows = list(self.rows)
        following = str(first + limit) if first + limit < len(rows) else None
        return Page(rows[first : first + limit], following)

    def count(self) -> int:
        return len(list(self.rows))

    def counts(self) -> dict[str, dict[str, int]]:
        def count(values: Iterable[Any]) -> dict[str, int]:
            return dict(Counter(value for value in values if value is not None).most_common())

        rows = list(self.rows)
        return {
            "status": count(row.status for row in rows),
            "decision": count(row.decision for row in rows),
            "make": count(row.make for row in rows if row.decision in ("model", "make")),
            "code": count(row.error.code for row in rows if row.error),
        }

    def write(self, path: str | Path) -> int:
        return Path(path).write_text("".join(json.dumps(row.to_dict()) + "\n" for row in self.rows))


@dataclass
class FakeJob:
    """Answers `status()` with the client's statuses in turn, the last one for ever; a callable is called first."""

    client: FakeClient
    id: str = "7"

    def status(self) -> JobStatus:
        steps = self.client.statuses
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        return step() if callable(step) else step

    def results(self, **wanted: Unpack[ResultFilters]) -> FakeResults:
        return FakeResults(list(self.client.rows)[: wanted.get("limit")])

    def report(self, path: Path, *, images: int) -> Written:
        path.write_text(f"a report with {images} images")
        return Written(images=images, note=self.client.note)

    def cancel(self) -> JobStatus:
        return replace(STATUS, state=JobState.CANCELED, ok=1, canceled=2)

    def retry(self) -> JobStatus:
        return RUNNING

    def skipped(self) -> list[SkippedSuffix]:
        return self.client.skipped

    def delete(self) -> None:
        raise NotPossible("job 7 is running; cancel it first: cars cancel 7")


@dataclass
class FakeVerdicts:
    rows: Iterable[Listing]

    def __iter__(self) -> Iterator[Listing]:
        return iter(self.rows)

    def write(self, path: str | Path) -> int:
        return Path(path).write_text("".join(json.dumps(row.to_dict()) + "\n" for row in self.rows))


@dataclass
class FakeListings:
    client: FakeClient

    def find(self, job: str | None = None, **wanted: Unpack[ListingFilters]) -> FakeVerdicts:
        self.client.asked = {"job": job} | {name: value for name, value in wanted.items() if value not in (None, False)}
        return FakeVerdicts(self.client.verdicts)

    def get(self, listing: str) -> ListingDetails:
        return ListingDetails(verdict=A_LISTING, top=A_RESULT.top, images=[A_RESULT, A_FAILURE])

    def duplicates(self, job: str) -> Iterator[SharedContent]:
        return iter([SharedContent(job=job, content_hash="00", listings=["a", "b"], paths=["a/1.jpg", "b/1.jpg"])])


@dataclass
class FakeCorrections:
    client: FakeClient

    def remove(self, image: str) -> Correction:
        self.client.asked = {"removed": image}
        return Correction(content_hash="00", label="BMW M3 Coupe 2012", job=None, path=None, created_at="")

    def import_file(
        self, file: Path, *, new_class: bool = False, skip_bad: bool = False, author: str | None = None
    ) -> ImportedCorrections:
        self.client.asked = {"file": file, "new_class": new_class, "author": author}
        return ImportedCorrections(taken=1234, bad=["labels.csv, line 3: no such image"] if skip_bad else [])


@dataclass
class FakeRun:
    """Answers `status()` with the client's run statuses in turn, the last one for ever; an error is raised."""

    client: FakeClient
    id: str = "3"

    def status(self) -> TrainingStatus:
        steps = self.client.run_statuses
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return step

    def cancel(self) -> TrainingStatus:
        return self.status()


@dataclass
class FakeSchedules:
    """Knows one schedule."""

    client: FakeClient

    def add(self, name: str, source: str, **options: Any) -> Schedule:
        self.client.asked = {"name": name, "source": source} | {k: v for k, v in options.items() if v}
        return A_SCHEDULE

    def list(self) -> Sequence[Schedule]:
        return [A_SCHEDULE]

    def show(self, name: str) -> ScheduleDetail:
        if name != "nightly":
            raise ScheduleNotFound(f"no schedule {name!r}; `cars schedule list` lists them")
        return A_LEDGER

    def pause(self, name: str) -> Schedule:
        return replace(A_SCHEDULE, paused=True, next_at=None)

    def resume(self, name: str) -> Schedule:
        return A_SCHEDULE

    def run(self, name: str, *, accept_shrink: bool = False) -> FakeJob:
        self.client.asked = {"accept_shrink": accept_shrink}
        return FakeJob(self.client)

    def remove(self, name: str) -> None:
        self.client.asked = {"removed": name}


@dataclass
class FakeClient:
    statuses: list[JobStatus | Callable[[], JobStatus]] = field(default_factory=lambda: [STATUS])
    run_statuses: list[TrainingStatus | Exception] = field(default_factory=lambda: [RUN_RUNNING, RUN])
    rows: Iterable[Result] = field(default_factory=lambda: [a_result("a.jpg"), a_result("b.jpg")])
    verdicts: Iterable[Listing] = field(default_factory=lambda: [A_LISTING])
    alive: list[WorkerStatus] = field(default_factory=lambda: [WORKER])
    skipped: list[SkippedSuffix] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    retaggings: list[Retagging] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=lambda: {"name": "resnet34-1", "metrics": {"top1": 0.9}})
    refusal: CarClassifierError | None = None
    note: str | None = None
    submitted: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None
    pruned: timedelta | None = None
    settings: Settings = field(default_factory=lambda: load(broker_url="memory://"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    @property
    def schedules(self) -> FakeSchedules:
        return FakeSchedules(self)

    def submit(self, source: str | list[str], *, reuse: bool = False, **options: Any) -> FakeJob:
        if self.refusal and not reuse:
            raise self.refusal
        self.submitted = {"source": source, **options}
        return FakeJob(self)

    def job(self, id: str) -> FakeJob:
        if id != "7":
            raise JobNotFound(f"no job {id}; to see all: cars jobs")
        return FakeJob(self)

    def jobs(self, *, state: str | None = None, limit: int | None = None) -> Iterator[JobStatus]:
        return iter([status for status in (STATUS, SOME_FAILED) if state in (None, status.state)][:limit])

    def results(self, job: str | None = None, **wanted: Unpack[ResultFilters]) -> FakeResults:
        self.asked = {"job": job} | {name: value for name, value in wanted.items() if value not in (None, False)}
        return FakeResults(self.rows)

    def summary(
        self, job: str | None = None, *, by: str | None = None, since: str | None = None, limit: int | None = None
    ) -> list[SummaryRow]:
        self.asked = {"job": job, "by": by, "since": since, "limit": limit}
        return [
            SummaryRow(by=by, value=by and "BMW", images=1234, ok=1200, failed=34, mean_confidence=0.9, decided=0.75)
        ]

    def errors(self, job: str) -> Iterator[FailedImage]:
        return iter([FailedImage(job=job, path="bad.jpg", code="truncated", message="the file ends too early")])

    def retag(
        self,
        job: str | None = None,
        *,
        stale: bool = False,
        model: str | None = None,
        trial: bool = False,
        dry_run: bool = False,
    ) -> list[Retagging]:
        self.asked = {"job": job, "stale": stale, "model": model, "trial": trial, "dry_run": dry_run}
        return self.retaggings

    def diff(self, job: str, before: str, after: str) -> Iterator[Difference]:
        self.asked = {"job": job, "versions": (before, after)}
        return iter(self.differences)

    def models(self) -> list[ModelVersion]:
        return [ModelVersion(name="resnet34-1", production=True, state=VersionState.AVAILABLE, top1=0.9,
                             created_at=None, registered_at="2026-01-02T03:04:05+00:00")]  # fmt: skip

    def model_card(self, name: str = "production") -> dict[str, Any]:
        return self.card

    def promote(self, name: str) -> None:
        pass

    def retire(self, name: str, *, undo: bool = False) -> None:
        pass

    def rollback(self) -> str:
        return "resnet34-0"

    def history(self) -> list[Promotion]:
        return [Promotion(model_version="resnet34-1", since=STATUS.created_at, until=None, reason="first")]

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
        self.pruned = None if dry_run else older_than
        return {"jobs": 2, "predictions": 9}

    def train(self, dataset: str, **options: Any) -> FakeRun:
        self.asked = {"dataset": dataset, **options}
        return FakeRun(self)

    def training(self, id: str) -> FakeRun:
        if id != "3":
            raise RunNotFound(f"no training run {id!r}")
        return FakeRun(self)

    def trainings(self, *, limit: int | None = None) -> Iterator[TrainingStatus]:
        return iter([RUN, RUN_FAILED][:limit])

    @property
    def listings(self) -> FakeListings:
        return FakeListings(self)

    @property
    def corrections(self) -> FakeCorrections:
        return FakeCorrections(self)

    def label(self, image: str, label: str, *, new_class: bool = False, author: str | None = None) -> Correction:
        if not new_class:
            raise NotPossible(f"{label!r} is not a class that is known")
        self.asked = {"image": image, "label": label, "author": author}
        return Correction(content_hash="00", label=label, job=None, path=None, created_at=STATUS.created_at)

    def export_labels(self, file: Path) -> int:
        return 5

    def workers(self) -> list[WorkerStatus]:
        return self.alive

    def metrics(self) -> Exposition:
        raise NotPossible("metrics are of a database")

    def migrate(self, *, report: Callable[[int, int], None] | None = None) -> dict[str, str | None]:
        if report is not None:
            report(3, 4)
        return {"from": None, "to": "0001", "model_version": "resnet34-1"}

    def check(self) -> list[CheckResult]:
        return self.checks


@dataclass
class FakeWorker:
    """Remembers what was done with it; a `failure` makes it one that ends by itself."""

    failure: str | None = None
    log: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.log.append("start")

    def running(self) -> bool:
        if "start" in self.log and self.failure:
            raise WorkerFailed(self.failure)
        return "start" in self.log

    def dismiss(self) -> None:
        self.log.append("dismiss")

    def stop(self, *, patience: float) -> None:
        self.log.append("stop")


@dataclass
class Cars:
    """Runs commands against one fake client."""

    client: FakeClient = field(default_factory=FakeClient)
    worker: FakeWorker = field(default_factory=FakeWorker)
    became: list[str] | None = None
    asked: list[str] | None = None
    answer: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Run:
        def become(program: Sequence[str]) -> None:
            self.became = list(program)

        def ask(program: Sequence[str]) -> dict[str, Any]:
            self.asked = list(program)
            return self.answer

        outside = Dependencies(
            client=lambda: self.client,
            local_worker=lambda: self.worker,
            training_worker=lambda: self.worker,
            become=become,
            ask=ask,
        )
        return CliRunner().invoke(app, list(arguments), obj=outside, catch_exceptions=False)


def rows_of(result: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]
