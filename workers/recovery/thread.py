"""The thread in every worker that recovers lost work: expired leases, lost messages; and the heartbeat."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.db.queries import batches, jobs, listings, workers
from jobs.durations import readable
from jobs.errors import DatabaseError
from jobs.queues import CLASSIFY_BATCH, FINISH_JOB, SCAN_JOB
from jobs.wake import Listener
from workers import events, fork_safety
from workers.classification.finish import end_job
from workers.notifications.delivery import Delivery
from workers.recovery.schedules import fire_schedules
from workers.runtime import Runtime
from workers.supervision import supervisor
from workers.supervision.children import ChildMonitor
from workers.supervision.supervisor import Supervisor
from workers.training.task import notify_runs, reclaim_runs

__all__ = ["Recovery", "recover"]

logger = logging.getLogger(__name__)
TICK_SECONDS = 1.0
EMBEDDED_TICK_SECONDS = 0.25  # a client in another process reaches no broker here, and may not be able to wake this one
HEARTBEAT_SECONDS = 2.0
EMBEDDED_PATIENCE = 0.5  # how long a message may be on its way before it counts as lost
PATIENCE = 2.0
SCAN_AGAIN_SECONDS = 4.0
VERDICTS_AGAIN_SECONDS = 1.0


def recover(
    runtime: Runtime,
    *,
    idle: bool,
    concurrency: int = 1,
    last_notified: dict[int, float] | None = None,
    verdicts_notified: dict[int, float] | None = None,
) -> None:
    """One pass: reclaim lost batches, keep windows full, fire schedules, send messages for work that no worker has
    started.

    `idle`: this worker has nothing to do, so a batch that is overdue has lost its message. `last_notified`: when this
    process last sent a message for the scan of which job; one is sent at once and then every few seconds, since a busy
    worker has the message already. `verdicts_notified`: the same of verdicts that are due.
    """
    _reclaim(runtime)
    with runtime.database.read() as connection:
        stalled = batches.stalled(connection)
        finishable = jobs.finishable(connection)
    for job_id in stalled:
        with runtime.database.write() as connection:
            running = jobs.lock_running(connection, job_id)
            sent = batches.dispatch(connection, job_id, window=runtime.window(connection)) if running else []
        for batch_id in sent:
            runtime.notify(CLASSIFY_BATCH, job_id, batch_id)
    for job_id in finishable:
        end_job(runtime, job_id)
    _give_up(runtime)
    fire_schedules(runtime)
    _notify_scans(runtime, {} if last_notified is None else last_notified)
    _notify_verdicts(runtime, {} if verdicts_notified is None else verdicts_notified)
    if idle:
        _notify_batches(runtime, concurrency)


def _give_up(runtime: Runtime) -> None:
    """Fail the jobs that have waited longer than CARS_GIVE_UP."""
    with runtime.database.read() as connection:
        given_up = jobs.given_up(connection, seconds=runtime.settings.give_up)
    for job_id, reason in given_up:
        with runtime.database.write() as connection:
            ended = jobs.fail(connection, job_id, f"given up after {readable(runtime.settings.give_up)}: {reason}")
            row = jobs.get(connection, job_id) if ended else None
        if row is not None:
            events.publish(events.JobFinished.of(row))


def recover_runs(runtime: Runtime, *, idle: bool, trains: bool, last_notified: dict[int, float]) -> None:
    """The same for training runs; only a worker that trains sends messages for them: no other worker would receive
    one.
    """
    reclaim_runs(runtime, _is_alive)
    if trains:
        notify_runs(runtime, last_notified, idle=idle, patience=0.0 if runtime.settings.embedded else PATIENCE)


def _reclaim(runtime: Runtime) -> None:
    with runtime.database.read() as connection:
        expired = batches.expired(connection)
        mine = batches.leased_by(connection, f"{runtime.identity}:")
        scans = jobs.scanning_owners(connection, f"{runtime.identity}:")
    crashed_ones = [(batch, job, owner) for batch, job, owner in mine if not _is_alive(owner)]
    lost: list[tuple[int, int, str | None]] = [*((batch, job, None) for batch, job in expired), *crashed_ones]
    for batch_id, job_id, owner in lost:
        with runtime.database.write() as connection:
            crashed = batches.reclaim(connection, batch_id, job_id=job_id, owner=owner)
        why = "its process crashed" if owner else "its lease expired"
        logger.warning(
            "batch %d of job %d is reclaimed: %s (%d images given up)",
            *(batch_id, job_id, why, crashed),
            extra={"job": job_id, "batch": batch_id},
        )
        end_job(runtime, job_id)
    for owner in scans:
        if not _is_alive(owner):
            with runtime.database.write() as connection:
                jobs.drop_scan_owner(connection, owner)


def _is_alive(owner: str) -> bool:
    """Return whether a process of this worker runs."""
    return supervisor.is_alive(int(owner.rpartition(":")[2]))


def _notify_scans(runtime: Runtime, last_notified: dict[int, float]) -> None:
    with runtime.database.read() as connection:
        scans = jobs.waiting_scans(connection, patience=0.0 if runtime.settings.embedded else PATIENCE)
    _notify_of(runtime, SCAN_JOB, scans, last_notified, again=SCAN_AGAIN_SECONDS)


def _notify_verdicts(runtime: Runtime, last_notified: dict[int, float]) -> None:
    """Send messages for verdicts that are due, which are not given here: this process's parent has no time for it."""
    with runtime.database.read() as connection:
        due = listings.due_jobs(connection)
    _notify_of(runtime, FINISH_JOB, due, last_notified, again=VERDICTS_AGAIN_SECONDS)


def _notify_of(
    runtime: Runtime, task: str, job_ids: Sequence[int], last_notified: dict[int, float], *, again: float
) -> None:
    """Send a message for each of the jobs, unless one was sent less than `again` seconds ago."""
    for job_id in job_ids:
        if time.monotonic() - last_notified.get(job_id, float("-inf")) > again:
            last_notified[job_id] = time.monotonic()
            runtime.notify(task, job_id)
    for job_id in last_notified.keys() - set(job_ids):
        del last_notified[job_id]


def _notify_batches(runtime: Runtime, concurrency: int) -> None:
    with runtime.database.read() as connection:
        patience = EMBEDDED_PATIENCE if runtime.settings.embedded else PATIENCE
        overdue = batches.sent_for(connection, patience=patience, limit=concurrency)
    for _ in range(overdue):
        runtime.notify(CLASSIFY_BATCH)


class Recovery:
    """Run `recover` and the heartbeat every second in a thread of the worker's parent process."""

    def __init__(
        self,
        runtime: Runtime,
        supervisor: Supervisor,
        *,
        is_idle: Callable[[], bool],
        row: Mapping[str, Any],
        monitor: ChildMonitor,
        listener: Listener | None = None,
        delivery: Delivery | None = None,
    ) -> None:
        self._runtime = runtime
        self._listener = listener
        self._delivery = delivery
        self._supervisor = supervisor
        self._monitor = monitor
        self._last_broken: str | None = None
        self._is_idle = is_idle
        self._row = dict(row)
        self._scans_notified: dict[int, float] = {}
        self._verdicts_notified: dict[int, float] = {}
        self._runs_notified: dict[int, float] = {}
        self._due = 0.0
        self._heartbeat_due = 0.0
        self._listed = False
        self._retired = False
        self._stop = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()  # an Event's lock is not safe in a signal handler
        self._thread = threading.Thread(target=self._run, name="recover", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        fork_safety.protect(self._runtime.database)
        self._thread.start()
        if self._delivery is not None:
            self._delivery.start()

    def retire(self) -> None:
        """Do not count as alive any more: the worker ends what it has begun. Safe in a signal handler."""
        self._retired = True
        self._due = 0.0
        self._wake()

    def stop(self) -> None:
        """End the thread; the heartbeat row is taken away."""
        self._stop.set()
        self._wake()
        if self._delivery is not None:
            self._delivery.stop()
        self._thread.join()
        self._monitor.close()
        if self._listener is not None:
            self._listener.close()
        self._forget()

    def leave(self) -> None:
        """For the thread itself: the children have been killed, and this process becomes another worker."""
        try:
            _reclaim(self._runtime)
        except DatabaseError as exc:
            logger.warning("what this worker had claimed is reclaimed when its leases expire: %s", exc)
        self._forget()

    def _run(self) -> None:
        interval = EMBEDDED_TICK_SECONDS if self._runtime.settings.embedded else TICK_SECONDS
        while not self._stop.is_set():
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + interval
                with fork_safety.fork_lock:
                    self._tick()
            self._pause()

    def _pause(self) -> None:
        """Wait for the next tick, or until this thread is woken."""
        readers: list[int | Listener] = [self._wake_reader]
        if self._listener is not None:
            readers.append(self._listener)
        ready, _, _ = select.select(readers, [], [], max(0.0, self._due - time.monotonic()))
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        if self._listener is not None and self._listener in ready:
            self._listener.drain()
            self._due = 0.0

    def _wake(self) -> None:
        os.write(self._wake_writer, b"\n")

    def _tick(self) -> None:
        try:
            self._monitor.tick()
            if self._retired:
                self._supervisor.ending()
                self._forget()
                _reclaim(self._runtime)
                return
            if self._monitor.broken is None:
                self._supervisor.check()  # first, and only reading: a child may block every write
            self._heartbeat()
            concurrency = self._row["concurrency"]
            can_work = self._monitor.broken is None and self._is_idle()
            recover(
                self._runtime,
                idle=can_work,
                concurrency=concurrency,
                last_notified=self._scans_notified,
                verdicts_notified=self._verdicts_notified,
            )
            trains = "train" in self._row["queues"].split(",")
            recover_runs(self._runtime, idle=self._is_idle(), trains=trains, last_notified=self._runs_notified)
            if self._delivery is not None:
                self._delivery.look()
        except DatabaseError as exc:
            logger.warning("recovery waits: %s", exc)
        except Exception:
            logger.exception("recovery failed; it continues at the next tick")

    def _heartbeat(self) -> None:
        if time.monotonic() < self._heartbeat_due and self._monitor.broken == self._last_broken:
            return
        self._last_broken = self._monitor.broken
        self._heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
        with self._runtime.database.write(durable=False) as connection:
            workers.heartbeat(connection, {**self._row, **self._monitor.row()})
        self._listed = True

    def _forget(self) -> None:
        if not self._listed:
            return
        self._listed = False
        try:
            with self._runtime.database.write() as connection:
                workers.forget(connection, self._runtime.identity)
        except DatabaseError as exc:
            logger.warning("the heartbeat row stays until it is old: %s", exc)
