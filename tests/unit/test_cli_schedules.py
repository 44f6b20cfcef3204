"""The commands about schedules, with a client that answers from memory."""

from __future__ import annotations

import json

import pytest

from tests.support.cli_fakes import Cars, rows_of

LISTED = {
    "name": "nightly", "source": "/photos", "cron": "0 2 * * *", "every": None, "timezone": "Europe/Berlin",
    "paused": False, "next_at": "2026-01-03T01:00:00.000Z", "last_at": "2026-01-02T01:00:00.000Z",
    "last_outcome": "skipped", "last_reason": "job 6 is still running", "last_job": None,
}  # fmt: skip


@pytest.fixture
def cars() -> Cars:
    return Cars()


def test_add_passes_its_options_on(cars: Cars) -> None:
    options = ["--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "--keep", "7", "--model", "v1", "--top-k", "3"]
    more = ["--priority", "low", "--listing-depth", "2", "--notify", "https://hooks/x", "--replace"]
    result = cars("schedule", "add", "nightly", "photos", *options, *more)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("schedule nightly: next 2026-01-0")
    assert cars.client.asked == {
        "name": "nightly", "source": "photos", "cron": "0 2 * * *", "timezone": "Europe/Berlin", "keep": 7,
        "model": "v1", "top_k": 3, "priority": "low", "listing_depth": 2, "notify": "https://hooks/x", "replace": True,
    }  # fmt: skip


def test_list(cars: Cars) -> None:
    assert rows_of(cars("schedule", "list", "--format", "jsonl")) == [LISTED]
    table = cars("schedule", "list", "--format", "table").stdout
    assert "nightly" in table
    assert "0 2 * * * Europe/Berlin" in table
    assert "job 6 is still running" in table


def test_show_has_the_ledger(cars: Cars) -> None:
    shown = json.loads(cars("schedule", "show", "nightly", "--format", "json").stdout)
    ledger = shown.pop("ledger")
    assert shown == LISTED
    assert ledger == [
        {
            "due_at": "2026-01-02T01:00:00.000Z",
            "outcome": "skipped",
            "reason": "job 6 is still running",
            "job": None,
        },
        {"due_at": "2026-01-01T01:00:00.000Z", "outcome": "fired", "reason": None, "job": "6"},
    ]
    assert "fired" in cars("schedule", "show", "nightly", "--format", "table").stdout


def test_a_schedule_that_is_not_there(cars: Cars) -> None:
    result = cars("schedule", "show", "weekly")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cars schedule list" in result.stderr


def test_the_others_say_what_they_did(cars: Cars) -> None:
    assert cars("schedule", "run", "nightly").stdout == "7\n"
    assert cars("schedule", "run", "nightly", "--accept-shrink").exit_code == 0
    assert cars.client.asked == {"accept_shrink": True}
    for command, said in (("pause", "is paused"), ("resume", "next 2026-01-0"), ("remove", "its jobs stay")):
        result = cars("schedule", command, "nightly")
        assert (result.exit_code, result.stdout) == (0, "")
        assert said in result.stderr
