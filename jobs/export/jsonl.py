"""JSON, an object per line or one array."""

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO, TextIO

from jobs.export.columns import Columns, Top, each_value
from jobs.export.rows import Row, json_text, text_over

__all__ = ["print_json", "top_texts", "write_json", "write_jsonl"]

_FIELDS = (
    "job", "path", "listing", "status", "label", "make", "model", "body", "year", "confidence", "decision", "top",
    "model_version", "content_hash", "finished_at", "correction", "error",
)  # fmt: skip


def write_jsonl(pages: Iterable[Columns], stream: BinaryIO) -> int:
    """Write pages of results, one object per line; return how many."""
    return _write(pages, stream, start="", between="\n", end="\n", nothing="")


def write_json(pages: Iterable[Columns], stream: BinaryIO) -> int:
    """Write pages of results as one array; return how many."""
    return _write(pages, stream, start="[\n", between=",\n", end="\n]\n", nothing="[]\n")


def _write(pages: Iterable[Columns], stream: BinaryIO, *, start: str, between: str, end: str, nothing: str) -> int:
    count = 0
    with text_over(stream) as text:
        for page in pages:
            if page.rows:
                text.write(between if count else start)
                text.write(between.join(_objects(page)))
                count += page.rows
        text.write(end if count else nothing)
    return count


def _objects(page: Columns) -> Iterator[str]:
    """Yield each row of a page as the JSON object that `Result.to_dict` gives."""
    texts = page.cells(json_text)
    texts["top"] = top_texts(page.top)
    errors = zip(page.values["error_code"], texts["error_code"], texts["error_message"], strict=True)
    texts["error"] = [
        "null" if code is None else f'{{"code": {code_text}, "message": {message_text}}}'
        for code, code_text, message_text in errors
    ]
    named = (each_value(f'"{name}": {{}}'.format, texts[name]) for name in _FIELDS)
    return map("{{{}}}".format, map(", ".join, zip(*named, strict=True)))


def top_texts(top: Top) -> list[str]:
    """Return each row's most probable labels as JSON."""
    numbers = map(_float16, top.confidences.view("u2").tolist())
    names = [f'{{"label": {json_text(name)}, "confidence": ' for name in top.names]
    entries = [f"{names[at]}{number}}}" for at, number in zip(top.chosen.tolist(), numbers, strict=True)]
    return [f"[{', '.join(some)}]" for some in top.rows(entries)]


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


@lru_cache(maxsize=1 << 16)
def _float16(bits: int) -> str:
    """Return a float16, of which there are so many, as JSON."""
    return json_text(struct.unpack("<e", bits.to_bytes(2, "little"))[0])
