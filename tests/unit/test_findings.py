"""What the report finds in the results of a job, and which photos it chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from jobs.job import Job
from jobs.records import JobStatus, Result
from jobs.report.findings import Findings, collect
from tests.support.cli_fakes import A_FAILURE, STATUS, a_result


class _Job:
    """A job with these results."""

    id = "7"

    def __init__(self, rows: Sequence[Result]) -> None:
        self._rows = rows

    def status(self) -> JobStatus:
        return STATUS

    def results(self, **_wanted: Any) -> Iterator[Result]:
        return iter(self._rows)


def findings(rows: Sequence[Result], *, images: int = 50, in_conflict: Sequence[str] | None = None) -> Findings:
    return collect(cast("Job", _Job(rows)), images=images, in_conflict=in_conflict)


def row(number: int, **changes: Any) -> Result:
    return a_result(f"{number:03}.jpg", **{"content_hash": f"{number:064}", **changes})


def test_counts_and_charts() -> None:
    rows = [
        row(0, confidence=1.0),
        row(1, confidence=0.97),
        row(2, decision="make", make="BMW", confidence=0.6),
        row(3, decision="unknown", confidence=0.04),
        A_FAILURE,
        row(4, status="pending", decision=None, confidence=None),
    ]
    found = findings(rows)
    assert found.decisions == {"model": 2, "make": 1, "unknown": 1}
    assert found.makes == [("Acura", 2), ("BMW", 1)]
    assert found.models == [("Acura TL", 2)]
    assert found.failures == [("truncated", 1)]
    assert [photo.path for photo in found.examples["truncated"]] == ["bad.jpg"]
    bins = {name: {at for at, images in enumerate(row) if images} for name, row in found.histogram.items()}
    assert bins == {"model": {19}, "make": {12}, "unknown": {0}}
    assert found.histogram["model"][19] == 2


def test_the_least_sure_of_each_decision_come_first_and_no_photo_twice() -> None:
    rows = [row(n, confidence=0.8 + n / 1000) for n in range(100)]
    rows += [row(100 + n, decision="unknown", confidence=0.1 + n / 1000) for n in range(100)]
    groups = {group.title: group.images for group in findings(rows, images=20).groups}
    assert [photo.path for photo in groups["Least sure of “model”"]] == [f"{n:03}.jpg" for n in range(4)]
    assert [photo.path for photo in groups["Least sure of “unknown”"]] == [f"{n:03}.jpg" for n in range(100, 104)]
    every = [photo.path for photos in groups.values() for photo in photos]
    assert len(every) == len(set(every)) <= 20
    assert len(groups["A sample"]) >= 8


def test_the_sample_is_the_same_each_time() -> None:
    rows = [row(n) for n in range(300)]
    assert findings(rows, images=30).groups == findings(rows, images=30).groups


def test_the_same_content_is_shown_once() -> None:
    groups = findings([row(n, content_hash="aa") for n in range(50)], images=20).groups
    assert sum(len(group.images) for group in groups) == 1


def test_listings_whose_photos_name_several_makes_are_in_conflict() -> None:
    rows = [row(n, listing="good") for n in range(3)]
    rows += [row(10 + n, listing="bad", make=make) for n, make in enumerate(["Acura", "Acura", "BMW"])]
    rows += [row(20, listing="vague"), row(21, listing="vague", make="BMW", decision="unknown")]
    found = findings(rows)
    assert [(conflict.listing, conflict.makes) for conflict in found.conflicts] == [("bad", [("Acura", 2), ("BMW", 1)])]
    assert found.all_conflicts == 1


def test_where_there_are_verdicts_they_say_which_listings_are_in_conflict() -> None:
    rows = [row(n, listing="sound", make=make) for n, make in enumerate(["Acura", "BMW"])]
    rows += [row(10, listing="bad", make="Audi"), row(11, listing="bad", make="BMW", decision="unknown")]
    rows += [row(20, listing="people", make="Acura")]  # said to be in conflict by corrections
    found = findings(rows, in_conflict=["bad", "people"])
    assert [(conflict.listing, conflict.makes) for conflict in found.conflicts] == [
        ("bad", [("Audi", 1), ("BMW", 1)]),
        ("people", [("Acura", 1)]),
    ]
    assert found.all_conflicts == 2


def test_duplicates_are_contents_in_several_listings() -> None:
    rows = [row(0, listing="a", content_hash="aa"), row(1, listing="a", content_hash="aa")]
    rows += [row(2, listing="b", content_hash="bb"), row(3, listing="c", content_hash="bb")]
    rows += [row(4, listing=None, content_hash="aa")]
    found = findings(rows)
    assert [(one.listings, one.paths) for one in found.duplicates] == [(2, ["002.jpg", "003.jpg"])]
    assert found.all_duplicates == 1


@pytest.mark.parametrize("images", [0, 1, 5, 200])
def test_never_more_photos_than_asked(images: int) -> None:
    rows = [row(n, listing=str(n // 4), make="Acura" if n % 2 else "BMW") for n in range(400)]
    rows += [a_result(f"bad{n}.jpg", status="failed", error=A_FAILURE.error, decision=None) for n in range(50)]
    assert sum(len(group.images) for group in findings(rows, images=images).groups) <= images
