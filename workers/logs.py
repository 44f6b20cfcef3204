"""Log lines of workers: text, or one JSON object per line, also of libraries; the task's id in each."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import structlog
from billiard import util
from celery import current_task
from celery.apps import worker as celery_worker
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

__all__ = ["bind", "complain", "identify", "setup", "unbind"]

logger = logging.getLogger(__name__)
QUIET = (
    *("amqp", "celery.worker.strategy", "celery.app.trace", "multiprocessing", "alembic"),
    *("botocore", "s3transfer", "urllib3", "PIL"),
)
FIELDS = ("job", "batch", "images", "seconds")  # of `extra`, and of what is bound
_constant: dict[str, str | None] = {"worker": None, "host": socket.gethostname(), "version": None}


def identify(*, worker: str, version: str) -> None:
    """What every line of this process, and of those it forks, says of where it comes from."""
    _constant.update(worker=worker, version=version)


def bind(**fields: int) -> None:
    """Let the lines of this thread say what they are about, until `unbind`."""
    structlog.contextvars.bind_contextvars(**fields)


def unbind() -> None:
    """Undo `bind`."""
    structlog.contextvars.clear_contextvars()


def complain(error: str) -> None:
    """The last line of a worker that cannot start, on stderr."""
    if os.environ.get("CARS_LOG_FORMAT") == "json":
        setup("json")
        logger.critical("%s", error)
    else:
        print(f"error: {error}", file=sys.stderr)


def setup(style: Literal["text", "json"]) -> None:
    """Configure the root logger of this process; to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_task)
    handler.setFormatter(_json() if style == "json" else _Line(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kombu").setLevel(logging.ERROR)  # it warns that the in-process broker has no host
    util.get_logger().propagate = True  # the pool's, which has handlers of its own otherwise
    logging.captureWarnings(True)
    if style == "json":
        celery_worker.safe_say = _say
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread


_TEXT = "%(asctime)s %(levelname)s %(process)d %(task)s %(name)s: %(message)s"


def _add_task(record: logging.LogRecord) -> bool:
    request = getattr(current_task, "request", None) if current_task else None
    record.task = (getattr(request, "id", None) or "-")[:8]
    return True


class _Line(logging.Formatter):
    """Text in which a message stays on its line, whatever a file's name or another's error text has in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        record.message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.message)
        return super().formatMessage(record)


def _json() -> ProcessorFormatter:
    return ProcessorFormatter(
        foreign_pre_chain=[ExtraAdder(FIELDS), structlog.contextvars.merge_contextvars],
        processors=[
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _add_origin,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )


def _add_origin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    return {**_origin(record.created, record.levelname, record.name), "task": getattr(record, "task", "-"), **event}


def _origin(created: float, level: str, name: str) -> dict[str, str | int | None]:
    return {
        "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "logger": name,
        "process": os.getpid(),
        **_constant,
    }


def _say(message: str, _file: Any = None) -> None:
    """What Celery writes past all loggers, in signal handlers: so it is written at once here, too."""
    line = _origin(datetime.now(UTC).timestamp(), "WARNING", "celery.apps.worker") | {"task": "-", "message": message}
    os.write(sys.stderr.fileno(), json.dumps(line).encode() + b"\n")


def _uncaught(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    logger.critical("this process ends: %s", kind.__name__, exc_info=(kind, value, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread else "?"
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        logger.critical("the thread %s ends: %s", name, args.exc_type.__name__, exc_info=exc_info)
