"""Results as files and tables: complete, safe to open, whole or not there at all."""

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import export
from jobs.errors import OutputError, SettingsInvalid

OK: dict[str, Any] = {
    "job": "7", "path": "bmw/x.jpg", "listing": "bmw", "status": "ok", "label": "BMW M3 Coupe 2012", "make": "BMW",
    "model": "M3", "body": "Coupe", "year": 2012, "confidence": 0.875, "decision": "model",
    "top": [{"label": "BMW M3 Coupe 2012", "confidence": 0.875}, {"label": "Audi TT", "confidence": 0.0625}],
    "model_version": "bundled", "content_hash": "ab" * 32,
    "finished_at": "2026-01-02T03:04:05.678Z", "correction": "Audi TT", "error": None,
}  # fmt: skip
FAILED: dict[str, Any] = dict.fromkeys(OK) | {
    "job": "7", "path": "=1+1.jpg", "status": "failed", "top": [], "model_version": "bundled",
    "error": {"code": "undecodable", "message": "@no\nimage"},
}  # fmt: skip
RESULTS = [OK, FAILED]
FLAT = [export.flat(result) for result in RESULTS]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def printed(values: list[dict[str, Any]], form: str, columns: Sequence[str] | None = None) -> str:
    stream = io.StringIO(newline="")
    assert export.print_rows(iter(values), form, stream=stream, columns=columns) == len(values)
    return stream.getvalue()


def test_json_lines(tmp_path: Path) -> None:
    assert export.write(iter(RESULTS), tmp_path / "r.jsonl") == 2
    assert [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("utf-8").splitlines()] == RESULTS


@pytest.mark.parametrize("results", [[], [OK], RESULTS])
def test_json(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    assert export.write(iter(results), tmp_path / "r.JSON") == len(results)
    assert json.loads((tmp_path / "r.JSON").read_text("utf-8")) == results


def test_csv(tmp_path: Path) -> None:
    assert export.write(iter(RESULTS), tmp_path / "r.csv") == 2
    ok, failed = rows((tmp_path / "r.csv").read_bytes().decode())
    assert tuple(ok) == export.COLUMNS
    assert (ok["year"], ok["confidence"], ok["error_code"]) == ("2012", "0.875", "")
    assert json.loads(ok["top"]) == OK["top"]
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
    assert export.write(iter(RESULTS), tmp_path / "r.parquet") == 2
    table = parquet.read_table(tmp_path / "r.parquet")
    assert tuple(table.column_names) == export.COLUMNS
    times = [datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC), None]
    expected = [row | {"finished_at": time} for row, time in zip(FLAT, times, strict=True)]
    assert table.to_pylist() == [{name: row[name] for name in export.COLUMNS} for row in expected]


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
        export.write(RESULTS, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"r.{suffix}"
    file.write_bytes(b"old")

    def broken() -> Iterator[dict[str, Any]]:
        yield OK
        raise KeyError("lost")

    with pytest.raises(KeyError):
        export.write(broken(), file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"

    def watching() -> Iterator[dict[str, Any]]:
        for _ in range(3):
            assert not file.exists()
            yield OK

    assert export.write(watching(), file) == 3
    assert list(tmp_path.iterdir()) == [file]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        export.write(RESULTS, tmp_path / "folder.csv")
    with pytest.raises(OutputError, match=f"cannot be written: there is no folder {tmp_path / 'none'}"):
        export.write(RESULTS, tmp_path / "none" / "r.csv")


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "is read-only"), (errno.EACCES, "may be")],
)
def test_a_disk_in_trouble_is_called_that(tmp_path: Path, code: int, words: str) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield OK
        raise OSError(code, os.strerror(code))

    with pytest.raises(OutputError, match=words) as caught:
        export.write(failing(), tmp_path / "r.csv")
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "r.csv").symlink_to("real.csv")
    export.write(RESULTS, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").is_symlink()
    assert len(rows((tmp_path / "real.csv").read_bytes().decode())) == 2


@pytest.mark.parametrize("package", ["pyarrow", "pandas"])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsInvalid, match=rf"{package}.*car-classifier\[tables\]"):
        export.write(RESULTS, tmp_path / "r.parquet") if package == "pyarrow" else export.to_pandas(RESULTS)
    assert list(tmp_path.iterdir()) == []


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = export.to_pandas(iter(RESULTS))
    assert tuple(frame.columns) == export.COLUMNS
    assert frame["confidence"].dtype == "float64"
    assert frame["year"].dtype == "Int16"
    assert frame["label"].dtype == "string"
    assert frame["confidence"].max() == 0.875
    assert frame.loc[0, "top"] == OK["top"]
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
