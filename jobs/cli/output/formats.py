"""What commands say: rows and records to stdout in four formats, notices and errors to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from jobs.cli.output.table import Column, R, Row, print_table, safe
from jobs.records import Record

__all__ = ["Format", "FormatOption", "RecordFormatOption", "error", "notice", "print_record", "print_rows"]


_LINE = 1000  # characters of an error's line: a library may name every tensor of a model in one


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


FormatOption = Annotated[
    Format | None, typer.Option("--format", help="How to print; default: table on a terminal, jsonl elsewhere.")
]
RecordFormatOption = Annotated[
    Format | None, typer.Option("--format", help="How to print; default: table on a terminal, json elsewhere.")
]


def notice(text: str) -> None:
    """Tell the person something: one line on stderr."""
    typer.echo(safe(text), err=True)


def error(text: str) -> None:
    """Say what went wrong: `error: …` on stderr, further lines indented, very long ones cut."""
    lines = [safe(line.expandtabs(2)) for line in text.splitlines()] or [""]
    first, *more = (line if len(line) <= _LINE else f"{line[:_LINE]} …" for line in lines)
    typer.echo("\n".join([f"error: {first}", *(f"  {line}" for line in more)]), err=True)


def print_rows(rows: Iterable[R], columns: Sequence[Column[R]], form: Format | None) -> int:
    """Print rows as they come, in flat memory; return how many there were.

    `columns` are the table's; the other formats print every field of a row.
    """
    match form or (Format.TABLE if sys.stdout.isatty() else Format.JSONL):
        case Format.TABLE:
            return print_table(rows, columns)
        case other:
            from jobs import export

            return export.print_rows(map(_document, rows), other.value)


def print_record(record: R, form: Format | None, *, columns: Sequence[Column[R]] = ()) -> None:
    """Print one object: in a table a line for each field that has a value, else the object itself."""
    match form or (Format.TABLE if sys.stdout.isatty() else Format.JSON):
        case Format.TABLE:
            shown_columns = columns or [Column(name) for name in _document(record)]
            fields = ({"field": c.name.replace("_", " "), "value": c.text(record)} for c in shown_columns)
            shown = [field for field in fields if field["value"]]
            print_table(shown, [Column("field", style=lambda _: "dim"), Column("value")], header=False)
        case Format.JSON:
            typer.echo(json.dumps(_document(record), ensure_ascii=sys.stdout.isatty(), indent=2, default=str))
        case other:
            print_rows([record], columns, other)


def _document(row: Row) -> Mapping[str, Any]:
    return row.to_dict() if isinstance(row, Record) else row
