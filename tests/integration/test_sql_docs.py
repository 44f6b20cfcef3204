"""docs/sql.md: its columns are there, and every statement in it runs on both databases and answers its question."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import inspect, text

from jobs import Client
from tests.support.artifacts import CLASSES
from tests.support.processes import CHECKOUT
from tests.support.steps import complete
from workers.runtime import Runtime

PAGE = (CHECKOUT / "docs" / "sql.md").read_text(encoding="utf-8")
QUESTION = re.compile(r"^([A-Z][^\n]*\?)\n\n((?:```sql[^\n]*\n.*?^```\n\n?)+)", re.MULTILINE | re.DOTALL)
STATEMENT = re.compile(r"^```sql ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUESTIONS = {question: dict(STATEMENT.findall(block)) for question, block in QUESTION.findall(PAGE)}
ACURA, _, BMW, _ = CLASSES


@pytest.fixture
def two_jobs(client: Client, runtime: Callable[..., Runtime], publish: Callable[..., str], tmp_path: Path) -> Client:
    """The same folder twice: the second model version is sure of nothing. One image is corrected."""
    folder = tmp_path / "cars"
    for name, red in (("a/0.png", 0), ("a/2.png", 2), ("b/2 again.png", 2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (red, 0, 0)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    worker = runtime()
    for version in ("tiny", publish("unsure", temperature=100.0)):
        complete(client.submit(str(folder), model=version), worker)
    client.label("1:a/2.png", ACURA)
    return client


def answer(client: Client, words: str) -> list[dict[str, Any]]:
    """What the statement of the only question with these words returns."""
    (statements,) = (found for question, found in QUESTIONS.items() if words in question)
    with client.database.read() as connection:
        statement = statements.get("") or statements[connection.dialect.name]
        return [dict(row) for row in connection.execute(text(statement)).mappings()]


def test_there_are_ten_questions_for_both_databases() -> None:
    assert len(QUESTIONS) == 10
    assert {tuple(sorted(statements)) for statements in QUESTIONS.values()} == {("",), ("postgresql", "sqlite")}
    assert sum(len(statements) for statements in QUESTIONS.values()) == len(STATEMENT.findall(PAGE))


def test_the_columns_are_there(client: Client) -> None:
    with client.database.read() as connection:
        columns = list(connection.execute(text("SELECT * FROM results")).keys())
        tables = {
            f"{table}.{column['name']}"
            for table in ("outcomes", "corrections")
            for column in inspect(connection).get_columns(table)
        }
    documented = re.findall(
        r"`([\w.]+)`", " ".join(line.split("|")[1] for line in PAGE.splitlines() if line[:3] == "| `")
    )
    assert [name for name in documented if "." not in name] == columns
    assert {name for name in documented if "." in name} <= tables


def test_the_answers(two_jobs: Client) -> None:
    client, today = two_jobs, datetime.now(UTC).date()
    found = answer(client, "each day")
    assert [(row["make"], row["images"]) for row in found] == [("BMW", 2), ("Acura", 1)]
    assert {str(row["day"]) for row in found} <= {str(today), str(today - timedelta(days=1))}

    assert sorted((row["job"], row["path"], row["status"]) for row in answer(client, "since yesterday")) == sorted(
        (job, path, "failed" if path == "broken.png" else "ok")
        for job in (1, 2)
        for path in ("a/0.png", "a/2.png", "b/2 again.png", "broken.png")
    )
    least = answer(client, "least sure of")
    assert [(row["job"], row["path"]) for row in least] == [
        (job, path) for job in (2, 1) for path in ("a/2.png", "b/2 again.png")
    ]
    assert answer(client, "no car") == [{"listing": "a", "images": 2}, {"listing": "b", "images": 1}]

    tiny, unsure = answer(client, "fraction")
    assert (tiny["model_version"], tiny["images"], float(tiny["decided"])) == ("tiny", 3, 1)
    assert (unsure["model_version"], unsure["images"], float(unsure["decided"])) == ("unsure", 3, 0)
    assert unsure["confidence"] < 0.5 < tiny["confidence"]

    (failures,) = answer(client, "week by week")
    assert (failures["error_code"], failures["images"]) == (next(iter(client.errors("1"))).code, 2)
    monday = datetime.fromisoformat(str(failures["week"])).date()
    assert monday.weekday() == 0
    assert timedelta(0) <= today - monday <= timedelta(days=7)

    assert answer(client, "identical") == [{"path": "b/2 again.png", "same_as": "a/2.png"}]
    assert answer(client, "correct the model") == [
        {"model_version": version, "label": BMW, "correction": ACURA, "images": 2} for version in ("tiny", "unsure")
    ]
    assert [row["path"] for row in answer(client, "person look at")] == ["broken.png"]
    assert [tuple(row.values()) for row in answer(client, "same files")] == [
        (path, label, "model", label, "unknown")
        for path, label in (("a/0.png", ACURA), ("a/2.png", BMW), ("b/2 again.png", BMW))
    ]
