"""The shapes that users rely on, from rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs import records
from jobs.records import JobStatus, Result, SkippedSuffix, WorkerStatus

START = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


def job_row(**changes: object) -> Any:  # in place of a row of SQLAlchemy
    fields = {
        "id": 7,
        "name": "photos",
        "state": "running",
        "source": "/photos",
        "model_version": "v1",
        "total": 10,
        "ok": 3,
        "failed": 1,
        "canceled": 0,
        "cached": 2,
        "unchanged": 0,
        "incremental": False,
        "skipped": 4,
        "skipped_suffixes": {".mp4": 1, "": 3},
        "error": None,
        "waiting": None,
        "notified": None,
        "waiting_since": None,
        "created_at": START,
        "started_at": START,
        "finished_at": None,
        "now": START + timedelta(seconds=8),
    }
    return SimpleNamespace(**{**fields, **changes})


def image_row(**changes: object) -> Any:  # in place of a row of SQLAlchemy
    fields = {
        "job_id": 7,
        "path": "a.jpg",
        "listing": None,
        "status": "ok",
        "model_version": "v1",
        "top_k": 2,
        "label": "BMW M3 Coupe 2012",
        "make": "BMW",
        "model": "M3",
        "body": "Coupe",
        "year": 2012,
        "confidence": 0.75,
        "decision": "model",
        "content_hash": b"\xab" * 32,
        "finished_at": START,
        "correction": "BMW M3 Sedan 2012",
        "error_code": None,
        "error_message": None,
        "probabilities": np.array([0.75, 0.25, 0], "<f2").tobytes(),
    }
    return SimpleNamespace(**{**fields, **changes})


def test_status_of_a_running_job() -> None:
    assert JobStatus.from_row(job_row()).to_dict() == {
        "id": "7",
        "name": "photos",
        "state": "running",
        "source": "/photos",
        "model_version": "v1",
        "total": 10,
        "ok": 3,
        "failed": 1,
        "canceled": 0,
        "pending": 6,
        "cached": 2,
        "skipped": 4,
        "images_per_second": 0.5,
        "eta_seconds": 12.0,
        "created_at": "2026-01-02T03:04:05.678Z",
        "started_at": "2026-01-02T03:04:05.678Z",
        "finished_at": None,
        "waiting": None,
        "unchanged": None,
        "notified": None,
        "error": None,
    }


def test_unchanged_images_are_counted_where_a_job_is_compared_with_an_earlier_one() -> None:
    assert JobStatus.from_row(job_row(incremental=True, unchanged=2)).unchanged == 2
    assert JobStatus.from_row(job_row(incremental=True)).unchanged == 0


def test_status_of_a_job_that_waits() -> None:
    row = job_row(waiting="/photos does not exist", waiting_since=START)
    clock = START.astimezone().strftime("%H:%M")
    assert JobStatus.from_row(row).waiting == f"since {clock}: /photos does not exist"
    row = job_row(waiting="/photos does not exist", waiting_since=START - timedelta(days=2))
    waiting = JobStatus.from_row(row).waiting
    assert waiting is not None
    assert waiting.startswith("since 2025-12-3")


def test_status_before_and_after() -> None:
    queued = JobStatus.from_row(job_row(state="queued", total=0, ok=0, failed=0, started_at=None))
    assert (queued.images_per_second, queued.eta_seconds, queued.pending) == (None, None, 0)
    begun = JobStatus.from_row(job_row(ok=0, failed=0))
    assert (begun.images_per_second, begun.eta_seconds) == (None, None)
    ended = JobStatus.from_row(job_row(ok=9, finished_at=START + timedelta(seconds=5)))
    assert (ended.images_per_second, ended.eta_seconds, ended.pending) == (2.0, 0.0, 0)


def test_result_of_a_classified_image() -> None:
    result = Result.from_row(image_row(), classes=["A", "B", "C"], top_k=None)
    assert result.to_dict() == {
        "job": "7",
        "path": "a.jpg",
        "listing": None,
        "status": "ok",
        "label": "BMW M3 Coupe 2012",
        "make": "BMW",
        "model": "M3",
        "body": "Coupe",
        "year": 2012,
        "confidence": 0.75,
        "decision": "model",
        "top": [{"label": "A", "confidence": 0.75}, {"label": "B", "confidence": 0.25}],
        "model_version": "v1",
        "content_hash": "ab" * 32,
        "finished_at": "2026-01-02T03:04:05.678Z",
        "correction": "BMW M3 Sedan 2012",
        "error": None,
    }
    assert len(Result.from_row(image_row(), classes=["A", "B", "C"], top_k=9).top) == 3


def test_result_of_a_failed_image() -> None:
    car = dict.fromkeys(("label", "make", "model", "body", "year", "confidence", "decision", "probabilities"))
    row = image_row(**car, status="failed", content_hash=None, error_code="truncated", error_message="ends at byte 9")
    result = Result.from_row(row, classes=["A"], top_k=None).to_dict()
    assert result["error"] == {"code": "truncated", "message": "ends at byte 9"}
    assert result["top"] == []
    assert [result[name] for name in (*car, "content_hash") if name != "probabilities"] == [None] * 8


@given(
    st.lists(st.floats(0, 1, width=16), min_size=1, max_size=40),
    st.integers(min_value=1, max_value=50),
)
def test_top_is_the_best_in_order(values: list[float], k: int) -> None:
    names = [str(i) for i in range(len(values))]
    top = records.top_labels(np.array(values, "<f2").tobytes(), classes=names, k=k)
    found = [(-one["confidence"], int(one["label"])) for one in top]
    assert found == sorted((-value, i) for i, value in enumerate(values))[:k]


def test_times_are_utc() -> None:
    assert records.iso(datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))) == "2026-06-01T10:00:00.000Z"
    assert records.iso(None) is None


def test_a_worker_is_alive_by_its_heartbeat() -> None:
    fields = {"id": "x", "host": "h", "pid": 1, "queues": "control,classify", "concurrency": 1, "device": "cpu"}
    fields |= {"broken": None, "images_per_second": 2.5}
    for age, alive in ((-3, True), (14.9, True), (15.0, False)):
        now = START + timedelta(seconds=age)
        row: Any = SimpleNamespace(**fields, release="1", seen_at=START, now=now, alive=alive)
        shape = WorkerStatus.from_row(row, work=())
        assert (shape.state, shape.images_per_second) == ("idle", 2.5)
        assert (shape.alive, shape.last_seen_seconds) == (alive, max(age, 0.0))
        assert shape.queues == ["control", "classify"]


def test_what_a_worker_does() -> None:
    fields = {"id": "x", "host": "h", "pid": 1, "queues": "classify", "concurrency": 2, "device": "cpu", "release": "1"}
    row: Any = SimpleNamespace(**fields, images_per_second=None, broken=None, seen_at=START, now=START, alive=True)
    work = ["job 1, batch 2", "job 1, batch 3"]
    assert WorkerStatus.from_row(row, work=work).state == "job 1, batch 2; job 1, batch 3"
    row.broken = "no GPU"
    assert WorkerStatus.from_row(row, work=work).state == "broken: no GPU"


def test_skipped_files_by_suffix_the_most_first() -> None:
    assert [row.to_dict() for row in SkippedSuffix.from_job(job_row())] == [
        {"job": "7", "suffix": None, "files": 3},
        {"job": "7", "suffix": ".mp4", "files": 1},
    ]
