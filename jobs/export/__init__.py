"""Results as files (CSV, JSON Lines, JSON, Parquet), as a pandas DataFrame, and rows as text for other programs: one
module per format, and here the choice between them.

Everything but a DataFrame is streamed: memory does not grow with the number of rows.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from jobs.disk import new_file
from jobs.errors import SettingsInvalid
from jobs.export.columns import Columns, ahead, columns
from jobs.export.csv import guarded, print_csv, unguarded, write_csv
from jobs.export.jsonl import print_json, write_json, write_jsonl
from jobs.export.listings import write_listings
from jobs.export.parquet import to_pandas, write_parquet
from jobs.export.rows import COLUMNS, Row, flat

__all__ = [
    "COLUMNS",
    "FORMATS",
    "Columns",
    "ahead",
    "columns",
    "flat",
    "guarded",
    "print_rows",
    "to_pandas",
    "unguarded",
    "write",
    "write_listings",
]

FORMATS = ("json", "jsonl", "csv")

_WRITERS: dict[str, Callable[[Iterable[Columns], BinaryIO], int]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".json": write_json,
    ".parquet": write_parquet,
}


def write(pages: Iterable[Columns], file: Path) -> int:
    """Write pages of results to `file` in the format that its ending names; return how many results.

    `.csv` and `.parquet` have `COLUMNS`: `top` is JSON text in CSV and a list of structs in Parquet, `finished_at` ISO
    8601 text in CSV and a timestamp in Parquet; `.jsonl` has one object per line, `.json` one array. The file appears,
    or replaces an older one, only when it is whole. Raises `SettingsInvalid` for another ending or Parquet without the
    extra `tables`, `OutputError` for a file that cannot be written.
    """
    save = _WRITERS.get(file.suffix.lower())
    if save is None:
        raise SettingsInvalid(f"{file} has no ending that names a format: use one of {', '.join(_WRITERS)}")
    with new_file(file) as stream:
        return save(pages, stream)


def print_rows(
    rows: Iterable[Row], format: str, *, stream: TextIO | None = None, columns: Sequence[str] | None = None
) -> int:
    """Write rows to `stream` (stdout) as they come, in one of `FORMATS`; return how many.

    `columns` (default: all) chooses and orders the fields. CSV has those of the first row by default, for results
    `COLUMNS`. On a terminal JSON is ASCII and CSV has control characters as escapes, so that no file name can drive it.
    """
    out = stream or sys.stdout
    if format == "csv":
        return print_csv(rows, out, columns)
    if format not in FORMATS:
        raise SettingsInvalid(f"{format!r} is not a format: use one of {', '.join(FORMATS)}")
    if columns is not None:
        rows = ({column: row.get(column) for column in columns} for row in rows)
    return print_json(rows, out, array=format == "json", ascii_only=out.isatty())
