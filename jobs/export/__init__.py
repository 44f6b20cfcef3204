"""Results as files (CSV, JSON Lines, JSON, Parquet), as a pandas DataFrame, and rows as text for other programs.

Everything but a DataFrame is streamed: memory does not grow with the number of rows.

In CSV a text that a spreadsheet would run as a formula gets an apostrophe in front, and so does a text that starts with
an apostrophe: taking one apostrophe off the front of a cell, where there is one, restores the text exactly
(`unguarded`). Numbers stay numbers.
"""

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from jobs.disk import replacing, trouble
from jobs.errors import OutputError, SettingsInvalid
from jobs.records import Json
from jobs.terminal import safe

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMNS", "FORMATS", "flat", "guarded", "print_rows", "to_pandas", "unguarded", "write"]

COLUMNS = (
    "job", "path", "listing", "status", "label", "make", "model", "body", "year", "confidence", "decision", "top",
    "model_version", "content_hash", "finished_at", "correction", "error_code", "error_message",
)  # fmt: skip
"""The columns of a result where there are columns: its fields, and `error` taken apart."""

FORMATS = ("json", "jsonl", "csv")

Row = Mapping[str, Any]

_SHAPE = frozenset(COLUMNS) - {"error_code", "error_message"} | {"error"}
_ROWS_AT_A_TIME = 2_000
# What spreadsheets start a formula with, full-width forms too, also behind blanks that an import strips; and the
# apostrophe itself, so that the guard can be taken off again.
_FORMULA = re.compile("['\t\r\n]|[\\s\ufeff]*[=+\\-@＝＋－＠]")


def write(results: Iterable[Row], file: Path) -> int:
    """Write results (as `Result.to_dict` gives them) to `file` in the format that its ending names; return how many.

    `.csv` and `.parquet` have `COLUMNS`: `top` is JSON text in CSV and a list of structs in Parquet, `finished_at` ISO
    8601 text in CSV and a timestamp in Parquet; `.jsonl` has one object per line, `.json` one array. The file appears,
    or replaces an older one, only when it is whole. Raises `SettingsInvalid` for another ending or Parquet without the
    extra `tables`, `OutputError` for a file that cannot be written.
    """
    save = _WRITERS.get(file.suffix.lower())
    if save is None:
        raise SettingsInvalid(f"{file} has no ending that names a format: use one of {', '.join(_WRITERS)}")
    with _output(file) as stream:
        return save(results, stream)


def to_pandas(results: Iterable[Row]) -> "pandas.DataFrame":
    """Return a DataFrame with `COLUMNS`, one row per result: text as `string`, `year` as `Int16`, `confidence` as
    `float64` (NaN where there is none), `top` as lists of dicts, `finished_at` as `datetime64[ns, UTC]`. Raises
    `SettingsInvalid` without the extra `tables`.
    """
    try:
        import pandas
    except ImportError as exc:
        raise _missing("pandas", "A DataFrame") from exc
    rows = [[row[column] for column in COLUMNS] for row in map(flat, results)]
    types = dict.fromkeys(COLUMNS, "string") | {"year": "Int16", "confidence": "float64", "top": "object"}
    del types["finished_at"]
    frame = pandas.DataFrame(rows, columns=list(COLUMNS), dtype="object").astype(types)
    frame["finished_at"] = pandas.to_datetime(frame["finished_at"], utc=True, format="ISO8601").astype(
        "datetime64[ns, UTC]"
    )
    return frame


def print_rows(
    rows: Iterable[Row], format: str, *, stream: TextIO | None = None, columns: Sequence[str] | None = None
) -> int:
    """Write rows to `stream` (stdout) as they come, in one of `FORMATS`; return how many.

    `columns` (default: all) chooses and orders the fields. CSV has those of the first row by default, for results
    `COLUMNS`. On a terminal JSON is ASCII and CSV has control characters as escapes, so that no file name can drive it.
    """
    out = stream or sys.stdout
    if format == "csv":
        return _print_csv(rows, out, columns)
    if format not in FORMATS:
        raise SettingsInvalid(f"{format!r} is not a format: use one of {', '.join(FORMATS)}")
    if columns is not None:
        rows = ({column: row.get(column) for column in columns} for row in rows)
    return _print_json(rows, out, array=format == "json", ascii_only=out.isatty())


def flat(result: Row) -> Json:
    """Return a result with `error` taken apart into `error_code` and `error_message`."""
    error = result["error"] or {}
    row = {name: value for name, value in result.items() if name != "error"}
    return row | {"error_code": error.get("code"), "error_message": error.get("message")}


def guarded(value: object) -> object:
    """Return a value as a CSV cell: None empty, numbers as they are, lists and dicts as JSON, text that is safe to
    open.
    """
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else _json(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _safe_cell(value: object) -> object:
    cell = guarded(value)
    return safe(cell) if isinstance(cell, str) else cell


def unguarded(cell: str) -> str:
    """Return the text that `guarded` wrote as `cell`."""
    return cell.removeprefix("'")


def _print_csv(rows: Iterable[Row], stream: TextIO, columns: Sequence[str] | None) -> int:
    rows = iter(rows)
    first = next(rows, None)
    if first is not None:
        rows = itertools.chain([first], rows)
        if first.keys() >= _SHAPE:
            rows = map(flat, rows)
            columns = columns or COLUMNS
    columns = columns or list(first or ())
    writer = csv.writer(stream)
    cell = _safe_cell if stream.isatty() else guarded
    if columns:
        writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
        count += 1
    return count


def _print_json(rows: Iterable[Row], stream: TextIO, *, array: bool, ascii_only: bool = False) -> int:
    start, between, end = ("[\n", ",\n", "\n]\n") if array else ("", "\n", "\n")
    count = 0
    for count, row in enumerate(rows, start=1):
        stream.write(f"{between if count > 1 else start}{_json(row, ascii_only=ascii_only)}")
    if count:
        stream.write(end)
    elif array:
        stream.write("[]\n")
    return count


def _json(value: object, *, ascii_only: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ascii_only, default=str)


def _write_csv(results: Iterable[Row], stream: BinaryIO) -> int:
    with _text(stream) as text:
        return _print_csv(results, text, COLUMNS)


def _write_jsonl(results: Iterable[Row], stream: BinaryIO) -> int:
    with _text(stream) as text:
        return _print_json(results, text, array=False)


def _write_json(results: Iterable[Row], stream: BinaryIO) -> int:
    with _text(stream) as text:
        return _print_json(results, text, array=True)


@contextmanager
def _text(stream: BinaryIO) -> Iterator[TextIO]:
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()


def _write_parquet(results: Iterable[Row], stream: BinaryIO) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise _missing("pyarrow", "Parquet") from exc
    choice = pyarrow.struct([("label", pyarrow.string()), ("confidence", pyarrow.float64())])
    types = dict.fromkeys(COLUMNS, pyarrow.string()) | {
        "year": pyarrow.int16(), "confidence": pyarrow.float64(), "top": pyarrow.list_(choice),
        "finished_at": pyarrow.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    schema = pyarrow.schema(list(types.items()))
    rows = map(_timed, map(flat, results))
    count = 0
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _timed(row: Json) -> Json:
    """Return a flat result with its time as a datetime."""
    finished = row["finished_at"]
    return row | {"finished_at": datetime.fromisoformat(finished) if finished else None}


_WRITERS: dict[str, Callable[[Iterable[Row], BinaryIO], int]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".json": _write_json,
    ".parquet": _write_parquet,
}


def _missing(package: str, what: str) -> SettingsInvalid:
    return SettingsInvalid(f"{what} needs {package}, which is not installed: pip install 'car-classifier[tables]'")


@contextmanager
def _output(file: Path) -> Iterator[BinaryIO]:
    """Yield a stream to what replaces `file` at the end. Raises OutputError."""
    target = file.resolve()
    if target.is_dir():
        raise OutputError(f"{file} is a folder: give the name of a file")
    try:
        with replacing(target) as stream:
            yield stream
    except OSError as exc:
        raise OutputError(f"{file} cannot be written: {trouble(exc, target.parent)}") from exc
