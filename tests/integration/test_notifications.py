"""URLs that are told of the ends of jobs, with a worker's steps taken by hand."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from jobs import Client, Job
from jobs.db.queries import jobs as job_rows
from jobs.db.queries import notifications as rows
from jobs.db.tables import NotificationRow
from jobs.errors import KeyInUse, SettingsInvalid
from jobs.records import CheckResult
from tests.support.processes import run_cars
from tests.support.receivers import Receiver
from tests.support.steps import complete, count, drain
from workers.notifications import delivery
from workers.notifications.delivery import PAUSES, deliver_due
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]
Ended = Callable[..., Job]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiver]]:
    """`receiver(*answers)`: a server that this process's settings list."""
    made = []

    def make(*answers: Any, **options: Any) -> Receiver:
        made.append(Receiver(*answers, **options))
        for name, value in made[-1].env.items():
            monkeypatch.setenv(name, value)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def doctor(client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[[], CheckResult]:
    """Return what `cars doctor` says of notifications; the worker that it would ask something else is none."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    return lambda: next(found for found in client.check() if found.check == "notifications")


def ended(server: Receiver, worker: Runtime, folder: Path) -> Job:
    """Return a job that has ended and tells the server so."""
    with Client() as client:  # whose settings list it
        job = client.submit(folder, notify=server.url)
        complete(job, worker)
    return job


def notified(client: Client, job: Job) -> str | None:
    return client.job(job.id).status().notified


def row(client: Client) -> Any:
    with client.database.read() as connection:
        columns = (*NotificationRow.__table__.columns,)
        return connection.execute(select(*columns).order_by(NotificationRow.id.desc()).limit(1)).one()


def let_it_be_due(client: Client) -> None:
    with client.database.write() as connection:
        connection.execute(update(NotificationRow).values(next_at=datetime.now().astimezone() - timedelta(days=1)))


def test_a_job_that_has_ended_is_told_of(
    client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]
) -> None:
    server = receiver(204)
    worker = runtime()
    job = ended(server, worker, photos(2))
    assert notified(client, job) == "pending"
    assert deliver_due(worker) == 1
    (request,) = server.requests
    told = request.verified()
    assert set(told) == {"type", "timestamp", "data"}
    assert (told["type"], told["timestamp"]) == ("job.finished", told["data"]["finished_at"])
    status = client.job(job.id).status().to_dict()
    assert status.pop("notified") == "delivered"
    assert told["data"].pop("notified") == "pending"
    for moment in (status, told["data"]):  # it depends on when one looks
        moment.pop("images_per_second")
    assert told["data"] == status
    assert (request.path, request.headers["content-type"]) == ("/hook?token=t", "application/json")
    assert deliver_due(worker) == 0
    assert count(client, "jobs") == 1
    client.job(job.id).delete()
    assert count(client, "notifications") == 0


def test_however_a_job_ends_and_each_time(
    client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]
) -> None:
    server = receiver(200)
    worker, folder = runtime(), photos(1)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    job = ended(server, worker, folder)
    with client.database.write() as connection:
        assert not job_rows.cancel(connection, job.number)
    again = client.job(job.id)
    assert again.retry().notified is None
    drain(worker)
    assert again.status().notified == "pending"
    with Client() as other:
        canceled, failed = (other.submit(folder, notify=server.url) for _ in range(2))
        canceled.cancel()
        with other.database.write() as connection:
            assert job_rows.fail(connection, failed.number, "given up")
        quiet = other.submit(folder)
        quiet.cancel()
        assert quiet.status().notified is None
    while deliver_due(worker):
        pass
    told = [request.verified()["data"] for request in server.requests]
    assert sorted((data["id"], data["state"]) for data in told) == [
        (job.id, "completed_with_errors"),
        (job.id, "completed_with_errors"),
        (canceled.id, "canceled"),
        (failed.id, "failed"),
    ]
    assert len({request.id for request in server.requests}) == 4


def test_it_fails_twice_then_hangs_and_is_delivered_once(
    client: Client,
    runtime: Make,
    photos: Photos,
    receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "REQUEST_SECONDS", 0.5)
    release = threading.Event()

    def hang() -> int:
        release.wait(30)
        return 200

    server = receiver(500, 302, hang, 200, headers={"location": "/elsewhere"})
    worker = runtime()
    job = ended(server, worker, photos(1))
    for attempt, error in enumerate(("answered 500", "answered 302", "no answer within 0.5 s")):
        asked_at = row(client).next_at
        assert deliver_due(worker) == 1
        assert notified(client, job) == "pending"
        waits = row(client)
        assert error in waits.last_error
        assert waits.attempt == attempt + 1
        pause = (waits.next_at - max(asked_at, waits.next_at - timedelta(seconds=PAUSES[attempt] * 2))).total_seconds()
        assert pause >= 0.8 * PAUSES[attempt]
        assert deliver_due(worker) == 0
        let_it_be_due(client)
    release.set()
    assert deliver_due(worker) == 1
    assert notified(client, job) == "delivered"
    assert deliver_due(worker) == 0
    assert [request.path for request in server.requests] == ["/hook?token=t"] * 4
    assert len({request.id for request in server.requests}) == 1
    for request in server.requests:
        request.verified()


def test_after_the_last_attempt_it_is_given_up(
    client: Client,
    runtime: Make,
    photos: Photos,
    receiver: Callable[..., Receiver],
    doctor: Callable[[], CheckResult],
) -> None:
    server = receiver(503)
    worker = runtime()
    job = ended(server, worker, photos(1))
    assert doctor().ok
    for _ in range(1 + len(PAUSES)):
        assert notified(client, job) == "pending"
        let_it_be_due(client)
        assert deliver_due(worker) == 1
    assert notified(client, job) == "given_up"
    assert not doctor().ok
    assert "answered 503" in doctor().detail
    assert len(server.requests) == 8


def test_gone_ends_it(client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]) -> None:
    server = receiver(410)
    worker = runtime()
    job = ended(server, worker, photos(1))
    deliver_due(worker)
    assert notified(client, job) == "given_up"
    assert "410" in row(client).last_error


def test_nobody_listens(client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]) -> None:
    server = receiver(200)
    server.close()
    worker = runtime()
    job = ended(server, worker, photos(1))
    deliver_due(worker)
    assert notified(client, job) == "pending"
    assert row(client).last_error.startswith("no answer: ")


@pytest.mark.parametrize(
    ("missing", "reason"), [("CARS_NOTIFY_SECRET", "has no CARS_NOTIFY_SECRET"), ("CARS_NOTIFY_HOSTS", "not listed")]
)
def test_a_worker_that_may_not_send(
    client: Client,
    runtime: Make,
    photos: Photos,
    receiver: Callable[..., Receiver],
    doctor: Callable[[], CheckResult],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    reason: str,
) -> None:
    server = receiver(200)
    job = ended(server, runtime(), photos(1))
    monkeypatch.delenv(missing)
    deliver_due(runtime("b"))
    assert notified(client, job) == "given_up"
    assert reason in doctor().detail
    assert not doctor().ok
    assert server.requests == []


def test_proxies_are_not_asked(
    client: Client,
    runtime: Make,
    photos: Photos,
    receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, server = Receiver(200), receiver(200)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.host}")
    job = ended(server, runtime(), photos(1))
    deliver_due(runtime("b"))
    proxy.close()
    assert notified(client, job) == "delivered"
    assert (len(proxy.requests), len(server.requests)) == (0, 1)


def test_a_claim_is_of_one_worker_until_it_expires(
    client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]
) -> None:
    server = receiver(200)
    worker = runtime()
    ended(server, worker, photos(1))
    with client.database.write() as connection:
        (lost,) = rows.claim(connection, owner="crashed:1", seconds=60, limit=8)
    assert deliver_due(worker) == 0
    let_it_be_due(client)
    assert deliver_due(worker) == 1
    with client.database.write() as connection:
        assert not rows.postpone(connection, lost, "too late", seconds=0)
    assert row(client).state == "delivered"
    assert server.requests[0].id == lost.webhook_id


def test_a_url_that_is_not_listed_is_wrong_usage_and_nothing_is_written(
    client: Client, runtime: Make, photos: Photos
) -> None:
    runtime()
    folder = photos(1)
    for url in ("https://hooks.example.com/x", "ftp://hooks.example.com", "x"):
        with pytest.raises(SettingsInvalid, match="notify"):
            client.submit(folder, notify=url)
    done = run_cars("submit", str(folder), "--notify", "https://hooks.example.com/x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CARS_NOTIFY_HOSTS" in done.stderr
    assert count(client, "jobs") == 0


def test_a_key_with_another_url_is_another_request(
    client: Client, runtime: Make, photos: Photos, receiver: Callable[..., Receiver]
) -> None:
    server = receiver(200)
    runtime()
    folder = photos(1)
    with Client() as other:
        job = other.submit(folder, key="k", notify=server.url)
        assert other.submit(folder, key="k", notify=server.url).id == job.id
        assert other.submit(folder, key="k").id == job.id
        with pytest.raises(KeyInUse, match="its notify is") as caught:
            other.submit(folder, key="k", notify=f"http://{server.host}/other")
        assert "token=t" not in str(caught.value)
