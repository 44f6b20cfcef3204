"""Cursors: where a page of a query ended, as text that only the same query accepts."""

from __future__ import annotations

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jobs.db.queries.walks import Key
from jobs.errors import SettingsInvalid

__all__ = ["decode", "decode_values", "encode", "encode_values"]


def encode(key: Key, *, asked: Mapping[str, object]) -> str:
    """Return the cursor for what follows a key of the query `asked`."""
    value = key.value.isoformat() if isinstance(key.value, datetime) else key.value
    return encode_values((value, key.job_id, key.ordinal), asked=asked)


def decode(cursor: str, *, asked: Mapping[str, object]) -> Key:
    """Return the key of a cursor. Raises SettingsInvalid for one of another query, and for what is not a cursor."""
    value, job_id, ordinal = decode_values(cursor, asked=asked, kinds=((str, int, float, None), (int,), (int,)))
    try:
        return Key(datetime.fromisoformat(value) if isinstance(value, str) else value, job_id, ordinal)
    except ValueError as exc:
        raise _unknown(cursor) from exc


def encode_values(values: Sequence[object], *, asked: Mapping[str, object]) -> str:
    """Return the cursor for what follows these values, which JSON can hold, in the query `asked`."""
    text = json.dumps([_digest(asked), *values], separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_values(
    cursor: str, *, asked: Mapping[str, object], kinds: Sequence[Sequence[type | None]]
) -> tuple[Any, ...]:
    """Return the values of a cursor, each of one of its `kinds`. Raises SettingsInvalid as `decode` does."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        digest, *values = json.loads(urlsafe_b64decode(padded))
    except (binascii.Error, UnicodeError, ValueError, TypeError) as exc:
        raise _unknown(cursor) from exc
    found = [None if value is None else type(value) for value in values]
    if len(found) != len(kinds) or any(kind not in some for kind, some in zip(found, kinds, strict=True)):
        raise _unknown(cursor)
    if digest != _digest(asked):
        raise SettingsInvalid(
            "the cursor belongs to another query: repeat the filters and the order that it was returned for, "
            "or leave it out for the first page"
        )
    return tuple(values)


def _unknown(cursor: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"{cursor!r} is not a cursor: give the one that the page before ended with, or none for the first page"
    )


def _digest(asked: Mapping[str, object]) -> str:
    text = json.dumps(sorted((name, str(value)) for name, value in asked.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
