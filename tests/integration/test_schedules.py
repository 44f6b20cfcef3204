"""Schedules and their ledger, with the workers' steps taken by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from jobs import Client
from jobs.db.tables import FireRow, ScheduleRow
from jobs.errors import NotPossible, ScheduleNotFound, SettingsInvalid, SourceMissing, VersionNotFound
from jobs.records import CheckResult
from tests.support.processes import run_cars
from tests.support.steps import complete, count
from workers.recovery.schedules import fire_schedules, tidy_schedule
from workers.recovery.thread import recover
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]


def pass_time(client: Client, *, hours: float) -> None:
    """Let all schedules and their ledgers be older by so many hours."""
    times: tuple[tuple[Any, str], ...] = ((ScheduleRow, "anchor"), (ScheduleRow, "next_at"), (FireRow, "due_at"))
    with client.database.write() as connection:
        for table, name in times:
            column = getattr(table, name)
            for id, moment in connection.execute(select(table.id, column).order_by(column)).all():
                earlier = {name: moment - timedelta(hours=hours)}
                connection.execute(update(table).where(table.id == id).values(**earlier))


def outcomes(client: Client, name: str = "nightly") -> list[tuple[str, str | None, str | None]]:
    """Return the ledger, oldest first."""
    return [(row.outcome.value, row.reason, row.job) for row in reversed(client.schedules.show(name).ledger)]


@pytest.fixture
def doctor(client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[[], CheckResult]:
    """Return what `cars doctor` says of schedules; the worker that it would ask something else is none."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    return lambda: next(found for found in client.check() if found.check == "schedules")


def test_a_due_time_makes_a_job_as_a_submission_would(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(2)
    added = client.schedules.add("nightly", folder, every="1h", top_k=3, priority="high", model="tiny")
    assert (added.source, added.every, added.cron, added.timezone) == (str(folder), "1h", None, None)
    assert (added.paused, added.last_at, added.last_job) == (False, None, None)
    fire_schedules(worker)
    assert outcomes(client) == []
    pass_time(client, hours=1.2)
    recover(worker, idle=False)
    (fired,) = outcomes(client)
    assert fired == ("fired", None, "1")
    job = client.job("1")
    status = complete(job, worker)
    assert (status.name, status.source, status.ok, status.model_version) == ("nightly", str(folder), 2, "tiny")
    assert {len(result.top) for result in job.results()} == {3}
    shown = client.schedules.show("nightly")
    assert (shown.last_outcome, shown.last_reason, shown.last_job) == ("fired", None, "1")
    assert shown.last_at == shown.ledger[0].due_at
    assert shown.next_at is not None
    assert shown.next_at > shown.ledger[0].due_at
    fire_schedules(worker)
    assert len(outcomes(client)) == 1


def test_of_an_outage_the_newest_fires(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h")
    pass_time(client, hours=3.5)
    fire_schedules(worker)
    assert outcomes(client) == [("skipped", "missed", None), ("skipped", "missed", None), ("fired", None, "1")]
    due = [row.due_at for row in client.schedules.show("nightly").ledger]
    assert len(set(due)) == 3


def test_an_outage_writes_a_thousand_rows_at_most(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="5s")
    pass_time(client, hours=365 * 24)
    fire_schedules(worker)
    assert count(client, "fires") == 1_000
    assert outcomes(client)[-1] == ("fired", None, "1")


def test_a_job_that_runs_is_waited_for(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(1)
    client.schedules.add("nightly", folder, every="1h")
    pass_time(client, hours=1)
    fire_schedules(worker)
    pass_time(client, hours=1)
    fire_schedules(worker)
    assert outcomes(client)[-1] == ("skipped", "job 1 is still running", None)
    with pytest.raises(NotPossible, match="job 1 is still running"):
        client.schedules.run("nightly")
    complete(client.job("1"), worker)
    pass_time(client, hours=1)
    fire_schedules(worker)
    assert outcomes(client)[-1] == ("fired", None, "2")


def test_a_version_that_is_gone_is_a_reason(
    client: Client, runtime: Make, photos: Photos, publish: Callable[..., str], doctor: Callable[[], CheckResult]
) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h", model=publish("other"))
    client.retire("other")
    for _ in range(3):
        pass_time(client, hours=1)
        fire_schedules(worker)
    assert {outcome for outcome, _, _ in outcomes(client)} == {"skipped"}
    assert "other" in str(outcomes(client)[-1][1])
    found = doctor()
    assert not found.ok
    assert "nightly has not completed its last 3 due times" in found.detail
    client.retire("other", undo=True)
    pass_time(client, hours=1)
    fire_schedules(worker)
    assert doctor().ok


def test_many_at_once_write_one_row_per_due_time(client: Client, runtime: Make, photos: Photos) -> None:
    folder = photos(1)
    names = [f"s{number}" for number in range(4)]
    for name in names:
        client.schedules.add(name, folder, every="1h")
    workers = [runtime(identity) for identity in "abcd"]
    with ThreadPoolExecutor(len(workers)) as threads:
        for _ in range(3):
            pass_time(client, hours=1)
            list(threads.map(fire_schedules, workers))
    assert count(client, "fires") == 3 * len(names)
    assert count(client, "jobs") == len(names)  # none of them has ended


def test_pause_and_resume(client: Client, runtime: Make, photos: Photos, doctor: Callable[[], CheckResult]) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h")
    paused = client.schedules.pause("nightly")
    assert (paused.paused, paused.next_at) == (True, None)
    pass_time(client, hours=10)
    fire_schedules(worker)
    assert outcomes(client) == []
    assert doctor().ok
    assert client.schedules.run("nightly").id == "1"
    client.job("1").cancel()
    assert client.schedules.resume("nightly").next_at is not None
    assert "nightly is overdue since" in doctor().detail
    fire_schedules(worker)
    assert outcomes(client) == [("skipped", "missed", None)] * 9 + [("fired", None, "2")]
    assert doctor().ok


def test_adding_again(client: Client, runtime: Make, photos: Photos, tmp_path: Path) -> None:
    worker, folder = runtime(), photos(1)
    first = client.schedules.add("nightly", folder, cron="0 2 * * *", timezone="Europe/Berlin", keep=3)
    assert client.schedules.add("nightly", folder, cron=" 0  2 * * *", timezone="Europe/Berlin", keep=3) == first
    with pytest.raises(NotPossible, match=r"its keep is 3, not None.*--replace"):
        client.schedules.add("nightly", folder, cron="0 2 * * *", timezone="Europe/Berlin")
    with pytest.raises(NotPossible, match=r"its timezone is Europe/Berlin, not UTC"):
        client.schedules.add("nightly", folder, cron="0 2 * * *", keep=3)
    assert client.schedules.list() == [first]
    changed = client.schedules.add("nightly", folder, every="1h", replace=True)
    assert (changed.cron, changed.timezone, changed.every) == (None, None, "1h")
    pass_time(client, hours=2.5)
    more = client.schedules.add("nightly", folder, every="1h", priority="low", replace=True)
    assert more.every == "1h"
    assert outcomes(client) == []
    client.schedules.add("nightly", folder, every="2h", replace=True)  # what was due before has its rows, too
    assert outcomes(client) == [("skipped", "missed", None)] * 2
    fire_schedules(worker)
    assert len(outcomes(client)) == 2


def test_many_clients_add_the_same(client: Client, photos: Photos) -> None:
    folder = photos(1)
    with ThreadPoolExecutor(4) as threads:
        added = list(threads.map(lambda _: client.schedules.add("nightly", folder, every="1h"), range(4)))
    assert len({row.next_at for row in added}) == 1


def test_removing_keeps_the_jobs(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(1)
    client.schedules.add("nightly", folder, every="1h")
    pass_time(client, hours=1)
    fire_schedules(worker)
    client.schedules.remove("nightly")
    assert client.schedules.list() == []
    assert complete(client.job("1"), worker).ok == 1
    with pytest.raises(ScheduleNotFound, match="nightly"):
        client.schedules.show("nightly")
    client.schedules.add("nightly", folder, every="1h")
    assert outcomes(client) == []


def test_the_ledger_outlives_its_jobs(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h")
    pass_time(client, hours=1)
    fire_schedules(worker)
    complete(client.job("1"), worker)
    client.job("1").delete()
    assert outcomes(client) == [("fired", None, None)]


def run(client: Client, worker: Runtime, *, fails: bool = False) -> None:
    job = client.schedules.run("nightly")
    if fails:
        job.cancel()
    else:
        complete(job, worker)


def test_each_run_is_compared_with_the_one_before(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(3)
    client.schedules.add("nightly", folder, every="1h")
    run(client, worker)
    run(client, worker)
    with client.database.read() as connection:
        rows = connection.execute(text("SELECT incremental, base_id FROM jobs ORDER BY id")).all()
    assert [(bool(row.incremental), row.base_id) for row in rows] == [(True, None), (True, 1)]
    for path in folder.iterdir():
        path.unlink()
    emptied = complete(client.schedules.run("nightly"), worker)
    assert emptied.state == "failed"
    assert "--accept-shrink" in str(emptied.error)
    assert complete(client.schedules.run("nightly", accept_shrink=True), worker).state == "completed"


def test_a_version_that_a_schedule_pins_is_not_stale(
    client: Client, runtime: Make, photos: Photos, publish: Callable[..., str], tmp_path: Path
) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h", model="tiny")
    client.schedules.add("weekly", photos(1, 32, tmp_path / "others"), every="1h")
    run(client, worker)
    complete(client.schedules.run("weekly"), worker)
    client.promote(publish("other"))
    assert [found.source for found in client.retag(stale=True, dry_run=True)] == [str(tmp_path / "others")]


def test_older_runs_go_after_one_succeeds(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(1)
    other = client.submit(folder)
    complete(other, worker)
    client.schedules.add("nightly", folder, every="1h", keep=2)
    (schedule_id,) = _ids(client)
    kept = []
    for fails in (False, True, False, True, True):
        run(client, worker, fails=fails)
        tidy_schedule(worker, schedule_id)
        kept.append([int(status.id) for status in client.jobs()][:-1])
    assert kept == [[2], [3, 2], [4, 3], [5, 4, 3], [6, 5, 4, 3]]
    run(client, worker)
    tidy_schedule(worker, schedule_id)
    assert [status.id for status in client.jobs()] == ["7", "6", other.id]


def test_workers_are_asked_to_tidy_up_when_a_run_has_ended(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    client.schedules.add("nightly", photos(1), every="1h", keep=1)
    run(client, worker)
    notes: Any = worker.notify
    assert ("workers.tidy_schedule", *_ids(client)) in notes.sent


def _ids(client: Client) -> list[int]:
    with client.database.read() as connection:
        return list(connection.scalars(text("SELECT id FROM schedules")))


def test_prune_spares_what_schedules_show(client: Client, runtime: Make, photos: Photos) -> None:
    worker, folder = runtime(), photos(2)
    client.schedules.add("nightly", folder, every="1h")
    client.schedules.add("weekly", folder, every="7d")
    run(client, worker)
    complete(client.schedules.run("weekly"), worker)
    run(client, worker)
    run(client, worker, fails=True)
    by_hand = client.submit(folder)
    complete(by_hand, worker)
    assert client.prune(timedelta(0), dry_run=True) == {"jobs": 2, "predictions": 0}
    assert client.prune(timedelta(0)) == {"jobs": 2, "predictions": 0}
    assert [status.id for status in client.jobs()] == [by_hand.id, "3", "2"]
    for name in ("nightly", "weekly"):
        client.schedules.remove(name)
    assert client.prune(timedelta(0), dry_run=True) == {"jobs": 3, "predictions": 2}
    assert client.prune(timedelta(0)) == {"jobs": 3, "predictions": 2}


def test_what_cannot_be_added(client: Client, runtime: Make, photos: Photos, tmp_path: Path) -> None:
    runtime()
    folder = photos(1)
    refused: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (SettingsInvalid, "name 'a b'", folder, {"name": "a b"}),
        (SettingsInvalid, "name ''", folder, {"name": ""}),
        (SettingsInvalid, "name", folder, {"name": "n" * 65}),
        (SettingsInvalid, "name", folder, {"name": "né"}),
        (SettingsInvalid, "name", folder, {"name": "n\n"}),
        (SettingsInvalid, "cron", folder, {"cron": "* * * * *"}),
        (SettingsInvalid, "keep must be from 1", folder, {"keep": 0}),
        (SettingsInvalid, "listing_depth must be from 0 to 10", folder, {"listing_depth": 11}),
        (SettingsInvalid, "listing_depth and manifest", folder, {"listing_depth": 1, "manifest": "m.csv"}),
        (SettingsInvalid, "top_k", folder, {"top_k": 0}),
        (SettingsInvalid, "priority", folder, {"priority": "urgent"}),
        (SettingsInvalid, "CARS_NOTIFY_HOSTS", folder, {"notify": "https://hooks.example.com/x"}),
        (SettingsInvalid, "must be a folder", folder / "000001.jpg", {}),
        (SourceMissing, "nowhere", tmp_path / "nowhere", {}),
        (VersionNotFound, "nobody", folder, {"model": "nobody"}),
    ]
    for kind, match, source, options in refused:
        with pytest.raises(kind, match=match):
            client.schedules.add(**{"name": "nightly", "every": "1h", **options}, source=source)
    assert client.schedules.list() == []


def test_wrong_usage_exits_with_2_and_names_the_part(client: Client, photos: Photos) -> None:
    folder = str(photos(1))
    for options, part in ((["--every", "4s"], "every"), (["--cron", "61 2 * * *"], "cron"), ([], "--cron")):
        done = run_cars("schedule", "add", "nightly", folder, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert part in done.stderr
