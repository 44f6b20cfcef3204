"""What monitoring reads, in the format of Prometheus: from the database alone, in time that does not grow with the
number of images, since totals come from the rows of jobs. Names begin with `cars_`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.db.queries import metrics, versions
from jobs.errors import DatabaseError
from jobs.queues import QUEUES
from jobs.records import RunProgress
from jobs.states import ImageErrorCode, ImageStatus, JobState
from jobs.workers import listing

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.backend import Backend
    from jobs.records import WorkerStatus

__all__ = ["CONTENT_TYPE_LATEST", "Exposition"]

GONE_SECONDS = 3600.0  # a worker that ended without saying so counts as gone for so long
_WORKER_STATES = ("idle", "working", "broken", "gone")


class Exposition:
    """The metrics of one database, as text. Safe in several threads, which take turns."""

    def __init__(self, backend: Backend) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Jobs(backend))
        self._lock = threading.Lock()

    def text(self) -> bytes:
        """Return the metrics of this moment; of a database that does not answer, `cars_database_up 0` alone."""
        with self._lock:
            return generate_latest(self._registry)


class _Jobs(Collector):
    """Asks the database at each scrape."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._classified = _Growth()
        self._parts: Sequence[Callable[[Connection], Iterator[Metric]]] = (
            _totals,
            _backlog,
            self._counters,
            _batches,
            _schedules,
            _training,
            _production,
        )

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: registering must not need the database."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, or only that the database does not answer."""
        start = time.perf_counter()
        up = GaugeMetricFamily("cars_database_up", "Whether the database answers (1) or not (0).")
        try:
            with self._backend.database.read() as connection:
                found = [metric for part in self._parts for metric in part(connection)]
            found += _workers(listing(self._backend))
        except DatabaseError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from found
        took = GaugeMetricFamily("cars_scrape_seconds", "How long the database took to answer all of this.")
        took.add_metric([], time.perf_counter() - start)
        yield took

    def _counters(self, connection: Connection) -> Iterator[Metric]:
        counted = self._classified.update(connection)
        images = CounterMetricFamily(
            "cars_images_processed", "Images that got a result since this exporter started.", labels=["status"]
        )
        images.add_metric([ImageStatus.OK], counted.ok)
        images.add_metric([ImageStatus.FAILED], counted.failed)
        yield images
        engine = CounterMetricFamily(
            "cars_engine_seconds", "Seconds of inference, of all workers together, since this exporter started."
        )
        engine.add_metric([], counted.engine_seconds)
        yield engine
        reclaimed = CounterMetricFamily(
            "cars_leases_reclaimed", "Leases of lost batches that were reclaimed since this exporter started."
        )
        reclaimed.add_metric([], counted.reclaimed)
        yield reclaimed


class _Counted(NamedTuple):
    """Counters of a job that only grow."""

    ok: int
    failed: int
    engine_seconds: float
    reclaimed: int

    @classmethod
    def of(cls, row: metrics.Progress) -> _Counted:
        return cls(row.ok, row.failed, row.engine_seconds, row.reclaimed)

    def plus(self, counted: _Counted, *, since: _Counted) -> _Counted:
        """Return the sums with what has been counted `since`."""
        return _Counted(
            ok=self.ok + max(0, counted.ok - since.ok),
            failed=self.failed + max(0, counted.failed - since.failed),
            engine_seconds=self.engine_seconds + max(0.0, counted.engine_seconds - since.engine_seconds),
            reclaimed=self.reclaimed + max(0, counted.reclaimed - since.reclaimed),
        )


_NOTHING = _Counted(0, 0, 0.0, 0)


class _Growth:
    """How much the counters of jobs have grown since the first look. A job that is deleted or tried again takes nothing
    off, as a counter must not fall.
    """

    def __init__(self) -> None:
        self._since: datetime | None = None
        self._seen: Mapping[int, _Counted] = {}
        self._grown = _NOTHING

    def update(self, connection: Connection) -> _Counted:
        """Return by how much."""
        moment = metrics.backlog(connection).now
        since = self._since or moment
        rows = metrics.progress(connection, since=since)
        for row in rows:
            counted = _Counted.of(row)
            new = _NOTHING if self._since is not None and row.created_at >= since else counted
            before = self._seen.get(row.job_id, new)
            self._grown = self._grown.plus(counted, since=before)
        self._seen = {row.job_id: _Counted.of(row) for row in rows}
        self._since = moment
        return self._grown


def _totals(connection: Connection) -> Iterator[Metric]:
    rows = {row.state: row for row in metrics.job_totals(connection)}
    jobs = GaugeMetricFamily("cars_jobs", "Jobs by state.", labels=["state"])
    for state in JobState:
        jobs.add_metric([state], rows[state].jobs if state in rows else 0)
    yield jobs
    counts = dict.fromkeys(ImageStatus, 0)
    for row in rows.values():
        counts[ImageStatus.OK] += row.ok
        counts[ImageStatus.FAILED] += row.failed
        counts[ImageStatus.CANCELED] += row.canceled
        counts[ImageStatus.PENDING] += row.total - row.ok - row.failed - row.canceled
    images = GaugeMetricFamily("cars_images", "Images of all jobs by status.", labels=["status"])
    for status, number in counts.items():
        images.add_metric([status], number)
    yield images
    failed = GaugeMetricFamily("cars_images_failed", "Failed images of all jobs by error code.", labels=["code"])
    codes = dict.fromkeys(ImageErrorCode, 0) | metrics.failures(connection)
    for code, number in codes.items():
        failed.add_metric([code], number)
    yield failed
    cached = GaugeMetricFamily("cars_images_cached", "Images, of those that are ok, whose content was known before.")
    cached.add_metric([], sum(row.cached for row in rows.values()))
    yield cached


def _backlog(connection: Connection) -> Iterator[Metric]:
    found = metrics.backlog(connection)
    images = GaugeMetricFamily("cars_backlog_images", "Images of open jobs that have no result yet.")
    images.add_metric([], found.images)
    yield images
    age = GaugeMetricFamily(
        "cars_backlog_age_seconds", "Age of the oldest job that still has something to do; 0 where there is none."
    )
    age.add_metric([], (found.now - found.oldest).total_seconds() if found.oldest else 0.0)
    yield age


def _batches(connection: Connection) -> Iterator[Metric]:
    batches = GaugeMetricFamily(
        "cars_batches_in_flight", "Batches in the windows of jobs: sent, or leased by a worker.", labels=["state"]
    )
    for state, number in metrics.in_flight(connection).items():
        batches.add_metric([state], number)
    yield batches
    overdue = GaugeMetricFamily("cars_leases_overdue", "Expired leases of batches that no worker has reclaimed.")
    overdue.add_metric([], metrics.overdue_leases(connection))
    yield overdue


def _schedules(connection: Connection) -> Iterator[Metric]:
    lag = GaugeMetricFamily("cars_schedule_lag_seconds", "For how long the most overdue schedule has been due.")
    lag.add_metric([], metrics.overdue_schedule(connection))
    yield lag
    pending = GaugeMetricFamily("cars_notifications_pending", "Notifications of jobs' ends that are to be delivered.")
    pending.add_metric([], metrics.pending_notifications(connection))
    yield pending


def _training(connection: Connection) -> Iterator[Metric]:
    runs = GaugeMetricFamily("cars_training_runs", "Training runs by state.", labels=["state"])
    for state, number in metrics.runs_by_state(connection).items():
        runs.add_metric([state], number)
    yield runs
    helps = {
        "epoch": "Epochs that a running training run has done.",
        "epochs": "Epochs that a running training run has in all.",
        "train_loss": "Newest loss on the training images.",
        "valid_loss": "Newest loss on the calibration images.",
        "accuracy": "Newest accuracy, a fraction.",
        "images_per_second": "Images per second in training.",
        "eta_seconds": "Seconds that a running training run still needs.",
    }
    families = {
        name: GaugeMetricFamily(f"cars_training_{name}", text, labels=["run", "recipe"]) for name, text in helps.items()
    }
    for run in metrics.running_runs(connection):
        progress = RunProgress.from_json(run.progress)
        for name, family in families.items():
            if (value := getattr(progress, name)) is not None:
                family.add_metric([str(run.id), run.recipe], value)
    yield from families.values()


def _production(connection: Connection) -> Iterator[Metric]:
    info = GaugeMetricFamily("cars_model_production", "The model version that new jobs use.", labels=["version"])
    if (row := versions.production(connection)) is not None:
        info.add_metric([row.name], 1)
    yield info


def _workers(found: Sequence[WorkerStatus]) -> Iterator[Metric]:
    counts = {(queue, state): 0 for queue in QUEUES for state in _WORKER_STATES}
    rate = 0.0
    for worker in found:
        if not worker.alive and worker.last_seen_seconds > GONE_SECONDS:
            continue
        rate += (worker.images_per_second or 0.0) if worker.alive else 0.0
        for queue in worker.queues:
            if (queue, _state(worker)) in counts:
                counts[queue, _state(worker)] += 1
    workers = GaugeMetricFamily(
        "cars_workers",
        "Workers by queue and state; gone: without a heartbeat, of the last hour, and not stopped.",
        labels=["queue", "state"],
    )
    for labels, number in counts.items():
        workers.add_metric(labels, number)
    yield workers
    speed = GaugeMetricFamily("cars_images_per_second", "Images per second of all workers of late.")
    speed.add_metric([], rate)
    yield speed


def _state(worker: WorkerStatus) -> str:
    if not worker.alive:
        return "gone"
    if worker.broken:
        return "broken"
    return "idle" if worker.state == "idle" else "working"
