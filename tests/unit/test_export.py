"""Results as files and tables: complete, safe to open, whole or not there at all."""

import csv
import errno
import io
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import export
from jobs.db.queries.results import ResultRecord, transposed
from jobs.errors import OutputError, SettingsInvalid
from jobs.records import Result
from jobs.states import ImageErrorCode

CLASSES = {3: ["Audi TT", "BMW M3 Coupe 2012", "Other"], 4: ['A "quoted", class', "Ünï"]}
EMPTY = dict.fromkeys(ResultRecord._fields) | {
    "job_id": 7, "ordinal": 0, "status": "failed", "top_k": 2, "version_id": 3, "model_version": "bundled",
}  # fmt: skip
OK = ResultRecord(**EMPTY | {
    "path": "bmw/x.jpg", "listing": "bmw", "status": "ok", "label": "BMW M3 Coupe 2012", "make": "BMW", "model": "M3",
    "body": "Coupe", "year": 2012, "confidence": 0.875, "decision": "model",
    "probabilities": np.array([0.0625, 0.875, 0.0625], "<f2").tobytes(), "content_hash": b"\xab" * 32,
    "finished_at": datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), "correction": "Audi TT",
})  # type: ignore[arg-type]  # fmt: skip
FAILED = ResultRecord(**EMPTY | {"path": "=1+1.jpg", "error_code": "undecodable", "error_message": "@no\nimage"})  # type: ignore[arg-type]
RECORDS = [OK, FAILED]


def pages(records: Sequence[ResultRecord], *, size: int = 1, top_k: int | None = None) -> Iterator[export.Columns]:
    for first in range(0, len(records), size):
        yield export.columns(transposed(records[first : first + size]), classes=CLASSES.__getitem__, top_k=top_k)


def results(records: Sequence[ResultRecord], top_k: int | None = None) -> list[dict[str, Any]]:
    """Those that a program gets one by one."""
    return [Result.from_row(row, classes=CLASSES[row.version_id], top_k=top_k).to_dict() for row in records]


RESULTS = results(RECORDS)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def printed(values: list[dict[str, Any]], form: str, columns: Sequence[str] | None = None) -> str:
    stream = io.StringIO(newline="")
    assert export.print_rows(iter(values), form, stream=stream, columns=columns) == len(values)
    return stream.getvalue()


def test_json_lines(tmp_path: Path) -> None:
    assert export.write(pages(RECORDS), tmp_path / "r.jsonl") == 2
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("utf-8").splitlines()] == RESULTS


@pytest.mark.parametrize("records", [[], [OK], RECORDS])
def test_json(tmp_path: Path, records: list[ResultRecord]) -> None:
    assert export.write(pages(records), tmp_path / "r.JSON") == len(records)
    assert json.loads((tmp_path / "r.JSON").read_text("utf-8")) == results(records)


def test_csv(tmp_path: Path) -> None:
    assert export.write(pages(RECORDS), tmp_path / "r.csv") == 2
    ok, failed = rows((tmp_path / "r.csv").read_bytes().decode())
    assert tuple(ok) == export.COLUMNS
    assert (ok["year"], ok["confidence"], ok["error_code"]) == ("2012", "0.875", "")
    assert json.loads(ok["top"]) == RESULTS[0]["top"]
    assert (failed["path"], failed["error_message"], failed["label"]) == ("'=1+1.jpg", "'@no\nimage", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "  =", "\ufeff="])
def test_no_text_starts_a_formula(start: str) -> None:
    (row,) = rows(printed([{"path": f"{start}cmd|' /C calc'!A0", "n": -1.5}], "csv"))
    assert row["path"].startswith("'")
    assert row["n"] == "-1.5"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_a_path_can_be_had_back_from_csv(path: str) -> None:
    (row,) = rows(printed([{"path": path, "other": 1}], "csv"))
    assert export.unguarded(row["path"]) == path


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export.write(pages(RECORDS), tmp_path / "r.parquet") == 2
    table = parquet.read_table(tmp_path / "r.parquet")
    assert tuple(table.column_names) == export.COLUMNS
    times = [datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC), None]
    expected = [export.flat(row) | {"finished_at": time} for row, time in zip(RESULTS, times, strict=True)]
    assert table.to_pylist() == [{name: row[name] for name in export.COLUMNS} for row in expected]


TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(['"', ",", "a\r\nb", "=1", "'", "", " "])
MAYBE = st.none() | TEXT
FLOAT16 = st.floats(width=16)
TIME = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
PROBABILITY = st.floats(0, 1, width=16) | st.sampled_from([0.0, 0.25, 0.5])


@st.composite
def record(draw: st.DrawFn) -> ResultRecord:
    status = draw(st.sampled_from(["ok", "ok", "failed", "pending", "canceled"]))
    version = draw(st.sampled_from(sorted(CLASSES)))
    predicted = st.lists(draw(st.sampled_from([PROBABILITY, FLOAT16])), min_size=2, max_size=2)
    drawn = {
        "job_id": draw(st.integers(1, 9)), "path": draw(TEXT), "listing": draw(MAYBE), "status": status,
        "content_hash": draw(st.none() | st.binary(min_size=32, max_size=32)), "top_k": draw(st.integers(1, 4)),
        "version_id": version, "model_version": draw(TEXT), "correction": draw(MAYBE),
        "error_code": draw(st.sampled_from(list(ImageErrorCode))).value, "error_message": draw(MAYBE),
        "finished_at": draw(st.none() | TIME),
    }  # fmt: skip
    if status == "ok":
        values = [*draw(predicted), *([0.25] if version == 3 else [])]
        drawn |= {name: draw(MAYBE) for name in ("label", "make", "model", "body")}
        drawn |= {
            "year": draw(st.none() | st.integers(0, 9999)), "confidence": draw(st.none() | st.floats(allow_nan=False)),
            "decision": draw(MAYBE), "probabilities": np.array(values, "<f2").tobytes(),
        }  # fmt: skip
    return ResultRecord(**EMPTY | drawn)  # type: ignore[arg-type]


DRAWN = (st.lists(record(), max_size=8), st.integers(1, 4), st.none() | st.integers(1, 5))


@settings(deadline=None, max_examples=60)
@given(*DRAWN)
def test_a_file_has_what_results_have_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, records: list[ResultRecord], size: int, top_k: int | None
) -> None:
    folder, rows = tmp_path_factory.getbasetemp(), results(records, top_k)
    for suffix in ("json", "jsonl", "csv"):
        file, expected = folder / f"r.{suffix}", io.StringIO(newline="")
        assert export.write(pages(records, size=size, top_k=top_k), file) == len(rows)
        export.print_rows(iter(rows), suffix, stream=expected, columns=export.COLUMNS if suffix == "csv" else None)
        assert file.read_bytes().decode() == expected.getvalue()


@settings(deadline=None, max_examples=60)
@given(*DRAWN)
def test_tables_have_what_results_have_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, records: list[ResultRecord], size: int, top_k: int | None
) -> None:
    parquet, pandas = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pandas")
    file = tmp_path_factory.getbasetemp() / "r.parquet"
    rows = list(map(export.flat, results(records, top_k)))
    assert export.write(pages(records, size=size, top_k=top_k), file) == len(rows)
    texts = [row["finished_at"] for row in rows]
    times = [text and datetime.fromisoformat(text) for text in texts]
    expected = [
        {name: row[name] for name in export.COLUMNS} | {"finished_at": t} for row, t in zip(rows, times, strict=True)
    ]
    written = parquet.read_table(file).to_pylist()
    assert json.dumps(written, default=str) == json.dumps(expected, default=str)  # NaN is not equal to NaN
    frame = export.to_pandas(pages(records, size=size, top_k=top_k))
    assert json.dumps(frame["top"].tolist()) == json.dumps([row["top"] for row in rows])
    assert [None if pandas.isna(time) else time.to_pydatetime() for time in frame["finished_at"]] == times
    for name in ("path", "label", "year", "error_message"):
        assert [None if pandas.isna(value) else value for value in frame[name]] == [row[name] for row in rows]


def test_the_next_page_is_fetched_meanwhile_and_no_other() -> None:
    fetched, second = list[int](), threading.Event()

    def fetch() -> Iterator[int]:
        for number in range(4):
            fetched.append(number)
            if number == 1:
                second.set()
            yield number

    found = export.ahead(fetch())
    assert next(found) == 0
    assert second.wait(10)
    assert fetched == [0, 1]
    assert list(found) == [1, 2, 3]


def test_pages_that_are_not_wanted_any_more_are_closed() -> None:
    closed = threading.Event()

    def fetch() -> Iterator[int]:
        try:
            yield from range(4)
        finally:
            closed.set()

    found = export.ahead(fetch())
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert closed.is_set()


def test_a_page_that_cannot_be_fetched_is_an_error() -> None:
    def fetch() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    found = export.ahead(fetch())
    assert next(found) == 1
    with pytest.raises(KeyError, match="lost"):
        next(found)


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_no_results_make_a_file_that_reads_as_empty(tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / f"r.{suffix}"
    assert export.write([], file) == 0
    if suffix == "csv":
        assert tuple(pandas.read_csv(file).columns) == export.COLUMNS
    elif suffix == "parquet":
        assert len(pandas.read_parquet(file)) == 0
    else:
        assert file.read_text().strip() in ("", "[]")


@pytest.mark.parametrize("name", ["r.xlsx", "r", "csv", "r.csv.gz"])
def test_another_ending_names_those_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"\.csv, \.jsonl, \.json, \.parquet"):
        export.write(pages(RECORDS), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"r.{suffix}"
    file.write_bytes(b"old")

    def broken() -> Iterator[export.Columns]:
        yield from pages([OK])
        raise KeyError("lost")

    with pytest.raises(KeyError):
        export.write(broken(), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"

    def watching() -> Iterator[export.Columns]:
        for page in pages([OK] * 3):
            assert not file.exists()
            yield page

    assert export.write(watching(), file) == 3
    assert list(tmp_path.iterdir()) == [file]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        export.write(pages(RECORDS), tmp_path / "folder.csv")
    with pytest.raises(OutputError, match=f"cannot be written: there is no folder {tmp_path / 'none'}"):
        export.write(pages(RECORDS), tmp_path / "none" / "r.csv")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "is read-only"), (errno.EACCES, "may be")],
)
def test_a_disk_in_trouble_is_called_that(tmp_path: Path, code: int, words: str) -> None:
    def failing() -> Iterator[export.Columns]:
        yield from pages([OK])
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=words) as caught:
        export.write(failing(), tmp_path / "r.csv")
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "r.csv").symlink_to("real.csv")
    export.write(pages(RECORDS), tmp_path / "r.csv")
    assert (tmp_path / "r.csv").is_symlink()
    assert len(rows((tmp_path / "real.csv").read_bytes().decode())) == 2


@pytest.mark.parametrize("package", ["pyarrow", "pandas"])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsInvalid, match=rf"{package}.*car-classifier\[tables\]"):
        export.write(pages(RECORDS), tmp_path / "r.parquet") if package == "pyarrow" else export.to_pandas(
            pages(RECORDS)
        )
    assert list(tmp_path.iterdir()) == []


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = export.to_pandas(pages(RECORDS))
    assert tuple(frame.columns) == export.COLUMNS
    assert frame["confidence"].dtype == "float64"
    assert frame["year"].dtype == "Int16"
    assert frame["label"].dtype == "string"
    assert frame["confidence"].max() == 0.875
    assert frame.loc[0, "top"] == RESULTS[0]["top"]
    assert pandas.isna(frame.loc[1, "year"])
    assert frame.loc[1, "error_code"] == "undecodable"
    empty = export.to_pandas([])
    assert len(empty) == 0
    assert list(empty.dtypes) == list(frame.dtypes)


def test_printing_rows() -> None:
    values: list[dict[str, object]] = [{"name": "a", "n": 1}, {"name": "é\n", "n": None}]
    assert json.loads(printed(values, "json")) == values
    assert [json.loads(line) for line in printed(values, "jsonl").splitlines()] == values
    assert printed(values, "csv") == 'name,n\r\na,1\r\n"é\n",\r\n'
    assert json.loads(printed(values, "json", columns=["n"])) == [{"n": 1}, {"n": None}]


def test_printing_nothing() -> None:
    assert (printed([], "json"), printed([], "jsonl"), printed([], "csv")) == ("[]\n", "", "")
    assert printed([], "csv", columns=["name", "n"]) == "name,n\r\n"


def test_printed_results_have_the_columns_of_a_file() -> None:
    assert tuple(rows(printed(RESULTS, "csv"))[0]) == export.COLUMNS


def test_rows_are_printed_as_they_come() -> None:
    stream = io.StringIO()

    def watching() -> Iterator[dict[str, Any]]:
        for number in range(5):
            assert stream.getvalue().count("{") == number
            yield {"number": number}

    assert export.print_rows(watching(), "json", stream=stream) == 5


def test_a_name_cannot_control_the_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    name = "\x1b[2J\x9b31m\u202egpj.exe"
    for form in ("json", "jsonl"):
        stream = Terminal()
        export.print_rows([{"path": name}], form, stream=stream)
        assert stream.getvalue().replace("\n", "").isprintable()
        assert name not in stream.getvalue()
        parsed = json.loads(stream.getvalue())
        assert (parsed[0] if form == "json" else parsed)["path"] == name


def test_an_unknown_format() -> None:
    with pytest.raises(SettingsInvalid, match="json, jsonl, csv"):
        export.print_rows([], "xml", stream=io.StringIO())


def test_csv_on_a_terminal_cannot_drive_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (io.StringIO(), Terminal()):
        export.print_rows([{"path": "\x1b]0;owned\x07\u202egpj.a"}], "csv", stream=stream)
        assert ("\x1b" in stream.getvalue()) is not stream.isatty()
    assert r"\x1b]0;owned\x07\u202egpj.a" in stream.getvalue()
