"""Runs that read only what has changed since the run before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs import Client, Job
from jobs.db.queries import images
from jobs.errors import SettingsInvalid
from jobs.sources import s3 as s3_module
from jobs.sources import stamps
from tests.support.backends import embedded
from tests.support.changes import opened_under, outcome, tags
from tests.support.engines import inferences
from tests.support.steps import check_honest, complete, drain
from workers.classification import scan, unchanged
from workers.classification.scan import scan_job
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]


@pytest.fixture(autouse=True)
def stamped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file that was written a moment ago have a stamp."""
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which engines note how many images they were given."""
    monkeypatch.setenv("ENGINE_LOG", str(tmp_path / "engine.log"))
    return tmp_path / "engine.log"


def run(client: Client, worker: Runtime, source: Path | str, **options: Any) -> Job:
    """Submit a source, let the worker do it all, and return the job."""
    job = client.submit(str(source), **{"incremental": True, **options})
    complete(job, worker)
    return job


def batches(client: Client, job: Job) -> list[tuple[int, int]]:
    with client.database.read() as connection:
        found = connection.execute(
            text("SELECT first, last FROM batches WHERE job_id = :id ORDER BY id"), {"id": int(job.id)}
        )
        return [(first, last) for first, last in found]


def base_of(client: Client, job: Job) -> str | None:
    with client.database.read() as connection:
        found = connection.scalar(text("SELECT base_id FROM jobs WHERE id = :id"), {"id": int(job.id)})
        return None if found is None else str(found)


def copy(source: Path, target: Path, *, comment: bytes) -> None:
    """Write a photo with another comment, and so with other bytes."""
    target.write_bytes(source.read_bytes() + comment)


def test_a_second_run_over_unchanged_photos_opens_and_infers_nothing(
    client: Client, runtime: Make, photos: Photos, log: Path
) -> None:
    worker = runtime(batch_size=4)
    folder = photos(13, 16)
    first = run(client, worker, folder)
    assert (first.status().unchanged, inferences(log)) == (0, 13)
    with opened_under(".jpg") as opened:
        second = run(client, worker, folder)
    status = check_honest(client, second)
    assert (status.state, status.total, status.ok, status.cached, status.unchanged) == ("completed", 13, 13, 13, 13)
    assert opened == []
    assert inferences(log) == 13
    assert batches(client, second) == []
    assert outcome(client, second) == outcome(client, first)


def test_exactly_what_changed_is_read(client: Client, runtime: Make, photos: Photos, log: Path) -> None:
    worker = runtime(batch_size=4)
    folder = photos(40, 16, photos(20, 16) / "more").parent
    first = run(client, worker, folder)
    before = outcome(client, first)
    changed = [f"0000{n:02}.jpg" for n in range(1, 5)] + [f"more/0000{n}.jpg" for n in (21, 30, 60)]
    added = ["000000.jpg", "a new one.jpg", "more/~last.jpg"]
    for number, path in enumerate([*changed, *added]):
        copy(folder / "000010.jpg", folder / path, comment=str(number).encode())
    for path in ("000015.jpg", "more/000040.jpg"):
        (folder / path).unlink()
    with opened_under(".jpg") as opened:
        second = run(client, worker, folder)
    status = check_honest(client, second)
    assert (status.total, status.ok, status.unchanged, status.cached) == (61, 61, 51, 51)
    assert sorted(opened) == sorted(path.rpartition("/")[2] for path in [*changed, *added])
    assert inferences(log) == 60 + 10
    after = outcome(client, second)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {
        *changed, *added, "000015.jpg", "more/000040.jpg"
    }  # fmt: skip
    assert base_of(client, second) == first.id
    third = run(client, worker, folder)
    assert third.status().unchanged == 61


def test_no_batch_is_without_a_pending_image(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK", 8)
    worker = runtime(batch_size=2)
    folder = photos(40, 16)
    run(client, worker, folder)
    for number in (1, 8, 9, 17, 18, 19, 40):
        copy(folder / "000005.jpg", folder / f"{number:06}.jpg", comment=str(number).encode())
    second = client.submit(str(folder), incremental=True)
    scan_job(worker, int(second.id))
    assert batches(client, second) == [(0, 7), (8, 8), (16, 17), (18, 18), (39, 39)]
    assert second.status().pending == 7
    assert complete(second, worker).unchanged == 33


def test_a_file_replaced_with_size_and_time_kept_is_read_again(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    folder = photos(3, 16)
    first = run(client, worker, folder)
    photo, other = folder / "000002.jpg", folder.parent / "other.jpg"
    status = photo.stat()
    other.write_bytes(photo.read_bytes()[:-1] + b"\xda")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(photo)
    after = photo.stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    second = run(client, worker, folder)
    assert second.status().unchanged == 2
    assert outcome(client, second)["000002.jpg"][2] != outcome(client, first)["000002.jpg"][2]


def test_without_stamps_everything_is_read(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 1000.0)
    worker = runtime()
    folder = photos(3, 16)
    run(client, worker, folder)
    status = run(client, worker, folder).status()
    assert (status.ok, status.cached, status.unchanged) == (3, 3, 0)


def test_a_new_version_reads_everything_once(
    client: Client, runtime: Make, publish: Callable[..., str], photos: Photos, log: Path
) -> None:
    worker = runtime()
    folder = photos(5, 16)
    run(client, worker, folder)
    client.promote(publish("newer"))
    statuses = [run(client, worker, folder).status() for _ in range(2)]
    assert [(s.model_version, s.ok, s.unchanged) for s in statuses] == [("newer", 5, 0), ("newer", 5, 5)]
    assert inferences(log) == 10
    old = run(client, worker, folder, model="tiny").status()
    assert (old.model_version, old.unchanged) == ("tiny", 5), "tiny has seen these contents"


def test_what_failed_because_of_its_bytes_fails_again_unread(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime()
    folder = photos(4, 16)
    whole = (folder / "000001.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no photo")
    (folder / "secret.jpg").symlink_to("/etc/hostname")
    first = run(client, worker, folder)
    with opened_under(".jpg") as opened:
        second = run(client, worker, folder)
    status = check_honest(client, second)
    assert opened == []
    assert (status.state, status.ok, status.failed, status.unchanged) == ("completed_with_errors", 4, 3, 4)
    assert outcome(client, second) == outcome(client, first)
    with opened_under(".jpg") as opened:
        run(client, runtime("b", max_file_mb=32), folder)
    assert sorted(opened) == ["cut.jpg", "text.jpg"], "other limits, and so perhaps another outcome"


def test_which_run_is_the_base(client: Client, runtime: Make, photos: Photos, tmp_path: Path) -> None:
    worker = runtime()
    folder = photos(3, 16)
    others = photos(3, 16, tmp_path / "others")
    first = client.submit(str(folder), incremental=True)
    assert base_of(client, first) is None
    assert base_of(client, client.submit(str(folder), incremental=True)) is None, "the first one has not ended"
    complete(first, worker)
    canceled = client.submit(str(folder))
    canceled.cancel()
    complete(client.submit([str(folder / "000001.jpg")]), worker)
    complete(client.submit(str(others)), worker)
    assert base_of(client, client.submit(str(folder))) is None, "it is to read everything"
    assert base_of(client, client.submit(str(folder), incremental=True)) == first.id
    latest = run(client, worker, folder, incremental=False)
    assert latest.status().unchanged is None
    assert base_of(client, client.submit(str(folder), incremental=True)) == latest.id


@pytest.mark.parametrize("left", [0, 4])
def test_a_source_that_has_shrunk_fails_the_job(
    client: Client, runtime: Make, photos: Photos, left: int, tmp_path: Path
) -> None:
    worker = runtime(batch_size=2)
    folder = photos(10, 16, tmp_path / "photos" / "one listing").parent
    inside = folder / "one listing"
    first = run(client, worker, folder)
    before = tags(client)
    assert [len(rows) for rows in before.values()] == [10, 1]
    aside = tmp_path / "aside"
    aside.mkdir()
    for photo in sorted(inside.iterdir())[left:]:
        photo.rename(aside / photo.name)
    second = run(client, worker, folder)
    assert tags(client) == before
    status = check_honest(client, second)
    assert (status.state, status.error) == (
        "failed",
        f"the source has {left} images, the run before had 10: is it mounted? If so: --accept-shrink",
    )
    third = client.submit(str(folder), incremental=True)
    assert base_of(client, third) == first.id, "a run that failed is never current"
    complete(third, worker)
    for photo in aside.iterdir():
        photo.rename(inside / photo.name)
    third.retry()
    status = complete(third, worker)
    assert (status.state, status.total, status.ok) == ("completed", 10, 10), "the disk is back"


def test_a_source_that_may_shrink(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    folder = photos(10, 16)
    run(client, worker, folder)
    for photo in sorted(folder.iterdir())[1:]:
        photo.unlink()
    status = run(client, worker, folder, accept_shrink=True).status()
    assert (status.state, status.ok, status.unchanged) == ("completed", 1, 1)


def test_half_of_the_images_is_enough(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    folder = photos(10, 16)
    run(client, worker, folder)
    for photo in sorted(folder.iterdir())[5:]:
        photo.unlink()
    assert run(client, worker, folder).status().state == "completed"


@pytest.mark.parametrize("deleted", ["before", "meanwhile"])
def test_a_deleted_base_does_no_harm(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch, deleted: str
) -> None:
    monkeypatch.setattr(scan, "CHUNK", 4)
    monkeypatch.setattr(unchanged, "PAGE", 2)
    worker = runtime(batch_size=1)
    folder = photos(12, 16)
    first = run(client, worker, folder)
    second = client.submit(str(folder), incremental=True)
    if deleted == "before":
        first.delete()
    else:
        monkeypatch.setattr(scan, "SLICE_SECONDS", -1.0)
        scan_job(worker, int(second.id))
        assert second.status().unchanged == 4
        first.delete()
        monkeypatch.setattr(scan, "SLICE_SECONDS", 60.0)
    complete(second, worker)
    status = check_honest(client, second)
    assert (status.state, status.ok, status.unchanged) == ("completed", 12, 0 if deleted == "before" else 4)


def test_predictions_that_unchanged_images_refer_to_outlive_their_base(
    client: Client, runtime: Make, photos: Photos
) -> None:
    worker = runtime()
    folder = photos(3, 16)
    first = run(client, worker, folder)
    second = run(client, worker, folder)
    before = outcome(client, second)
    first.delete()
    assert outcome(client, second) == before
    assert all(label for _, label, *_ in before.values())


class Killed(BaseException):
    """The process is gone: nothing after this runs in it."""


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_killed_scan_continues(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch, log: Path, chunks: int
) -> None:
    monkeypatch.setattr(scan, "CHUNK", 4)
    monkeypatch.setattr(unchanged, "PAGE", 3)
    dying, other = runtime("a", batch_size=1), runtime("b", batch_size=1)
    folder = photos(8, 16, photos(14, 16) / "b")
    folder = folder.parent
    photos(2, 16, folder / "a\\b")
    run(client, other, folder)
    for path in ("000003.jpg", "b/000016.jpg"):
        copy(folder / "000001.jpg", folder / path, comment=path.encode())
    (folder / "000007.jpg").unlink()
    job = client.submit(str(folder), incremental=True)
    add, done = images.add, Counter[str]()

    def add_until_killed(*args: Any, **kwargs: Any) -> bool:
        if done["chunks"] == chunks:
            raise Killed
        done["chunks"] += 1
        return add(*args, **kwargs)

    monkeypatch.setattr(images, "add", add_until_killed)
    with pytest.raises(Killed):
        scan_job(dying, int(job.id))
    monkeypatch.setattr(images, "add", add)
    assert job.status().total == chunks * 4
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET scan_expires_at = '2020-01-01 00:00:00'"))
    complete(job, other)
    status = check_honest(client, job)
    assert (status.state, status.total, status.ok, status.unchanged) == ("completed", 23, 23, 21)
    assert inferences(log) == 24 + 2


def test_a_manifest_is_compared_with_the_run_of_the_same_manifest(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK", 3)
    worker = runtime(batch_size=1)
    folder = photos(8, 16)
    (folder / "000002.jpg").rename(folder / "a\\b.jpg")
    names = sorted(photo.name for photo in folder.glob("*.jpg"))
    manifest = folder / "list.csv"
    manifest.write_text("listing,path\n" + "".join(f"{place % 2},{name}\n" for place, name in enumerate(names[1:])))
    whole = run(client, worker, folder)
    first = run(client, worker, folder, manifest="list.csv")
    assert (base_of(client, first), first.status().ok, first.status().unchanged) == (None, 7, 0)
    copy(folder / "000005.jpg", folder / "000004.jpg", comment=b"other")
    with opened_under(".jpg") as opened:
        second = run(client, worker, folder, manifest="list.csv")
    assert (base_of(client, second), second.status().unchanged, opened) == (first.id, 6, ["000004.jpg"])
    assert base_of(client, run(client, worker, folder)) == whole.id


def test_retrying_and_deleting_keep_the_counts_honest(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    folder = photos(3, 16)
    (folder / "text.jpg").write_text("no photo")
    run(client, worker, folder)
    second = run(client, worker, folder)
    second.retry()
    drain(worker)
    status = check_honest(client, second)
    assert (status.ok, status.failed, status.cached, status.unchanged) == (3, 1, 3, 3)
    second.delete()


@embedded
def test_what_cannot_be_asked_for(client: Client, runtime: Make, photos: Photos) -> None:
    runtime()
    folder = photos(2, 16)
    with pytest.raises(SettingsInvalid, match="--incremental"):
        client.submit(str(folder), accept_shrink=True)
    with pytest.raises(SettingsInvalid, match="folder or URL"):
        client.submit([str(folder / "000001.jpg")], incremental=True)


@embedded
def test_another_request_with_the_same_key(client: Client, runtime: Make, photos: Photos) -> None:
    runtime()
    folder = photos(2, 16)
    job = client.submit(str(folder), key="night", incremental=True)
    assert client.submit(str(folder), key="night", incremental=True).id == job.id


def test_objects_in_s3_are_read_only_when_they_changed(
    client: Client, runtime: Make, photos: Photos, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARS_SOURCE_ROOTS", "s3://cars")
    gets: list[str] = []
    connect = s3_module.connect

    def note(request: Any, **_: Any) -> None:
        if request.method != "GET" or "list-type" not in request.url:
            gets.append(request.url.rpartition("/")[2])

    def watched() -> Any:
        made = connect()
        made.meta.events.register("before-send.s3", note)
        return made

    def put(key: str, comment: bytes = b"") -> None:
        s3.put_object(Bucket="cars", Key=f"p/{key}", Body=(folder / "000001.jpg").read_bytes() + comment)

    monkeypatch.setattr(s3_module, "S3Source", partial(s3_module.S3Source, client=watched))
    folder = photos(1, 16)
    for number in range(30):
        put(f"{number % 5}/{number:02}.jpg", str(number).encode())
    worker = runtime(batch_size=4)
    with Client() as here:
        first = run(here, worker, "s3://cars/p")
        assert (first.status().ok, len(gets)) == (30, 30)
        gets.clear()
        second = run(here, worker, "s3://cars/p")
        assert (second.status().ok, second.status().unchanged, gets) == (30, 30, [])
        put("0/05.jpg", b"changed")
        put("2/new.jpg", b"new")
        s3.delete_object(Bucket="cars", Key="p/3/03.jpg")
        third = run(here, worker, "s3://cars/p")
        assert (third.status().ok, third.status().unchanged, sorted(gets)) == (30, 28, ["05.jpg", "new.jpg"])
