"""The Celery app: `celery -A workers.app worker -Q classify` works, and `cars worker` runs the same.

The parent of a worker never loads an engine nor touches CUDA, so that forking its children is safe; a child makes its
own runtime when it starts.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import sys
import uuid
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from billiard import current_process
from celery import signals
from celery.exceptions import WorkerShutdown
from celery.worker import state as worker_state

from jobs import schema
from jobs import settings as configuration
from jobs.broker import CLASSIFY_BATCH, FINISH_JOB, QUEUES, SCAN_JOB, TICK, TRAIN_MODEL, Doorbell, make_app
from jobs.database import Database
from jobs.errors import DatabaseError
from workers import classify, devices, finish, logs, memory, scan, self_check, train
from workers.bell import Bell
from workers.recover import Recovery, recover
from workers.runtime import Runtime
from workers.shared import Shared
from workers.watch import Watch

__all__ = ["app"]

logger = logging.getLogger(__name__)
SWITCH_SECONDS = 0.0005  # the thread that commits and infers must not wait 5 ms each time for those that decode
settings = configuration.load()
app = make_app(settings)


class _Process:
    """The one piece of state a process has."""

    identity = ""
    bell: Bell | None = None
    runtime: Runtime | None = None
    recovery: Recovery | None = None
    shared: Shared | None = None
    child_memory: int | None = None  # bytes that classifying may use in a child
    closing: mmap.mmap | None = None  # a byte that the parent shares with its children: whether it is to end


def runtime() -> Runtime:
    """This process's runtime."""
    assert _Process.bell is not None, "the worker has not started"
    if _Process.runtime is None:
        index = getattr(current_process(), "index", 0) or 0
        _Process.runtime = Runtime(
            settings,
            identity=_Process.identity,
            ring=_Process.bell.ring,
            device=devices.of_child(settings, index),
            shared=_Process.shared,
            index=index,
        )
        _Process.runtime.child_memory = None if devices.uses_cuda(settings) else _Process.child_memory
    return _Process.runtime


@app.task(name=SCAN_JOB)
def scan_job(job_id: int) -> None:
    scan.scan_job(runtime(), job_id)


@app.task(name=CLASSIFY_BATCH)
def classify_batch(_batch_id: int) -> None:
    _classify(runtime())


@app.task(name=FINISH_JOB)
def finish_job(job_id: int) -> None:
    finish.finish_job(runtime(), job_id)


@app.task(name=TRAIN_MODEL)
def train_model(run_id: int) -> None:
    train.train_model(runtime(), run_id, closing=_is_closing)


@app.task(name=TICK)
def tick() -> None:
    recover(runtime(), idle=False)


@signals.setup_logging.connect
def _setup_logging(**_kw: Any) -> None:
    logs.setup(settings.log_format)


@signals.worker_init.connect
def _init(**_kw: Any) -> None:
    _prepare()
    _Process.identity = str(uuid.uuid4())
    _Process.closing = mmap.mmap(-1, 1)
    _Process.shared = Shared()
    _Process.bell = Bell(Doorbell(settings, app=app), embedded=settings.embedded)


@signals.celeryd_init.connect
def _check(options: dict[str, Any], **_kw: Any) -> None:
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
    sys.setswitchinterval(SWITCH_SECONDS)
    _Process.runtime = None  # the parent's connections are not this process's
    _Process.recovery = None


@signals.worker_process_shutdown.connect
def _child_ends(**_kw: Any) -> None:
    if _Process.runtime is not None:
        _Process.runtime.close()


@signals.worker_ready.connect
def _ready(sender: Any, **_kw: Any) -> None:
    worker = sender.controller
    queues = sorted(app.amqp.queues.consume_from)
    row = {
        "id": _Process.identity,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "queues": ",".join(queues),
        "concurrency": worker.concurrency,
        "device": devices.shown(settings),
        "release": _release(),
    }
    assert _Process.bell is not None
    assert _Process.shared is not None
    watched = _Process.child_memory if devices.uses_cuda(settings) else None
    watch = Watch(_Process.shared, settings, resident_limit=watched)
    _Process.recovery = Recovery(runtime(), _Process.bell, is_idle=_is_idle, row=row, watch=watch)
    _Process.recovery.start()
    logger.info("ready: %d on %s, queues %s", worker.concurrency, row["device"], row["queues"])


@signals.worker_shutting_down.connect
def _shutting_down(**_kw: Any) -> None:
    if _Process.closing is not None:
        _Process.closing[0] = 1
    if _Process.recovery is not None:
        _Process.recovery.retire()


@signals.worker_shutdown.connect
def _shutdown(**_kw: Any) -> None:
    if _Process.recovery is not None:
        _Process.recovery.stop()
    if _Process.runtime is not None:
        _Process.runtime.close()


def _prepare() -> None:
    """A worker that could do nothing but fail ends here."""
    database = Database(settings.database)
    try:
        schema.prepare(database)
    except DatabaseError as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise WorkerShutdown(1) from exc
    finally:
        database.close()


def _classify(runtime: Runtime) -> bool:
    """A child whose engine failed makes room for a new process: a fault of CUDA stays with the old one."""
    found = classify.classify_batch(runtime)
    if runtime.engine_failed:
        runtime.database.close()
        os._exit(1)
    return found


def _is_closing() -> bool:
    return _Process.closing is not None and _Process.closing[0] == 1


def _is_idle() -> bool:
    return not worker_state.reserved_requests and not worker_state.active_requests


def _release() -> str:
    try:
        return version("car-classifier")
    except PackageNotFoundError:
        return "source"
