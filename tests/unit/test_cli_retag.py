"""Commands about what a new model version changes, against a client that answers from memory."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from jobs.records import Difference, Retagging, TagSaid
from tests.support.cli_fakes import Cars, rows_of

RETAGGING = Retagging(job="8", source="/photos", base="7", before="v1", after="v2", images=1200, unseen=1100)
DIFFERENCE = Difference(
    kind="image", job="7", listing=None, path="a.jpg",
    before=TagSaid(label="BMW M3 Coupe 2012", confidence=0.5, decision="make"),
    after=TagSaid(label="Acura TL Sedan 2012", confidence=0.875, decision="model"),
)  # fmt: skip


@pytest.fixture
def cars() -> Cars:
    return Cars()


def test_retag_prints_the_ids_and_nothing_else(cars: Cars) -> None:
    cars.client.retaggings = [RETAGGING, replace(RETAGGING, job="9")]
    result = cars("retag", "--stale", "--trial", "--model", "v2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "8\n9\n", "")
    assert cars.client.asked == {"job": None, "stale": True, "model": "v2", "trial": True, "dry_run": False}


def test_retag_says_what_it_would_have_to_read(cars: Cars) -> None:
    cars.client.retaggings = [replace(RETAGGING, job=None)]
    result = cars("retag", "7", "--dry-run")
    assert result.exit_code == 0
    assert rows_of(result) == [
        {
            "job": None, "source": "/photos", "base": "7", "from": "v1", "to": "v2", "images": 1200, "unseen": 1100,
            "error": None,
        }
    ]  # fmt: skip
    assert "1,100 images" in result.stderr
    assert "1,200" in cars("retag", "7", "--dry-run", "--format", "table").stdout


def test_retag_with_nothing_to_do(cars: Cars) -> None:
    result = cars("retag", "--stale")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to do" in result.stderr


def test_retag_names_the_sources_that_cannot_be_used(cars: Cars) -> None:
    cars.client.retaggings = [replace(RETAGGING, job=None, error="/photos does not exist"), RETAGGING]
    result = cars("retag", "--stale")
    assert (result.exit_code, result.stdout) == (1, "8\n")
    assert "error: /photos does not exist" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("7", "--stale")])
def test_retag_needs_a_job_or_all_that_are_stale(cars: Cars, arguments: tuple[str, ...]) -> None:
    result = cars("retag", *arguments)
    assert result.exit_code == 2
    assert "--stale" in result.stderr


def test_diff_as_csv_has_the_columns_of_images_and_listings(cars: Cars) -> None:
    of_listing = replace(DIFFERENCE, kind="listing", listing="a", path=None, photos_changed=True)
    cars.client.differences = [DIFFERENCE, of_listing]
    lines = list(csv.DictReader(cars("diff", "7", "v1", "v2", "--format", "csv").stdout.splitlines()))
    assert [(line["kind"], line["photos_changed"]) for line in lines] == [("image", ""), ("listing", "True")]
    assert json.loads(lines[0]["to"])["decision"] == "model"


def test_diff(cars: Cars) -> None:
    cars.client.differences = [DIFFERENCE]
    result = cars("diff", "7", "v1", "v2")
    assert rows_of(result) == [
        {
            "kind": "image", "job": "7", "listing": None, "path": "a.jpg",
            "from": {"label": "BMW M3 Coupe 2012", "confidence": 0.5, "decision": "make"},
            "to": {"label": "Acura TL Sedan 2012", "confidence": 0.875, "decision": "model"},
        }
    ]  # fmt: skip
    assert result.stderr == "1 difference\n"
    assert cars.client.asked == {"job": "7", "versions": ("v1", "v2")}
    table = cars("diff", "7", "v1", "v2", "--format", "table").stdout
    assert "Acura TL Sedan 2012 (model, 88%)" in table
