"""Typed columns: Parquet files and DataFrames, with the extra `tables`."""

import itertools
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, BinaryIO

from jobs.errors import SettingsInvalid
from jobs.export.rows import COLUMNS, Row, flat
from jobs.records import Json

if TYPE_CHECKING:
    import pandas

__all__ = ["to_pandas", "write_parquet"]

_ROWS_AT_A_TIME = 2_000


def write_parquet(results: Iterable[Row], stream: BinaryIO) -> int:
    """Write results with `COLUMNS`; return how many. Raises SettingsInvalid without pyarrow."""
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
