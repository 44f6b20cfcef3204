"""What many open pages ask for again and again, asked of the database once for all of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

__all__ = ["Recent"]

SECONDS = 1.0  # pages ask every two
MOST = 256
T = TypeVar("T")


class Recent:
    """Answers that are at most a second old. Safe in several threads, of which one asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def get(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Return what was asked under this key of late, or ask. What `ask` raises is not kept."""
        with self._lock:
            asked_at, found = self._kept.get(key, (0.0, None))
            if not asked_at or time.monotonic() - asked_at > SECONDS:
                found = ask()
                self._kept[key] = (time.monotonic(), found)
                self._kept.move_to_end(key)
                if len(self._kept) > MOST:
                    self._kept.popitem(last=False)
            return cast("T", found)
