"""docs/sql.md: its columns are the view's, and every statement in it runs on both databases and says what is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import text

from jobs import Client
from tests.support.artifacts import CLASSES
from tests.support.processes import CHECKOUT
from workers.classification.classify import classify_batch
from workers.classification.finish import finish_job
from workers.classification.scan import scan_job
from workers.runtime import Runtime

PAGE = (CHECKOUT / "docs" / "sql.md").read_text(encoding="utf-8")


def test_the_page_says_what_is_there(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> None:
    folder = tmp_path / "cars"
    for name, red in (("a/0.png", 0), ("a/2.png", 2), ("b/2 again.png", 2)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (red, 0, 0)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    worker, job = runtime(), client.submit(str(folder))
    scan_job(worker, int(job.id))
    while classify_batch(worker):
        pass
    finish_job(worker, int(job.id))

    statements = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    with client.database.read() as connection:
        columns = list(connection.execute(text("SELECT * FROM results")).keys())
        views = {
            view: list(connection.execute(text(f"SELECT * FROM {view}")).keys())
            for view in ("listing_tags", "image_tags")
        }
        makes, unsure, recent, to_look_at, same, tags = (_rows(connection, statement) for statement in statements)
    table = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(table)) == columns

    (named,) = re.findall(r"^- `listing_tags`, (.*?)\. \[", PAGE, re.MULTILINE | re.DOTALL)
    assert set(views["listing_tags"]) <= set(re.findall(r"`(\w+)`", named))
    assert views["image_tags"] == ["job_source", *columns, "correction"]

    assert makes == [{"make": "BMW", "photos": 2}, {"make": "Acura", "photos": 1}]
    assert {row["label"] for row in unsure} == {CLASSES[0], CLASSES[2]}
    assert len(recent) == 4
    assert [row["path"] for row in to_look_at] == ["broken.png"]
    assert [row["names"] for row in same] == [2]
    assert tags == [{"make": "BMW", "listings": 1}]


def _rows(connection: Any, statement: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(statement)).mappings()]
