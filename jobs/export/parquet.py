"""Typed columns: Parquet files and DataFrames, with the extra `tables`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO

from jobs.errors import SettingsInvalid
from jobs.export.columns import Columns
from jobs.export.rows import COLUMNS

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["to_pandas", "write_parquet"]

_ROW_GROUP = 20_000  # rows: small groups make large files that are slow to read


def write_parquet(pages: Iterable[Columns], stream: BinaryIO) -> int:
    """Write pages of results with `COLUMNS`; return how many results. Raises SettingsInvalid without pyarrow."""
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
    count, group = 0, []
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for page in pages:
            group.append(_batch(page, schema))
            count += page.rows
            if sum(batch.num_rows for batch in group) >= _ROW_GROUP:
                writer.write_table(pyarrow.Table.from_batches(group, schema))
                group.clear()
        if group:
            writer.write_table(pyarrow.Table.from_batches(group, schema))
    return count


def _batch(page: Columns, schema: "pyarrow.Schema") -> "pyarrow.RecordBatch":
    import pyarrow

    labels = pyarrow.array(page.top.names, pyarrow.string()).take(pyarrow.array(page.top.chosen))
    confidences = pyarrow.array(page.top.confidences.astype("f8"))
    choices = pyarrow.StructArray.from_arrays([labels, confidences], fields=list(schema.field("top").type.value_type))
    arrays = {
        "top": pyarrow.ListArray.from_arrays(pyarrow.array(page.top.starts), choices, schema.field("top").type),
        "finished_at": pyarrow.array(page.moments, pyarrow.timestamp("us", tz="UTC")).cast(
            schema.field("finished_at").type, safe=False
        ),
    }
    for name, values in page.values.items():
        if name not in arrays:
            arrays[name] = pyarrow.array(values, schema.field(name).type)
    return pyarrow.RecordBatch.from_arrays([arrays[name] for name in COLUMNS], schema=schema)


def to_pandas(pages: Iterable[Columns]) -> "pandas.DataFrame":
    """Return a DataFrame with `COLUMNS`, one row per result: text as `string`, `year` as `Int16`, `confidence` as
    `float64` (NaN where there is none), `top` as lists of dicts, `finished_at` as `datetime64[ns, UTC]`. Raises
    `SettingsInvalid` without the extra `tables`.
    """
    try:
        import pandas
    except ImportError as exc:
        raise _missing("pandas", "A DataFrame") from exc
    values: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for page in pages:
        for name, more in page.values.items():
            values[name] += more
        values["top"] += page.top.lists()
    types = dict.fromkeys(COLUMNS, "string") | {"year": "Int16", "confidence": "float64", "top": "object"}
    del types["finished_at"]
    frame = pandas.DataFrame(values, columns=list(COLUMNS), dtype="object").astype(types)
    frame["finished_at"] = pandas.to_datetime(frame["finished_at"], utc=True, format="ISO8601").astype(
        "datetime64[ns, UTC]"
    )
    return frame


def _missing(package: str, what: str) -> SettingsInvalid:
    return SettingsInvalid(f"{what} needs {package}, which is not installed: pip install 'car-classifier[tables]'")
