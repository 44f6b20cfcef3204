"""Typed columns: Parquet files and DataFrames, with the extra `tables`."""

import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from jobs.errors import SettingsInvalid
from jobs.export.rows import COLUMNS, LISTING_COLUMNS, Row, flat
from jobs.records import Json

if TYPE_CHECKING:
    import pandas

__all__ = ["to_pandas", "write_listings", "write_parquet"]

_ROWS_AT_A_TIME = 2_000


def write_parquet(results: Iterable[Row], stream: BinaryIO) -> int:
    """Write results with `COLUMNS`; return how many. Raises SettingsInvalid without pyarrow."""
    pyarrow = _pyarrow()
    choice = pyarrow.struct([("label", pyarrow.string()), ("confidence", pyarrow.float64())])
    types = dict.fromkeys(COLUMNS, pyarrow.string()) | {
        "year": pyarrow.int16(), "confidence": pyarrow.float64(), "top": pyarrow.list_(choice),
        "finished_at": pyarrow.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    return _write(pyarrow, types, map(_timed, map(flat, results)), stream)


def write_listings(listings: Iterable[Row], stream: BinaryIO) -> int:
    """Write verdicts on listings with `LISTING_COLUMNS`; return how many. Raises SettingsInvalid without pyarrow."""
    pyarrow = _pyarrow()
    types = dict.fromkeys(LISTING_COLUMNS, pyarrow.string()) | {
        "year": pyarrow.int16(), "confidence": pyarrow.float64(), "agreement": pyarrow.float64(),
        "complete": pyarrow.bool_(), "conflict": pyarrow.bool_(), "photos": pyarrow.int32(), "used": pyarrow.int32(),
        "failed": pyarrow.int32(), "updated_at": pyarrow.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    rows = ({**row, "updated_at": datetime.fromisoformat(row["updated_at"])} for row in listings)
    return _write(pyarrow, types, rows, stream)


def _pyarrow() -> Any:  # it has no types
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise _missing("pyarrow", "Parquet") from exc
    return pyarrow


def _write(pyarrow: Any, types: Mapping[str, Any], rows: Iterable[Json], stream: BinaryIO) -> int:
    schema = pyarrow.schema(list(types.items()))
    count, rows = 0, iter(rows)
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


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


def _timed(row: Json) -> Json:
    """Return a flat result with its time as a datetime."""
    finished = row["finished_at"]
    return row | {"finished_at": datetime.fromisoformat(finished) if finished else None}


def _missing(package: str, what: str) -> SettingsInvalid:
    return SettingsInvalid(f"{what} needs {package}, which is not installed: pip install 'car-classifier[tables]'")
