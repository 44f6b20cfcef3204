"""A client and a local worker that answer from memory, and `Cars`, which runs commands against them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from jobs.cli.app import app
from jobs.cli.context import Session
from jobs.errors import CarClassifierError, JobNotFound, NotPossible, WorkerFailed
from jobs.settings import Settings, load

STATUS: dict[str, Any] = {
    "id": "7", "name": None, "state": "completed", "source": "/photos", "model_version": "resnet34-1",
    "total": 3, "ok": 3, "failed": 0, "canceled": 0, "pending": 0, "cached": 0, "skipped": 0,
    "waiting": None, "unchanged": None, "notified": None,
    "images_per_second": 40.0, "eta_seconds": None, "created_at": "2026-01-02T03:04:05+00:00",
    "started_at": "2026-01-02T03:04:06+00:00", "finished_at": "2026-01-02T03:04:10+00:00", "error": None,
}  # fmt: skip
RUNNING = STATUS | {"state": "running", "ok": 1, "pending": 2, "eta_seconds": 1.0, "finished_at": None}
SOME_FAILED = STATUS | {"state": "completed_with_errors", "ok": 2, "failed": 1}
WORKER = {
    "id": "w", "host": "h", "pid": 1, "queues": ["control", "classify"], "concurrency": 1, "device": "cpu",
    "release": "1", "state": "idle", "images_per_second": None, "last_seen_seconds": 1.0, "alive": True,
}  # fmt: skip


def a_result(path: str, **changes: Any) -> dict[str, Any]:
    return {
        "job": "7", "path": path, "listing": None, "status": "ok", "label": "Acura TL Sedan 2012", "make": "Acura",
        "model": "TL", "body": "Sedan", "year": 2012, "confidence": 0.875, "decision": "model",
        "top": [
            {"label": "Acura TL Sedan 2012", "confidence": 0.875}, {"label": "BMW M3 Coupe 2012", "confidence": 0.1},
        ],
        "model_version": "resnet34-1", "content_hash": "00",
        "finished_at": "2026-01-02T03:04:07.000Z", "correction": None, "error": None,
    } | changes  # fmt: skip


A_FAILURE = a_result(
    "bad.jpg", status="failed", label=None, make=None, model=None, body=None, year=None, confidence=None, decision=None,
    top=[], error={"code": "truncated", "message": "the file ends too early"},
)  # fmt: skip


class FakeResult:
    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def to_dict(self) -> dict[str, Any]:
        return self.row


class FakeResults:
    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[FakeResult]:
        return map(FakeResult, self.rows)

    def counts(self) -> dict[str, dict[str, int]]:
        def count(values: Iterable[Any]) -> dict[str, int]:
            return dict(Counter(value for value in values if value is not None).most_common())

        return {
            **{name: count(row[name] for row in self.rows) for name in ("status", "decision")},
            "make": count(row["make"] for row in self.rows if row["decision"] in ("model", "make")),
            "code": count(row["error"]["code"] for row in self.rows if row["error"]),
        }

    def write(self, path: Path) -> int:
        return Path(path).write_text("".join(json.dumps(row) + "\n" for row in self.rows))


@dataclass
class FakeJob:
    """Answers `status()` with the client's statuses in turn, the last one for ever; a callable is called first."""

    client: FakeClient
    id: str = "7"

    def status(self) -> dict[str, Any]:
        steps = self.client.statuses
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        return step() if callable(step) else step

    def results(self, *, limit: int | None = None, **_filters: Any) -> FakeResults:
        return FakeResults(self.client.rows[:limit])

    def cancel(self) -> dict[str, Any]:
        return STATUS | {"state": "canceled", "ok": 1, "canceled": 2}

    def retry(self) -> dict[str, Any]:
        return RUNNING

    def skipped(self) -> list[dict[str, Any]]:
        return self.client.skipped

    def delete(self) -> None:
        raise NotPossible("job 7 is running; cancel it first: cars cancel 7")


@dataclass
class FakeClient:
    statuses: list[dict[str, Any] | Callable[[], dict[str, Any]]] = field(default_factory=lambda: [STATUS])
    rows: list[dict[str, Any]] = field(default_factory=lambda: [a_result("a.jpg"), a_result("b.jpg")])
    alive: list[dict[str, Any]] = field(default_factory=lambda: [WORKER])
    skipped: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    refusal: CarClassifierError | None = None
    submitted: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None
    pruned: timedelta | None = None
    settings: Settings = field(default_factory=lambda: load(broker_url="memory://"))

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def submit(self, source: str | list[str], **options: Any) -> FakeJob:
        if self.refusal and not options.get("reuse"):
            raise self.refusal
        self.submitted = {"source": source, **options}
        return FakeJob(self)

    def job(self, id: str) -> FakeJob:
        if id != "7":
            raise JobNotFound(f"no job {id}; to see all: cars jobs")
        return FakeJob(self)

    def jobs(self, *, state: str | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
        return iter([status for status in (STATUS, SOME_FAILED) if state in (None, status["state"])][:limit])

    def results(self, job: str | None = None, **filters: Any) -> FakeResults:
        self.asked = {"job": job} | {name: value for name, value in filters.items() if value not in (None, False)}
        return FakeResults(self.rows)

    def errors(self, job: str) -> Iterator[dict[str, Any]]:
        return iter([{"job": job, "path": "bad.jpg", "code": "truncated", "message": "the file ends too early"}])

    def models(self) -> list[dict[str, Any]]:
        return [{"name": "resnet34-1", "production": True, "state": "available", "top1": 0.9, "created_at": None,
                 "registered_at": "2026-01-02T03:04:05+00:00"}]  # fmt: skip

    def model(self, name: str = "production") -> dict[str, Any]:
        return {"name": "resnet34-1", "metrics": {"top1": 0.9}}

    def promote(self, name: str) -> None:
        pass

    def rollback(self) -> str:
        return "resnet34-0"

    def history(self) -> list[dict[str, Any]]:
        return [{"model_version": "resnet34-1", "from": STATUS["created_at"], "until": None, "reason": "first"}]

    def prune(self, older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
        self.pruned = None if dry_run else older_than
        return {"jobs": 2, "predictions": 9}

    def workers(self) -> list[dict[str, Any]]:
        return self.alive

    def migrate(self) -> dict[str, Any]:
        return {"from": None, "to": "0001", "model_version": "resnet34-1"}

    def check(self) -> list[dict[str, Any]]:
        return self.checks


@dataclass
class FakeWorker:
    """Remembers what was done with it; `last_words` make it one that ends by itself."""

    last_words: str | None = None
    log: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.log.append("start")

    def running(self) -> bool:
        if "start" in self.log and self.last_words:
            raise WorkerFailed(self.last_words)
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

    def __call__(self, *arguments: str) -> Result:
        def become(program: Sequence[str]) -> None:
            self.became = list(program)

        doors = Session(client=lambda: self.client, local_worker=lambda: self.worker, become=become)  # type: ignore
        return CliRunner().invoke(app, list(arguments), obj=doors, catch_exceptions=False)


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]
