"""Log lines of workers: text, or a JSON object a line; the task's id in each."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from celery import current_task

__all__ = ["setup"]

QUIET = ("amqp", "celery.worker.strategy", "celery.app.trace", "alembic", "botocore", "s3transfer", "urllib3", "PIL")


def setup(style: Literal["text", "json"]) -> None:
    """Configure the root logger of this process; to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_task)
    handler.setFormatter(_Json() if style == "json" else _Line(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kombu").setLevel(logging.ERROR)  # it warns that the in-process broker has no host


_TEXT = "%(asctime)s %(levelname)s %(process)d %(task)s %(name)s: %(message)s"


def _add_task(record: logging.LogRecord) -> bool:
    request = getattr(current_task, "request", None) if current_task else None
    record.task = (getattr(request, "id", None) or "-")[:8]
    return True


class _Line(logging.Formatter):
    """Text in which a message stays on its line, whatever a file's name or another's error text has in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = "".join(c if c.isprintable() else repr(c)[1:-1] for c in record.message)
        return super().formatMessage(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "task": getattr(record, "task", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
