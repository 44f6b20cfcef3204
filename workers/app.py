"""The Celery app: `celery -A workers.app worker -Q classify` works, and `cars worker` runs the same.

The parent of a worker never loads an engine nor touches CUDA, so that forking its children is safe; a child makes its
own runtime when it starts.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from billiard import active_children, current_process
from celery import bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.worker import state as worker_state

from jobs import settings as configuration
from jobs.broker import make_app
from jobs.db import migrate
from jobs.db.database import Database
from jobs.errors import DatabaseError
from jobs.notifier import Notifier
from jobs.queues import CLASSIFY_BATCH, FINISH_JOB, QUEUES, SCAN_JOB, TICK, TIDY_SCHEDULE, TRAIN_MODEL
from jobs.wake import Listener
from workers import devices, event_log, footprint, logs, messages, remote_control, self_check, termination
from workers.classification import classify, finish, scan
from workers.notifications.delivery import Delivery
from workers.pipe_notifier import PipeNotifier
from workers.recovery import schedules
from workers.recovery.seeking import VERDICTS, Seeker, Work
from workers.recovery.thread import Recovery, recover
from workers.release import release
from workers.runtime import Runtime
from workers.supervision import memory, supervisor
from workers.supervision.board import Board
from workers.supervision.children import ChildMonitor
from workers.supervision.pool import kill
from workers.supervision.shared_memory import Shared
from workers.training import task

__all__ = ["app", "remote_control"]

logger = logging.getLogger(__name__)
SWITCH_SECONDS = 0.0005  # the thread that commits and infers must not wait 5 ms each time for those that decode
RECYCLE = 0x9B  # the exit code of a child that the pool replaces silently
if "celery.bin.worker" in sys.modules and "worker" in sys.argv:  # `celery -A workers.app worker`
    termination.ends_at_once()
settings = configuration.load()
footprint.keep_to(settings.home)
messages.register()
event_log.start()
app = make_app(settings)
app.conf.update(
    worker_consumer="workers.messages:GuardedConsumer",
    worker_pool="workers.supervision.pool:TaskPool",
    worker_proc_alive_timeout=60.0,  # a child may come up slowly on a busy machine
    worker_lost_wait=2.0,
)


class _Process:
    """The one piece of state that a process has."""

    identity = ""
    notifier: PipeNotifier | None = None
    board: Board | None = None  # shared by the parent with its children
    runtime: Runtime | None = None
    recovery: Recovery | None = None  # the parent's
    seeker: Seeker | None = None  # a child's
    shared: Shared | None = None
    child_memory: int | None = None  # bytes that classifying may use in a child
    asked = False  # whether this worker was asked to end


def runtime() -> Runtime:
    """This process's runtime."""
    assert _Process.notifier is not None, "the worker has not started"
    if _Process.runtime is None:
        index = getattr(current_process(), "index", 0) or 0
        _Process.runtime = Runtime(
            settings,
            identity=_Process.identity,
            notify=_Process.notifier.notify,
            device=devices.of_child(settings, index),
            shared=_Process.shared,
            index=index,
        )
        _Process.runtime.child_memory = None if devices.uses_cuda(settings) else _Process.child_memory
    return _Process.runtime


def _execute(work: Callable[[Runtime], object]) -> None:
    """Do what a message asks for. A worker that is to end begins nothing more: its messages are lost, the work is
    not.
    """
    if _Process.seeker is None:
        work(runtime())
        return
    with _Process.seeker.turn():
        if not _is_closing():
            work(runtime())
    logs.unbind()


@app.task(name=SCAN_JOB)
def scan_job(*ids: object) -> None:
    if known := messages.numbers(ids, task=SCAN_JOB):
        _execute(lambda runtime: scan.scan_job(runtime, known[0]))


@app.task(name=CLASSIFY_BATCH)
def classify_batch(*ids: object) -> None:
    """Classify the batch that the claim decides on; `ids` (its job and its number when the message was sent) are for
    Celery's tools to show.
    """
    if messages.numbers(ids, task=CLASSIFY_BATCH, at_least=0) is not None:
        _execute(_classify)


@app.task(name=FINISH_JOB)
def finish_job(*ids: object) -> None:
    if known := messages.numbers(ids, task=FINISH_JOB):
        _execute(lambda runtime: finish.finish_job(runtime, known[0]))


@app.task(name=TRAIN_MODEL)
def train_model(*ids: object) -> None:
    if known := messages.numbers(ids, task=TRAIN_MODEL):
        _execute(lambda runtime: task.train_model(runtime, known[0], closing=_is_closing))


@app.task(name=TIDY_SCHEDULE)
def tidy_schedule(*ids: object) -> None:
    if known := messages.numbers(ids, task=TIDY_SCHEDULE):
        _execute(lambda runtime: schedules.tidy_schedule(runtime, known[0]))


@app.task(name=TICK)
def tick(*_ids: object) -> None:
    _execute(lambda runtime: recover(runtime, idle=False))


def _train_and_end(run_id: int) -> None:
    """For the seeker: as after a message, a new process has all of the memory."""
    if task.train_model(runtime(), run_id, closing=_is_closing):
        runtime().close()
        os._exit(RECYCLE)


def _work(queues: Sequence[str]) -> dict[str, Work]:
    work: dict[str, Work] = {
        "control": lambda job_id: scan.scan_job(runtime(), job_id),
        "classify": lambda _: _classify(runtime()),
        "train": _train_and_end,
    }
    served = {queue: work[queue] for queue in queues if queue in work}
    if "control" in served:
        served[VERDICTS] = lambda job_id: finish.finish_job(runtime(), job_id)
    return served


@signals.celeryd_init.connect
def _before_start(instance: Any, **_kw: Any) -> None:
    """Before Celery writes its first line."""
    logs.setup(settings.log_format)
    if settings.log_format == "json":
        instance.quiet = True  # no banner


@signals.setup_logging.connect
def _setup_logging(**_kw: Any) -> None:
    logs.setup(settings.log_format)


@signals.worker_init.connect
def _init(**_kw: Any) -> None:
    _prepare()
    _Process.identity = str(uuid.uuid4())
    logs.identify(worker=_Process.identity, version=release())
    _Process.board = Board()
    _Process.shared = Shared()
    _Process.notifier = PipeNotifier(Notifier(settings, app=app))


@signals.celeryd_init.connect
def _check(options: Mapping[str, Any], **_kw: Any) -> None:
    """A worker whose engine does not work ends here, before it has threads or children."""
    names = options.get("queues") or QUEUES
    if "classify" not in (names.split(",") if isinstance(names, str) else names):
        return
    _prepare()
    if reason := self_check.fault_in_child(settings):
        print(f"error: this worker cannot classify: {reason}", file=sys.stderr)
        raise WorkerShutdown(1)


@signals.celeryd_after_setup.connect
def _before_children(instance: Any, **_kw: Any) -> None:
    _Process.child_memory = memory.child_limit(settings, children=instance.concurrency)


@signals.worker_process_init.connect
def _child(**_kw: Any) -> None:
    termination.ignore()
    sys.setswitchinterval(SWITCH_SECONDS)
    _Process.runtime = None  # the parent's connections are not this process's
    _Process.recovery = None
    assert _Process.board is not None
    slot = getattr(current_process(), "index", 0) or 0
    _Process.seeker = Seeker(runtime, _Process.board, slot=slot, work=_work(sorted(app.amqp.queues.consume_from)))
    _Process.seeker.start()


@signals.worker_process_shutdown.connect
def _child_ends(**_kw: Any) -> None:
    if _Process.seeker is not None:
        _Process.seeker.finish()
    if _Process.runtime is not None:
        _Process.runtime.close()


@signals.worker_ready.connect
def _ready(sender: Any, **_kw: Any) -> None:
    if _Process.recovery is not None:  # Celery is ready again each time it has found the broker again
        return
    worker = sender.controller
    queues = sorted(app.amqp.queues.consume_from)
    row = {
        "id": _Process.identity,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "queues": ",".join(queues),
        "concurrency": worker.concurrency,
        "device": devices.describe(settings),
        "release": release(),
    }
    assert _Process.notifier is not None
    assert _Process.shared is not None
    resident_limit = _Process.child_memory if devices.uses_cuda(settings) else None
    monitor = ChildMonitor(_Process.shared, settings, resident_limit=resident_limit)
    _Process.notifier.start()
    supervisor = _supervisor(worker, queues)
    _Process.recovery = Recovery(
        runtime(),
        supervisor,
        is_idle=_is_idle,
        row=row,
        monitor=monitor,
        listener=_listener(),
        delivery=Delivery(runtime()),
    )
    _Process.recovery.start()
    logger.info("ready: %d on %s, queues %s", worker.concurrency, row["device"], row["queues"])


def _listener() -> Listener | None:
    return Listener(settings.home) if settings.embedded else None


def _supervisor(worker: Any, queues: Sequence[str]) -> supervisor.Supervisor:
    assert _Process.board is not None
    return supervisor.Supervisor(
        _Process.board,
        supervisor.OpenWork(runtime().database, identity=_Process.identity, queues=queues),
        concurrency=worker.concurrency,
        stall_seconds=settings.stall_seconds,
        pool=lambda: _pids(worker),
        start_anew=lambda: _start_anew(worker),
    )


def _pids(worker: Any) -> list[int]:
    pool = worker.pool._pool  # noqa: SLF001 - Celery has no public list of pids
    return [child.pid for child in pool._pool if child.pid] if pool is not None else []  # noqa: SLF001 - as above


def _start_anew(worker: Any) -> None:
    """The last resort; what this worker was asked to do stands, also if that is to end."""
    termination.block()
    pids = _pids(worker)
    kill(pids)
    if _Process.asked:
        os._exit(0)
    supervisor.reap(pids)
    if _Process.recovery is not None:
        _Process.recovery.leave()
    supervisor.run_again()


@signals.worker_shutting_down.connect
def _shutting_down(**_kw: Any) -> None:
    """In the signal handler."""
    _Process.asked = True
    if _Process.recovery is None:  # it is starting, perhaps waiting for the broker: nothing is in hand
        kill(child.pid for child in active_children())
        os._exit(0)
    _retire()


def _retire() -> None:
    if _Process.board is not None:
        _Process.board.close_worker()
    if _Process.recovery is not None:
        _Process.recovery.retire()


class _Closing(bootsteps.StartStopStep):
    """However it came to that: from the moment this worker ends, its children begin nothing more."""

    def close(self, _worker: Any) -> None:
        _retire()


app.steps["worker"].add(_Closing)


@signals.worker_shutdown.connect
def _shutdown(sender: Any, **_kw: Any) -> None:
    if _Process.recovery is not None:
        if sender.exitcode == 1 and not _Process.asked:
            logger.error("Celery gave up, for the reason above: this worker starts anew")
            _start_anew(sender)
        _Process.recovery.stop()
    if _Process.notifier is not None:
        _Process.notifier.stop()
    if _Process.runtime is not None:
        _Process.runtime.close()


def _prepare() -> None:
    """A worker that could do nothing but fail ends here."""
    database = Database(settings.database)
    try:
        migrate.prepare(database)
    except DatabaseError as exc:
        logs.complain(str(exc))
        raise WorkerShutdown(1) from exc
    finally:
        database.close()


def _classify(runtime: Runtime) -> bool:
    """Classify a batch; a child whose engine failed is replaced: a fault of CUDA stays with the old process."""
    found = classify.classify_batch(runtime)
    if runtime.engine_failed:
        runtime.database.close()
        os._exit(RECYCLE)
    return found


def _is_closing() -> bool:
    return _Process.board is not None and _Process.board.closing


def _is_idle() -> bool:
    return not worker_state.reserved_requests and not worker_state.active_requests
