"""Cursors: where a page of a query ended, as text that only the same query accepts."""

from __future__ import annotations

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime

from jobs.db.queries.walks import Key
from jobs.errors import SettingsInvalid

__all__ = ["decode", "encode"]


def encode(key: Key, *, asked: Mapping[str, object]) -> str:
    """Return the cursor for what follows a key of the query `asked`."""
    value = key.value.isoformat() if isinstance(key.value, datetime) else key.value
    text = json.dumps([_digest(asked), value, key.job_id, key.ordinal], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *, asked: Mapping[str, object]) -> Key:
    """Return the key of a cursor. Raises SettingsInvalid for one of another query, and for what is not a cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        digest, value, job_id, ordinal = json.loads(urlsafe_b64decode(padded))
        key = Key(datetime.fromisoformat(value) if isinstance(value, str) else value, int(job_id), int(ordinal))
    except (binascii.Error, UnicodeError, ValueError, TypeError) as exc:
        raise SettingsInvalid(
            f"{cursor!r} is not a cursor: give the one that the page before ended with, or none for the first page"
        ) from exc
    if digest != _digest(asked):
        raise SettingsInvalid(
            "the cursor belongs to another query: repeat the filters and the order that it was returned for, "
            "or leave it out for the first page"
        )
    return key


def _digest(asked: Mapping[str, object]) -> str:
    text = json.dumps(sorted((name, str(value)) for name, value in asked.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
