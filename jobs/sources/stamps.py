"""Stamps: what a listing says of a file that changes when its bytes do, so that an unchanged one is not read again."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["SETTLED_SECONDS", "of_item", "of_object", "of_status"]

SETTLED_SECONDS = 10.0
"""A time that is younger may be that of the next change, too: some file systems and stores count in seconds."""

_ETAGS = ("etag", "ETag")
_TIMES = ("mtime", "last_modified", "LastModified", "updated")


def of_status(status: os.stat_result) -> str | None:
    """Return the stamp of a local file, `size:mtime_ns:ctime_ns`; None while a time is under `SETTLED_SECONDS` old.

    The change time also tells of a file that was replaced by one with the size and modification time of the old.
    """
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    if newest > time.time_ns() - int(SETTLED_SECONDS * 1e9):
        return None
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def of_object(size: int | None, etag: str | None) -> str | None:
    """Return the stamp of an object in a store, `size:ETag`; None without one of them."""
    quoted = '"'
    return f"{size}:{etag.strip(quoted)}" if size is not None and etag else None


def of_item(item: Mapping[str, Any]) -> str | None:
    """Return the stamp of a file as an fsspec listing describes it: its size with an ETag, else with a time; None where
    it says neither, or a time under `SETTLED_SECONDS` old.
    """
    size = item.get("size")
    etag = next((item[name] for name in _ETAGS if isinstance(item.get(name), str)), None)
    if etag:
        return of_object(size, etag)
    moment = next((item[name] for name in _TIMES if item.get(name) is not None), None)
    changed = _seconds(moment)
    if size is None or changed is None or changed > time.time() - SETTLED_SECONDS:
        return None
    return f"{size}:{moment}"


def _seconds(moment: object) -> float | None:
    """Return a time as seconds since 1970; None for what is not one."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment) if isinstance(moment, int | float) else None
