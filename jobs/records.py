"""Rows of the database as the shapes that users rely on: results, statuses, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from jobs.redaction import redacted
from jobs.states import ImageStatus

__all__ = ["Result", "Top", "failure", "iso", "result", "skipped", "status", "version", "worker"]


class Top(TypedDict):
    """One of the most probable labels."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is known of one image of one job. `label` to `decision` are None unless `status` is `ok`; `finished_at` (ISO
    8601 in UTC) is None while it is `pending`; `correction` is the label that a person gave to this content."""

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
    top: list[Top]
    model_version: str
    content_hash: str | None
    finished_at: str | None
    correction: str | None
    error: dict[str, str] | None

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def result(row: Any, *, classes: Sequence[str], top_k: int | None) -> Result:
    """A row of `queries.results.page`, with the classes of its model version in the card's order."""
    failed = row.status == ImageStatus.FAILED
    return Result(
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
        top=top(row.probabilities, classes=classes, k=top_k or row.top_k) if row.probabilities is not None else [],
        model_version=row.model_version,
        content_hash=row.content_hash.hex() if row.content_hash is not None else None,
        finished_at=iso(row.finished_at),
        correction=row.correction,
        error={"code": row.error_code, "message": row.error_message or ""} if failed else None,
    )


def top(probabilities: bytes, *, classes: Sequence[str], k: int) -> list[Top]:
    """The k most probable labels, the best first; equal ones in the card's order."""
    import numpy as np

    values = np.frombuffer(probabilities, dtype="<f2").astype(np.float64)
    best = np.argsort(-values, kind="stable")[:k]
    return [{"label": classes[i], "confidence": float(values[i])} for i in best]


def status(row: Any) -> dict[str, Any]:
    """A row of `queries.jobs.get` as a status. The rate is that of the whole run so far; times are ISO 8601 in UTC."""
    done = row.ok + row.failed
    pending = row.total - done - row.canceled
    end = row.finished_at or row.now
    seconds = (end - row.started_at).total_seconds() if row.started_at else 0.0
    rate = done / seconds if seconds > 0 and done else None
    running = row.finished_at is None
    return {
        "id": str(row.id),
        "name": row.name,
        "state": row.state,
        "source": redacted(row.source),
        "model_version": row.model_version,
        "total": row.total,
        "ok": row.ok,
        "failed": row.failed,
        "canceled": row.canceled,
        "pending": pending,
        "cached": row.cached,
        "skipped": row.skipped,
        "images_per_second": round(rate, 2) if rate else None,
        "eta_seconds": round(pending / rate, 1) if running and rate else (None if running else 0.0),
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "waiting": _waiting(row),
        "unchanged": None,  # until a job can be compared with an earlier one
        "notified": None,  # until the end of a job can be told to somebody
        "error": row.error,
    }


def _waiting(row: Any) -> str | None:
    """Why nothing of the job can be done at present, and since when, by this machine's clock."""
    if row.waiting is None:
        return None
    since = row.waiting_since.astimezone()
    form = "%H:%M" if row.now - row.waiting_since < timedelta(hours=12) else "%Y-%m-%d %H:%M"
    return f"since {since.strftime(form)}: {row.waiting}"


def failure(row: Any, job_id: int) -> dict[str, str]:
    """A failed image."""
    return {"job": str(job_id), "path": row.path, "code": row.error_code, "message": row.error_message or ""}


def skipped(row: Any) -> list[dict[str, Any]]:
    """How many files of a row of `queries.jobs.get` are no images, by suffix (None: they have none), most first."""
    counts = sorted(row.skipped_suffixes.items(), key=lambda item: (-item[1], item[0]))
    return [{"job": str(row.id), "suffix": suffix or None, "files": files} for suffix, files in counts]


def version(row: Any, *, production: bool) -> dict[str, Any]:
    """A model version as a line of the registry's list."""
    metrics: Mapping[str, Any] = row.card.get("metrics") or {}
    return {
        "name": row.name,
        "production": production,
        "state": row.state,
        "top1": metrics.get("top1"),
        "created_at": row.card.get("created_at"),
        "registered_at": iso(row.registered_at),
    }


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with a `Z`, or None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def worker(row: Any, *, work: Sequence[str], alive_seconds: float) -> dict[str, Any]:
    """A worker's heartbeat row. `work`: what its processes have in hand."""
    age = max((row.now - row.seen_at).total_seconds(), 0.0)
    return {
        "id": row.id,
        "host": row.host,
        "pid": row.pid,
        "queues": row.queues.split(","),
        "concurrency": row.concurrency,
        "device": row.device,
        "release": row.release,
        "state": f"broken: {row.broken}" if row.broken is not None else "; ".join(work) or "idle",
        "images_per_second": row.images_per_second,
        "last_seen_seconds": round(age, 1),
        "alive": age < alive_seconds,
    }
