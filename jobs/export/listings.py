"""Verdicts on listings as files: CSV, JSON Lines, JSON and Parquet."""

import itertools
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from jobs.disk import new_file
from jobs.errors import SettingsInvalid
from jobs.export.csv import print_csv
from jobs.export.jsonl import print_json
from jobs.export.rows import LISTING_COLUMNS, Row, text_over

__all__ = ["write_listings"]

_ROWS_AT_A_TIME = 20_000


def write_listings(rows: Iterable[Row], file: Path) -> int:
    """Write verdicts, as `Listing.to_dict` gives them, in the format that the file's ending names; return how many.

    The file appears only when it is whole. Raises SettingsInvalid for another ending, and for Parquet without the extra
    `tables`; OutputError for a file that cannot be written.
    """
    save = _WRITERS.get(file.suffix.lower())
    if save is None:
        raise SettingsInvalid(f"{file} has no ending that names a format: use one of {', '.join(_WRITERS)}")
    with new_file(file) as stream:
        return save(rows, stream)


def _csv(rows: Iterable[Row], stream: BinaryIO) -> int:
    with text_over(stream) as text:
        return print_csv(rows, text, LISTING_COLUMNS)


def _json(rows: Iterable[Row], stream: BinaryIO, *, array: bool) -> int:
    with text_over(stream) as text:
        return print_json(rows, text, array=array)


def _parquet(rows: Iterable[Row], stream: BinaryIO) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise SettingsInvalid(
            "Parquet needs pyarrow, which is not installed: pip install 'car-classifier[tables]'"
        ) from exc
    types = dict.fromkeys(LISTING_COLUMNS, pyarrow.string()) | {
        "year": pyarrow.int16(), "confidence": pyarrow.float64(), "agreement": pyarrow.float64(),
        "complete": pyarrow.bool_(), "conflict": pyarrow.bool_(), "photos": pyarrow.int32(), "used": pyarrow.int32(),
        "failed": pyarrow.int32(), "updated_at": pyarrow.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    schema = pyarrow.schema(list(types.items()))
    timed = ({**row, "updated_at": datetime.fromisoformat(row["updated_at"])} for row in rows)
    count = 0
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while some := list(itertools.islice(timed, _ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


_WRITERS: dict[str, Callable[[Iterable[Row], BinaryIO], int]] = {
    ".csv": _csv,
    ".jsonl": partial(_json, array=False),
    ".json": partial(_json, array=True),
    ".parquet": _parquet,
}
