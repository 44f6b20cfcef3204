"""What docs/training.md tells people to do with their own listings works, command by command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tests.support.drawn_cars import LOOKS, Car, draw, write_catalogue
from tests.support.pages import blocks, run
from tests.support.processes import CHECKOUT

DOCS = (CHECKOUT / "docs" / "training.md").read_text()
SECTION = DOCS.partition("## From last year's listings to a model in production")[2].partition("\n## ")[0]
PARTS = {car.label: (car.make, car.model, car.body or None, int(car.year) if car.year else None) for car in LOOKS}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_last_years_listings_to_a_model_in_production(tmp_path: Path, home: Path) -> None:
    train, look, use = blocks(SECTION, "sh")
    splits = {"train": 16, "calibration": 4, "holdout": 6}
    listings = write_catalogue(tmp_path, splits=splits, few=Car("Lada", "Niva Legend"))
    for at, car in enumerate([*LOOKS] * 3):
        (tmp_path / "stock").mkdir(exist_ok=True)
        draw(car, 900 + at).save(tmp_path / "stock" / f"{at:02}.jpg", quality=92)
    [example] = blocks(SECTION, "csv")
    assert example.splitlines()[0] == listings.read_text().splitlines()[0]
    env = {"CARS_HOME": str(home)}

    number, _, shown = run(train, folder=tmp_path, env=env, seconds=1500).partition("\n")
    status = json.loads(shown)
    assert (number, status["state"], status["promoted"]) == ("1", "published", False), status
    assert "Lada Niva Legend (1)" in status["notes"][0]
    assert f"cars model promote {status['model_version']}" in status["reason"]

    shown = run(look.replace("VERSION", status["model_version"]), folder=tmp_path, env=env)
    card, end = json.JSONDecoder().raw_decode(shown)
    assert {name: tuple(parts.values()) for name, parts in card["class_parts"].items()} == PARTS
    assert json.loads(shown[end:])["images"] == len(LOOKS) * splits["holdout"]
    assert "Lada Niva Legend (1)" in (tmp_path / "stderr").read_text()

    rows = [json.loads(line) for line in run(use, folder=tmp_path, env=env).splitlines()]
    assert len(rows) == 12
    assert {row["model_version"] for row in rows} == {status["model_version"]}
    sure = [row for row in rows if row["decision"] != "make"]  # of the others the make is that of all classes together
    assert [(row["make"], row["model"], row["body"], row["year"]) for row in sure] == [
        PARTS[row["label"]] for row in sure
    ]
    with (tmp_path / "kg.csv").open(newline="") as file:
        found = {row["path"] for row in csv.DictReader(file)}
    assert found == {row["path"] for row in rows if row["make"] == "KG Mobility"} != set()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(#([^)]+)\)", DOCS))))
def test_links_within_the_page_lead_somewhere(target: str) -> None:
    headings = re.findall(r"^#+ (.*)$", DOCS, re.MULTILINE)
    assert target in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
