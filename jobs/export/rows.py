"""Rows of results: their columns, and what formats of text share."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

from jobs.records import Json

__all__ = ["COLUMNS", "LISTING_COLUMNS", "Row", "flat", "is_result", "json_text", "text_over"]

COLUMNS = (
    "job", "path", "listing", "status", "label", "make", "model", "body", "year", "confidence", "decision", "top",
    "model_version", "content_hash", "finished_at", "correction", "error_code", "error_message",
)  # fmt: skip
"""The columns of a result where there are columns: its fields, and `error` taken apart."""

LISTING_COLUMNS = (
    "job", "listing", "complete", "label", "make", "model", "body", "year", "confidence", "decision", "agreement",
    "photos", "used", "failed", "conflict", "photo", "source", "model_version", "updated_at",
)  # fmt: skip
"""The columns of a verdict on a listing: its fields."""

Row = Mapping[str, Any]

_SHAPE = frozenset(COLUMNS) - {"error_code", "error_message"} | {"error"}


def is_result(row: Row) -> bool:
    """Return whether a row has the fields of a result, as `Result.to_dict` gives them."""
    return row.keys() >= _SHAPE


def flat(result: Row) -> Json:
    """Return a result with `error` taken apart into `error_code` and `error_message`."""
    error = result["error"] or {}
    row = {name: value for name, value in result.items() if name != "error"}
    return row | {"error_code": error.get("code"), "error_message": error.get("message")}


_ENCODE = {ascii_only: json.JSONEncoder(ensure_ascii=ascii_only, default=str).encode for ascii_only in (False, True)}


def json_text(value: object, *, ascii_only: bool = False) -> str:
    """Return a value as JSON on one line."""
    return _ENCODE[ascii_only](value)


@contextmanager
def text_over(stream: BinaryIO) -> Iterator[TextIO]:
    """Yield text in UTF-8 over a stream of bytes, which stays open; what is not UTF-8 is written as escapes."""
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()
