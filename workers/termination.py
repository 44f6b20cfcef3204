"""What SIGTERM and SIGINT mean to a worker before Celery listens for them, and to its children.

Nothing heavy is imported here: the handlers are set before the worker loads anything else.
"""

from __future__ import annotations

import os
import signal
from typing import Any

__all__ = ["block", "ends_at_once", "ignore"]

STOPPING = (signal.SIGTERM, signal.SIGINT)


def ends_at_once() -> None:
    """Until the worker is up, end with 0: nothing is in hand, and what is written is written in transactions."""
    for number in STOPPING:
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _end(_number: int, _frame: Any) -> None:
    os._exit(0)


def block() -> None:
    """Keep the signals waiting across an `exec`: the program that follows handles them as soon as it can."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def ignore() -> None:
    """In an engine child: whoever signals the whole process group means the parent, which lets its children finish."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
