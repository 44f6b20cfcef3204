"""JSON, an object per line or one array."""

from collections.abc import Iterable
from typing import BinaryIO, TextIO

from jobs.export.rows import Row, json_text, text_over

__all__ = ["print_json", "write_json", "write_jsonl"]


def write_jsonl(results: Iterable[Row], stream: BinaryIO) -> int:
    """Write results, one object per line; return how many."""
    with text_over(stream) as text:
        return print_json(results, text, array=False)


def write_json(results: Iterable[Row], stream: BinaryIO) -> int:
    """Write results as one array; return how many."""
    with text_over(stream) as text:
        return print_json(results, text, array=True)


def print_json(rows: Iterable[Row], stream: TextIO, *, array: bool, ascii_only: bool = False) -> int:
    """Write rows as they come, in an array or one per line; return how many."""
    start, between, end = ("[\n", ",\n", "\n]\n") if array else ("", "\n", "\n")
    count = 0
    for count, row in enumerate(rows, start=1):
        stream.write(f"{between if count > 1 else start}{json_text(row, ascii_only=ascii_only)}")
    if count:
        stream.write(end)
    elif array:
        stream.write("[]\n")
    return count
