"""The client against both backends, with no worker about."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import jobs.backend
from jobs import Client, Job
from jobs import settings as configuration
from jobs.errors import (
    ClientClosed,
    JobNotFound,
    KeyInUse,
    NotPossible,
    SettingsInvalid,
    SourceEmpty,
    SourceMissing,
    SourceNotAllowed,
    VersionNotFound,
    WaitTimeout,
)
from jobs.job import check_source
from tests.support.backends import Backend
from tests.support.steps import complete, count
from workers.runtime import Runtime


def test_submit(client: Client, photos: Callable[..., Path]) -> None:
    folder = photos(2)
    job = client.submit(str(folder), priority="high")
    status = job.status()
    assert (status.state, status.source, status.name) == ("queued", str(folder), "photos")
    assert (status.total, status.pending) == (0, 0)
    assert status.model_version == client.model().name
    assert client.job(job.id).status() == status
    assert client.submit(folder, name="July").status().name == "July"


def test_jobs_newest_first(client: Client, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.job.PAGE", 2)
    folder = str(photos(1))
    ids = [client.submit(folder).id for _ in range(5)]
    client.job(ids[1]).cancel()
    assert [status.id for status in client.jobs()] == ids[::-1]
    assert [status.id for status in client.jobs(limit=3)] == ids[:1:-1]
    assert [status.id for status in client.jobs(state="canceled")] == [ids[1]]


def test_refused_submissions_leave_no_job(client: Client, photos: Callable[..., Path], tmp_path: Path) -> None:
    folder = str(photos(1))
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    refused: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (SourceMissing, "does not exist", str(tmp_path / "nowhere"), {}),
        (SourceMissing, "'x.jpg' does not exist", ["x.jpg"], {}),
        (SourceMissing, "is a folder among files", [f"{folder}/000001.jpg", folder], {}),
        (
            SourceMissing,
            "'s3://b/x.jpg' does not exist: .*of this machine",
            [f"{folder}/000001.jpg", "s3://b/x.jpg"],
            {},
        ),
        (SourceMissing, "no file is named", [], {}),
        (SourceMissing, "names no folder", "", {}),
        (SourceNotAllowed, "CARS_SOURCE_ROOTS", "/etc", {}),
        (SourceNotAllowed, "ftp", "ftp://host/photos", {}),
        (SourceEmpty, r"has no images: its files are others \(1 .txt\)", str(tmp_path / "empty"), {}),
        (VersionNotFound, "nobody.*cars models", folder, {"model": "nobody"}),
        (SettingsInvalid, "low, normal, high", folder, {"priority": "urgent"}),
        (SettingsInvalid, "top_k", folder, {"top_k": 0}),
        (SettingsInvalid, "key", folder, {"key": ""}),
        (SettingsInvalid, "key", folder, {"key": "k" * 201}),
    ]
    for error, message, source, options in refused:
        with pytest.raises(error, match=message):
            client.submit(source, **options)
    assert list(client.jobs()) == []


def test_no_roots_on_a_server_allow_nothing(client: Client, photos: Callable[..., Path], backend: Backend) -> None:
    settings = configuration.load().model_copy(update={"source_roots": None})
    with Client(settings=settings) as other:
        if backend.name == "embedded":
            other.submit(str(photos(1)))
        else:
            with pytest.raises(SourceNotAllowed, match="none"):
                other.submit(str(photos(1)))


def test_same_key_same_job(client: Client, photos: Callable[..., Path], tmp_path: Path) -> None:
    folder = photos(1)
    first = client.submit(folder, key="nightly", name="July")
    assert client.submit(str(folder), key="nightly").id == first.id
    assert client.submit(folder, key="nightly", model="production").id == first.id
    assert client.submit(folder, key="other").id != first.id
    (folder / "000001.jpg").unlink()
    assert client.submit(folder, key="nightly").id == first.id


def test_the_same_key_for_another_request(
    client: Client, photos: Callable[..., Path], publish: Callable[..., str], tmp_path: Path
) -> None:
    folder = photos(2)
    first = client.submit(folder, key="nightly")
    live = client.model().name
    others: tuple[tuple[Any, dict[str, Any], str], ...] = (
        (tmp_path / "gone by now", {}, f"source is {folder}, not {tmp_path}/gone by now"),
        (folder, {"top_k": 2}, "top_k is 5, not 2"),
        (folder, {"priority": "high"}, "priority is normal, not high"),
        (folder, {"name": "July"}, "name is photos, not July"),
        (folder, {"model": publish("other")}, f"version is {live}, not other"),
        (folder / "000001.jpg", {}, "files are others"),
        (folder, {"top_k": 2, "priority": "low"}, "top_k is 5, not 2, its priority is normal, not low"),
    )
    for source, options, difference in others:
        with pytest.raises(KeyInUse, match=f"'nightly' belongs to job {first.id}.*{re.escape(difference)}.*--reuse"):
            client.submit(source, key="nightly", **options)
        assert client.submit(source, key="nightly", **options, reuse=True).id == first.id
    assert client.submit([folder / "000001.jpg"], key="new", reuse=True).id != first.id
    assert count(client, "jobs") == 2


def test_single_files(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.classification.scan.CHUNK", 2)
    folder = photos(3)
    photos(2, folder=folder / "a2" / "deep")
    (folder / "a2/odd \\name.txt").write_text("no photo, but it was named")
    named = [folder / "a2/deep/000004.jpg", folder / "000002.jpg", folder / "a2/odd \\name.txt", folder / "000002.jpg"]
    worker = runtime(batch_size=1)
    job = client.submit(named, key="some")
    assert client.submit(named[::-1], key="some").id == job.id
    status = complete(job, worker)
    assert (status.source, status.name, status.total) == (str(folder), "photos", 3)
    assert [(r.path, r.listing, r.status) for r in job.results()] == [
        ("000002.jpg", None, "ok"),
        ("a2/deep/000004.jpg", "a2", "ok"),
        (r"a2/odd \\name.txt", "a2", "failed"),
    ]
    monkeypatch.chdir(folder)
    single = client.submit("000003.jpg")
    status = complete(single, worker)
    assert (status.source, status.name, status.total) == (str(folder), "000003.jpg", 1)
    job.delete()
    assert count(client, "listed_files") == 1


def test_files_outside_the_roots(client: Client, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.jpg"
    outside.write_bytes(b"x")
    with pytest.raises(SourceNotAllowed, match="CARS_SOURCE_ROOTS"):
        client.submit([outside])


def test_same_key_from_two_threads(
    client: Client, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(photos(1))
    both_looked = threading.Barrier(2)
    look = check_source

    def look_together(backend: jobs.backend.Backend, canonical: str, *, whole: bool) -> None:
        look(backend, canonical, whole=whole)
        both_looked.wait(30)  # each has found no job with this key by now

    monkeypatch.setattr("jobs.job.check_source", look_together)
    with ThreadPoolExecutor(2) as threads:
        ids = {job.id for job in threads.map(lambda _: client.submit(folder, key="nightly"), range(2))}
    assert len(ids) == count(client, "jobs") == 1


def test_a_closed_client(client: Client, photos: Callable[..., Path]) -> None:
    folder = str(photos(1))
    job = client.submit(folder)
    client.close()
    client.close()
    for call in (
        client.models,
        client.migrate,
        job.status,
        job.cancel,
        lambda: list(client.jobs()),
        lambda: client.submit(folder),
    ):
        with pytest.raises(ClientClosed):
            call()


def test_settings_and_urls_exclude_each_other() -> None:
    with pytest.raises(SettingsInvalid, match="either"):
        Client(settings=configuration.load(), database_url="sqlite:///x.db")


def test_job_not_found(client: Client) -> None:
    for id in ("404", "", "abc", "-1", "1.0", "9" * 30, "٣", "0x1"):
        with closing(jobs.backend.Backend(client.settings)) as backend:
            gone = Job(backend, id)
            for call in (
                partial(client.job, id),
                partial(client.delete, id),
                partial(client.results, id),
                partial(next, client.errors(id)),
                gone.cancel,
                gone.retry,
                gone.delete,
            ):
                with pytest.raises(JobNotFound, match=re.escape(repr(id))):
                    call()


def test_the_broker_is_down(
    photos: Callable[..., Path], server_backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(broker_url="redis://127.0.0.1:1/0") as client:
        job = client.submit(str(photos(1)))
        assert job.status().state == "queued"
        assert "workers will find the work in the database" in caplog.text
        assert not next(check for check in client.check() if check.check == "broker").ok


def test_wait(client: Client, photos: Callable[..., Path]) -> None:
    job = client.submit(str(photos(1)))
    with pytest.raises(WaitTimeout, match="within 0 s: it is queued, 0 of 0"):
        job.wait(timeout=0)
    job.cancel()
    assert job.wait().state == "canceled"


def test_cancel_before_it_began(client: Client, photos: Callable[..., Path], runtime: Callable[..., Runtime]) -> None:
    job = client.submit(str(photos(1)))
    after = job.cancel()
    assert (after.state, after.total) == ("canceled", 0)
    assert complete(job, runtime()) == job.cancel() == after


def test_retry_needs_an_end(client: Client, photos: Callable[..., Path], runtime: Callable[..., Runtime]) -> None:
    job = client.submit(str(photos(1)))
    with pytest.raises(NotPossible, match="queued"):
        job.retry()
    complete(job, runtime())
    assert job.retry().state == "completed"  # nothing had failed


def test_delete_keeps_what_others_use(
    client: Client, photos: Callable[..., Path], runtime: Callable[..., Runtime]
) -> None:
    worker = runtime()
    folder = photos(3)
    small = client.submit(str(folder))
    complete(small, worker)
    photos(2)
    large = client.submit(str(folder))
    assert complete(large, worker).cached == 3
    with pytest.raises(NotPossible, match="cancel it first"):
        client.submit(str(folder)).delete()
    large.delete()
    assert count(client, "predictions") == 3
    assert len([r for r in small.results(status="ok") if r.label]) == 3
    client.delete(small)
    assert (count(client, "predictions"), count(client, "images"), count(client, "batches")) == (0, 0, 0)
    with pytest.raises(JobNotFound):
        small.status()


def test_prune(client: Client, photos: Callable[..., Path], runtime: Callable[..., Runtime]) -> None:
    worker = runtime()
    folder = photos(3)
    old, new = client.submit(str(folder)), client.submit(str(folder))
    complete(old, worker)
    photos(2)
    complete(new, worker)
    running = client.submit(str(folder))
    assert client.prune(timedelta(days=1)) == {"jobs": 0, "predictions": 0}
    with client.database.write() as connection:
        long_ago = "2020-01-01 00:00:00.000000" + ("" if client.database.sqlite else "+00")
        connection.execute(
            text("UPDATE jobs SET finished_at = :at WHERE id = :id"), {"at": long_ago, "id": int(new.id)}
        )
    assert client.prune(timedelta(days=1)) == {"jobs": 1, "predictions": 2}
    assert [status.id for status in client.jobs()] == [running.id, old.id]


def test_check_names_what_is_wrong(client: Client, backend: Backend) -> None:
    found = {check.check: check for check in client.check()}
    assert all(set(check.to_dict()) == {"check", "ok", "detail", "advice"} for check in found.values())
    assert found["database"].ok
    assert found["broker"].ok
    assert found["workers"].ok == (backend.name == "embedded")  # there `cars classify` brings its own
    assert "cars worker" in found["workers"].advice + found["workers"].detail
