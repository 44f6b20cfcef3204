"""Summaries and counts, from totals, agree with the results one by one, whatever happens to the jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import Client
from jobs.errors import SettingsInvalid
from jobs.job import Job
from jobs.records import Result
from jobs.states import SummaryKey
from tests.support.steps import drain
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.runtime import Runtime

Make = Callable[..., Runtime]

KEYS: dict[str, Callable[[Result], Any]] = {
    "make": lambda result: result.make,
    "model": lambda result: result.model,
    "body": lambda result: result.body,
    "year": lambda result: result.year,
    "decision": lambda result: result.decision,
    "listing": lambda result: result.listing,
    "day": lambda result: result.finished_at and result.finished_at[:10],
    "version": lambda result: result.model_version,
    "code": lambda result: result.error and result.error.code,
}
OF_THE_PREDICTED = ("make", "model", "body", "year", "decision")
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"make": "Acura"},
    {"status": "failed"},
    {"status": "ok"},
    {"status": "pending"},
    {"status": "canceled"},
    {"decision": "model"},
    {"year": 2012},
    {"listing": "a"},
    {"min_confidence": 0.5},
    {"since": "2020-01-01"},
    {"version": "tiny"},
)


def cars(folder: Path, listings: str) -> Path:
    """Images of all four classes in each listing, and a broken one."""
    for listing in listings:
        for red in range(4):
            file = folder / listing / f"{red}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (red, ord(listing), 0)).save(file)
        (folder / listing / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return folder


def finished(client: Client, folder: Path, worker: Runtime) -> Job:
    job = client.submit(str(folder))
    scan_job(worker, int(job.id))
    while classify_batch(worker):
        pass
    return job


def one_by_one(results: list[Result], by: str | None) -> dict[Any, tuple[int, int, Any, Any]]:
    """What a summary should say, from the results themselves."""
    groups: dict[Any, list[Result]] = defaultdict(list)
    for result in results:
        if result.status not in ("ok", "failed") or (by in OF_THE_PREDICTED and result.error):
            continue
        if by != "code" or result.error:
            groups[KEYS[by](result) if by else None].append(result)
    return {value: expected(rows) for value, rows in groups.items()}


def expected(rows: list[Result]) -> tuple[int, int, Any, Any]:
    sure = [row.confidence for row in rows if row.confidence is not None]
    decided = sum(row.decision in ("model", "make") for row in rows)
    if not sure:
        return 0, len(rows), None, None
    mean, fraction = sum(sure) / len(sure), decided / len(sure)
    return len(sure), len(rows) - len(sure), pytest.approx(mean, abs=1e-5), pytest.approx(fraction, abs=1e-5)


def check(client: Client, *jobs: Job) -> None:
    everything = [result for job in jobs for result in job.results()]
    for by in (None, *(key.value for key in SummaryKey)):
        of_jobs = [(job.summary(by=by), [row for row in everything if row.job == job.id]) for job in jobs]
        for rows, found in ((client.summary(by=by), everything), *of_jobs):
            said = {row.value: (row.ok, row.failed, row.mean_confidence, row.decided) for row in rows if row.images}
            assert said == one_by_one(found, by), by
            assert all(row.by == by and row.images == row.ok + row.failed for row in rows)
    for wanted in FILTERS:
        for ask in (client.results, *(job.results for job in jobs)):
            assert ask(**wanted).count() == len(list(ask(**wanted))), wanted


def test_summaries_and_counts_agree_with_the_results(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime(batch_size=4)
    first, second = (finished(client, cars(tmp_path / name, name), worker) for name in ("ab", "bc"))
    check(client, first, second)
    (tmp_path / "ab/a/broken.png").unlink()
    Image.new("RGB", (16, 16), (1, 200, 0)).save(tmp_path / "ab/a/broken.png")
    first.retry()
    drain(worker)
    assert (first.status().ok, first.status().failed) == (9, 1)
    check(client, first, second)
    stopped = client.submit(str(tmp_path / "ab"))
    scan_job(worker, int(stopped.id))
    classify_batch(worker)
    running = client.submit(str(tmp_path / "bc"))
    scan_job(worker, int(running.id))
    stopped.cancel()
    classify_batch(worker)
    assert stopped.status().canceled > 0 < running.status().pending
    check(client, first, second, stopped, running)
    second.delete()
    check(client, first, stopped, running)


def test_days_and_limits(client: Client, runtime: Make, tmp_path: Path) -> None:
    job = finished(client, cars(tmp_path / "cars", "ab"), runtime())
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    assert sum(row.images for row in job.summary(by="day", since=yesterday)) == 10
    assert job.summary(since=yesterday)[0].images == 10
    assert [row.value for row in client.summary(by="listing", limit=1)] == ["a"]
    assert [row.value for row in job.summary(by="listing", limit=1)] == ["a"]
    assert [row.value for row in client.summary(by="make", limit=1)] == ["Acura"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"by": "colour"}, "by must be one of make, model, body, year, decision, listing, day, version, code"),
        ({"since": "2999-01-01"}, "since must not lie in the future"),
        ({"by": "make", "limit": 0}, "limit must be at least 1"),
    ],
)
def test_what_cannot_be_summed_up(client: Client, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        client.summary(**wanted)


def test_an_empty_database(client: Client) -> None:
    assert [row.images for row in client.summary()] == [0]
    assert client.summary(by="make") == client.summary(by="listing") == client.summary(by="day") == []
