"""Listings: which images belong together, when their verdict is given, and what it becomes."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import event, text, update

from jobs import Client, Job
from jobs.db.tables import ListingRow
from jobs.errors import ListingNotFound, NotPossible, SettingsInvalid
from jobs.listings import ListingFilters
from jobs.queues import FINISH_JOB
from jobs.records import Listing
from tests.support.artifacts import CLASSES
from tests.support.steps import count, drain, listed
from workers.classification import verdicts
from workers.classification.classify import classify_batch
from workers.classification.finish import finish_job
from workers.classification.scan import scan_job
from workers.recovery.thread import recover
from workers.runtime import Runtime

Make = Callable[..., Runtime]
ACURA, TSX, BMW, ROVER = range(4)


def photo(file: Path, shows: int, *, seed: int = 0) -> Path:
    """A picture of which the scripted engine says that it shows the class of this number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    number = int(hashlib.sha256(f"{file.name} {seed}".encode()).hexdigest()[:4], 16)
    image = Image.new("RGB", (16, 16), (100 + shows, number >> 8, number & 255))
    image.save(file)
    return file


def shop(folder: Path) -> Path:
    """Four listings: an Acura, a mix of two makes, two Acuras that differ, one file that cannot be read."""
    for n in range(3):
        photo(folder / "acura" / f"{n}.png", ACURA)
    for n in range(2):
        photo(folder / "mixed" / f"a{n}.png", ACURA)
        photo(folder / "mixed" / "inside" / f"b{n}.png", BMW)
    photo(folder / "acuras" / "one.png", ACURA)
    photo(folder / "acuras" / "other.png", TSX)
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "0.png").write_bytes(b"no image")
    photo(folder / "at the top.png", ROVER)
    return folder


def verdicts_of(client: Client, job: Job) -> dict[str, Listing]:
    return {row.listing: row for row in client.listings.find(job)}


def done(client: Client, worker: Runtime, folder: Path, **options: Any) -> Job:
    job = listed(client, worker, folder, **options)
    drain(worker)
    assert job.status().finished_at is not None
    return job


def settle(worker: Runtime, job: Job) -> None:
    """What the message does that recovery sends for verdicts which are due."""
    recover(worker, idle=False)
    assert (FINISH_JOB, int(job.id)) in worker.notify.sent  # type: ignore[attr-defined]
    finish_job(worker, int(job.id))


def due(client: Client) -> int:
    with client.database.read() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM listings WHERE due")) or 0)


def test_every_listing_has_a_verdict_when_the_job_ends(client: Client, runtime: Make, tmp_path: Path) -> None:
    job = done(client, runtime(batch_size=2), shop(tmp_path / "shop"))
    found = verdicts_of(client, job)
    assert list(found) == ["acura", "acuras", "broken", "mixed"]
    acura = found["acura"]
    assert (acura.label, acura.make, acura.model, acura.body, acura.year) == (CLASSES[0], "Acura", "TL", "Sedan", 2012)
    assert (acura.decision, acura.conflict, acura.source, acura.complete) == ("model", False, "model", True)
    assert (acura.photos, acura.used, acura.failed, acura.agreement) == (3, 3, 0, 1.0)
    assert acura.photo is not None
    assert acura.photo.startswith("acura/")
    assert acura.model_version == "tiny"
    mixed = found["mixed"]
    assert (mixed.decision, mixed.conflict, mixed.label, mixed.make, mixed.photos) == ("unknown", True, None, None, 4)
    acuras = found["acuras"]
    assert (acuras.decision, acuras.make, acuras.label, acuras.year) == ("make", "Acura", None, None)
    broken = found["broken"]
    assert (broken.decision, broken.photos, broken.used, broken.failed) == ("unknown", 1, 0, 1)
    assert (broken.confidence, broken.agreement, broken.photo) == (0.0, None, None)
    assert {row.path: row.listing for row in job.results()}["mixed/inside/b0.png"] == "mixed"
    assert {row.path: row.listing for row in job.results()}["at the top.png"] is None


def test_the_json_of_a_verdict(client: Client, runtime: Make, tmp_path: Path) -> None:
    job = done(client, runtime(), shop(tmp_path / "shop"))
    assert list(verdicts_of(client, job)["acura"].to_dict()) == [
        "job", "listing", "complete", "label", "make", "model", "body", "year", "confidence", "decision", "agreement",
        "photos", "used", "failed", "conflict", "photo", "source", "model_version", "updated_at",
    ]  # fmt: skip
    found = client.listings.get(f"{job.id}:mixed").to_dict()
    assert [image["path"] for image in found["images"]] == [
        "mixed/a0.png", "mixed/a1.png", "mixed/inside/b0.png", "mixed/inside/b1.png"
    ]  # fmt: skip
    assert len(found["top"]) == len(CLASSES)
    assert found["conflict"] is True
    with pytest.raises(ListingNotFound, match="cars listings"):
        client.listings.get(f"{job.id}:nowhere")
    with pytest.raises(SettingsInvalid, match="JOB:NAME"):
        client.listings.get("mixed")


@pytest.mark.parametrize(("depth", "names"), [(0, []), (2, ["acura", "acuras", "broken", "mixed", "mixed/inside"])])
def test_the_depth_says_what_a_listing_is(
    client: Client, runtime: Make, tmp_path: Path, depth: int, names: list[str]
) -> None:
    job = done(client, runtime(), shop(tmp_path / "shop"), listing_depth=depth)
    assert list(verdicts_of(client, job)) == names


def test_no_verdict_before_all_files_are_known(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime(batch_size=2)
    folder = shop(tmp_path / "shop")
    job = listed(client, worker, folder)
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET scanned_at = NULL"))
    while classify_batch(worker):
        pass
    assert verdicts_of(client, job) == {}
    assert due(client) == 4
    scan_job(worker, int(job.id))
    drain(worker)
    assert len(verdicts_of(client, job)) == 4
    assert job.status().state == "completed_with_errors"


def test_a_job_does_not_end_while_a_verdict_is_due(
    client: Client, runtime: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that has no time left ends the job at the next message, wherever that comes from."""
    worker = runtime(batch_size=2)
    monkeypatch.setattr(verdicts, "SWEEP_SECONDS", -1.0)
    job = listed(client, worker, shop(tmp_path / "shop"))
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET scanned_at = NULL"))
    while classify_batch(worker):
        pass
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET scanned_at = created_at"))
    recover(worker, idle=True)
    finish_job(worker, int(job.id))
    assert job.status().state == "running"
    assert due(client) == 4
    monkeypatch.undo()
    settle(worker, job)
    assert job.status().state == "completed_with_errors"
    assert due(client) == 0


def test_canceled_listings_get_a_verdict_on_what_they_have(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime(batch_size=2)
    job = listed(client, worker, shop(tmp_path / "shop"))
    assert classify_batch(worker)
    job.cancel()
    settle(worker, job)
    found = verdicts_of(client, job)
    assert due(client) == 0
    assert not any(row.complete for row in found.values() if row.listing != "broken")
    assert sum(row.used for row in found.values()) >= 1
    assert job.status().state == "canceled"
    job.retry()
    assert due(client) == 4
    drain(worker)
    assert all(row.complete for row in client.listings.find(job))
    assert verdicts_of(client, job)["acura"].used == 3


def test_the_same_bytes_count_once(client: Client, runtime: Make, tmp_path: Path) -> None:
    first = photo(tmp_path / "shop" / "car" / "0.png", ACURA)
    for n in range(1, 4):
        (first.parent / f"{n}.png").write_bytes(first.read_bytes())
    other = photo(tmp_path / "shop" / "other" / "0.png", BMW)
    (first.parent.parent / "third").mkdir()
    (first.parent.parent / "third" / "1.png").write_bytes(other.read_bytes())
    job = done(client, runtime(), tmp_path / "shop")
    assert (verdicts_of(client, job)["car"].photos, verdicts_of(client, job)["car"].used) == (4, 1)
    (shared,) = client.listings.duplicates(job)
    assert (shared.listings, shared.paths) == (["other", "third"], ["other/0.png", "third/1.png"])


def test_a_corrected_photo_decides_its_listing(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime()
    folder = shop(tmp_path / "shop")
    job = done(client, worker, folder)
    client.label(f"{job.id}:mixed/a0.png", CLASSES[BMW], author="ann")
    assert due(client) == 1
    settle(worker, job)
    mixed = verdicts_of(client, job)["mixed"]
    assert (mixed.source, mixed.decision, mixed.label, mixed.confidence) == ("human", "model", CLASSES[BMW], 1.0)
    assert (mixed.conflict, mixed.photo) == (False, "mixed/a0.png")
    client.label(f"{job.id}:mixed/a1.png", CLASSES[ACURA])
    settle(worker, job)
    mixed = verdicts_of(client, job)["mixed"]
    assert (mixed.source, mixed.decision, mixed.conflict, mixed.label) == ("human", "unknown", True, None)
    client.corrections.remove(f"{job.id}:mixed/a0.png")
    settle(worker, job)
    assert verdicts_of(client, job)["mixed"].label == CLASSES[ACURA]
    client.corrections.remove(f"{job.id}:mixed/a1.png")
    settle(worker, job)
    assert verdicts_of(client, job)["mixed"].source == "model"
    with pytest.raises(NotPossible, match="has no correction"):
        client.corrections.remove(f"{job.id}:mixed/a1.png")


def test_the_newest_of_several_corrections_counts(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime()
    job = done(client, worker, shop(tmp_path / "shop"))
    client.label(f"{job.id}:acura/1.png", CLASSES[TSX])
    client.label(f"{job.id}:acura/0.png", CLASSES[ACURA])
    settle(worker, job)
    assert verdicts_of(client, job)["acura"].label == CLASSES[ACURA]
    client.label(f"{job.id}:acura/1.png", CLASSES[TSX])
    settle(worker, job)
    assert verdicts_of(client, job)["acura"].label == CLASSES[TSX]


def test_a_correction_holds_in_the_next_run_and_reaches_the_current_one(
    client: Client, runtime: Make, tmp_path: Path
) -> None:
    worker = runtime()
    folder = shop(tmp_path / "shop")
    first = done(client, worker, folder)
    client.label(f"{first.id}:acura/0.png", CLASSES[ROVER])
    settle(worker, first)
    second = done(client, worker, folder)
    assert verdicts_of(client, second)["acura"].source == "human"
    assert {row.path: row.correction for row in second.results()}["acura/0.png"] == CLASSES[ROVER]
    client.label(str(folder / "mixed" / "a0.png"), CLASSES[BMW])
    settle(worker, second)
    assert verdicts_of(client, second)["mixed"].source == "human"
    assert verdicts_of(client, first)["mixed"].source == "model"  # neither named nor current


def test_filters(client: Client, runtime: Make, tmp_path: Path) -> None:
    job = done(client, runtime(), shop(tmp_path / "shop"))

    def names(**wanted: Any) -> list[str]:
        return [row.listing for row in client.listings.find(job, **wanted)]

    assert names(make="acura") == ["acura", "acuras"]
    assert names(label=CLASSES[0].upper()) == ["acura"]
    assert names(decision="unknown") == ["broken", "mixed"]
    assert names(conflict=True) == ["mixed"]
    assert names(needs_review=True) == ["mixed", "broken", "acuras"]
    assert names(min_confidence=0.5, max_confidence=1.0, decision="model") == ["acura"]
    assert names(since="2020-01-01") == names()
    with pytest.raises(SettingsInvalid, match="min_confidence"):
        names(min_confidence=2)
    with pytest.raises(SettingsInvalid, match="no such filter: body"):
        names(body="Sedan")


def test_pages_lose_and_repeat_nothing(
    client: Client, runtime: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.listings.PAGE", 2)
    for n in range(7):
        for i, shows in enumerate((ACURA, BMW) if n % 2 else (ACURA, TSX)):
            photo(tmp_path / "shop" / f"car {n}" / f"{i}.png", shows)
    job = done(client, runtime(), tmp_path / "shop")
    found = [row.listing for row in client.listings.find(job)]
    assert found == [f"car {n}" for n in range(7)]
    review = list(client.listings.find(job, needs_review=True))
    assert sorted(row.listing for row in review) == found
    assert [row.conflict for row in review] == [True] * 3 + [False] * 4
    unclear = [row.confidence for row in review[3:]]
    assert unclear == sorted(unclear)


def test_without_a_job_the_current_runs_are_meant(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime()
    folder, other = shop(tmp_path / "shop"), tmp_path / "other"
    photo(other / "car" / "0.png", BMW)
    done(client, worker, folder)
    current = {done(client, worker, folder).id, done(client, worker, other).id}
    done(client, worker, folder / "acura" / "0.png")  # a single file does not count as a run of its folder
    canceled = listed(client, worker, folder)
    canceled.cancel()
    assert {row.job for row in client.listings.find()} == current
    reviewed = [row.listing for row in client.listings.find(needs_review=True)]
    assert reviewed == ["mixed", "broken", "acuras"]
    with client.database.read() as connection:
        tags = connection.execute(text("SELECT job, listing, label, conflict FROM listing_tags ORDER BY job, listing"))
        assert {str(row.job) for row in tags} == current
        images = connection.execute(text("SELECT job, path, label, make, correction FROM image_tags")).all()
        assert {str(row.job) for row in images} == current
        assert {row.path: row.label for row in images}["car/0.png"] == CLASSES[BMW]


def test_listings_go_with_their_job(client: Client, runtime: Make, tmp_path: Path) -> None:
    job = done(client, runtime(), shop(tmp_path / "shop"))
    assert count(client, "listings") == 4
    job.delete()
    assert count(client, "listings") == 0


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".parquet"])
def test_verdicts_as_files(client: Client, runtime: Make, tmp_path: Path, ending: str) -> None:
    job = done(client, runtime(), shop(tmp_path / "shop"))
    file = tmp_path / f"listings{ending}"
    assert client.listings.find(job).write(file) == 4
    match ending:
        case ".csv":
            with file.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
        case ".parquet":
            rows = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
        case _:
            content = file.read_text()
            rows = json.loads(content) if ending == ".json" else list(map(json.loads, content.splitlines()))
    assert [row["listing"] for row in rows] == ["acura", "acuras", "broken", "mixed"]
    assert rows[0]["label"] == CLASSES[0]


def manifest(folder: Path, *lines: str, name: str = "cars.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(["listing,path,price", *lines]) + "\n")
    return folder


def test_a_manifest_says_what_is_classified_and_what_belongs_together(
    client: Client, runtime: Make, tmp_path: Path
) -> None:
    folder = shop(tmp_path / "shop")
    manifest(folder, "A-1,acura/0.png,9", 'A-1,"acura/1.png",9', "B-2,mixed/inside/b0.png,8", ",at the top.png,1",
             "C-3,gone.png,0")  # fmt: skip
    job = done(client, runtime(), folder, manifest="cars.csv")
    rows = {row.path: (row.listing, row.status) for row in job.results()}
    assert rows == {
        "acura/0.png": ("A-1", "ok"),
        "acura/1.png": ("A-1", "ok"),
        "mixed/inside/b0.png": ("B-2", "ok"),
        "at the top.png": (None, "ok"),
        "gone.png": ("C-3", "failed"),
    }
    (failure,) = job.errors()
    assert failure.code == "vanished"
    assert list(verdicts_of(client, job)) == ["A-1", "B-2", "C-3"]
    assert count(client, "listed_files") == 0


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["a,1.png,0", "a,2.png,0", "b,1.png,0"], r"cars\.csv, line 4: the path '1\.png' is that of line 2, too"),
        (["a,../1.png,0"], r"cars\.csv, line 2: the path '\.\./1\.png' has a '\.\.'"),
        (["a,1.png,0", "a,/etc/1.png,0"], r"cars\.csv, line 3: the path '/etc/1\.png' is absolute"),
        (["a,,0"], r"cars\.csv, line 2: the path '' is empty"),
        (["a,x//1.png,0"], r"line 2: .* has an empty part"),
        ([], r"cars\.csv lists no images"),
    ],
)
def test_a_bad_manifest_fails_the_job(
    client: Client, runtime: Make, tmp_path: Path, lines: list[str], error: str
) -> None:
    job = listed(client, runtime(), manifest(tmp_path / "shop", *lines), manifest="cars.csv")
    status = job.status()
    assert status.state == "failed"
    assert re.search(error, status.error or "")
    assert count(client, "images") == 0


def test_a_manifest_that_is_missing_or_has_other_columns(client: Client, runtime: Make, tmp_path: Path) -> None:
    worker = runtime()
    folder = shop(tmp_path / "shop")
    missing = listed(client, worker, folder, manifest="nowhere.csv").status()
    assert missing.state == "failed"
    assert "nowhere.csv" in (missing.error or "")
    (folder / "other.csv").write_text("id,file\n1,a.png\n")
    other = listed(client, worker, folder, manifest="other.csv").status()
    assert other.state == "failed"
    assert "line 1: there is no column 'listing'" in (other.error or "")


def test_requests_that_contradict_themselves(client: Client, tmp_path: Path, runtime: Make) -> None:
    folder = shop(tmp_path / "shop")
    with pytest.raises(SettingsInvalid, match="listing_depth must be 0 to 10"):
        client.submit(folder, listing_depth=11)
    with pytest.raises(SettingsInvalid, match="either listing_depth or a manifest"):
        client.submit(folder, listing_depth=1, manifest="cars.csv")
    with pytest.raises(SettingsInvalid, match="relative to the source"):
        client.submit(folder, manifest="/etc/cars.csv")
    with pytest.raises(SettingsInvalid, match="give the folder"):
        client.submit([folder / "acura" / "0.png"], manifest="cars.csv")
    assert runtime() is not None
    assert list(client.jobs()) == []


def test_no_statement_of_a_batch_goes_through_the_job(client: Client, runtime: Make, tmp_path: Path) -> None:
    if not client.database.sqlite:
        pytest.skip("PostgreSQL says how many rows it has read: the next test")
    worker = runtime(batch_size=3)
    listed(client, worker, shop(tmp_path / "shop"))
    plans: dict[str, list[str]] = {}

    @event.listens_for(worker.database.engine, "after_cursor_execute")
    def note(_connection: Any, cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values[0] if many else values)
            plans[statement] = [row[-1] for row in rows]

    for _ in range(4):
        classify_batch(worker)
    assert any("ix_images_listing" in line for lines in plans.values() for line in lines)
    through = ("SCAN images", "SEARCH images USING PRIMARY KEY (job_id=?)")
    assert [sql for sql, lines in plans.items() if any(line.startswith(through) for line in lines)] == []


def test_a_batch_reads_its_own_images_alone(client: Client, runtime: Make, tmp_path: Path) -> None:
    """PostgreSQL takes a job that is newer than its statistics for a small one; that must cost nothing."""
    if client.database.sqlite:
        pytest.skip("SQLite keeps no statistics, and does not say how many rows it has read")
    worker = runtime(batch_size=10)
    for number in range(300):
        photo(tmp_path / "shop" / f"{number // 5:03}" / f"{number}.png", ACURA)
    done(client, worker, tmp_path / "shop")
    with client.database.write() as connection:
        name = connection.scalar(text("SELECT quote_ident(current_database())"))
        connection.execute(text(f"ALTER DATABASE {name} SET enable_seqscan = off"))  # which is right for a small table
        connection.execute(text("ANALYZE"))
    worker.database.close()  # its next connections have the setting
    listed(client, worker, tmp_path / "shop")
    read: dict[str, int] = {}

    @event.listens_for(worker.database.engine, "after_cursor_execute")
    def note(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        with cursor.connection.cursor() as asked:
            asked.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'images'")
            read[statement] = asked.fetchone()[0]  # in the transaction so far

    assert classify_batch(worker)
    assert 0 < max(read.values()) <= 100, {sql: rows for sql, rows in read.items() if rows > 100}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"needs_review": True},
        {"min_confidence": 0.0},
        {"decision": "unknown"},
        {"make": "Acura", "needs_review": True},
    ],
)
def test_pages_of_several_runs_neither_skip_nor_repeat(
    client: Client, runtime: Make, tmp_path: Path, wanted: ListingFilters
) -> None:
    worker = runtime()
    for source in ("a", "b", "c"):  # of equal doubt
        done(client, worker, shop(tmp_path / source))
    everything = list(client.listings.find(**wanted))
    assert len({row.job for row in everything}) == 3
    for limit in (5, 2, 1):
        seen: list[Listing] = []
        after: str | None = None
        while True:
            found = client.listings.find(**wanted).page(after, limit=limit)
            seen += found.listings
            if found.next is None:
                break
            after = found.next
        assert seen == everything, limit
    if not wanted:
        assert everything == sorted(everything, key=lambda row: (int(row.job), row.listing))
    if "needs_review" in wanted:
        assert everything == sorted(
            everything, key=lambda row: (not row.conflict, row.confidence, int(row.job), row.listing)
        )
    with pytest.raises(SettingsInvalid, match="another query"):
        client.listings.find(make="Acura").page(after)


@pytest.mark.parametrize("few", [0, 2, 1000])
@pytest.mark.parametrize(
    "wanted", [{}, {"needs_review": True}, {"make": "Acura"}, {"make": "Acura", "max_confidence": 1.0}]
)
def test_what_has_changed_since(
    client: Client,
    runtime: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    wanted: ListingFilters,
) -> None:
    """Many in order or few that are sorted, of all jobs together or of each: it is the same, in pages of any size."""
    monkeypatch.setattr("jobs.db.queries.listing_pages.FEW", few)
    worker = runtime()
    old, one, every = (done(client, worker, shop(tmp_path / source)) for source in ("a", "b", "c"))
    before = (ListingRow.job_id == int(old.id)) | ((ListingRow.job_id == int(one.id)) & (ListingRow.name != "mixed"))
    with client.database.write() as connection:
        connection.execute(update(ListingRow).where(before).values(updated_at=datetime(2020, 1, 1, tzinfo=UTC)))
    expected = [row for row in client.listings.find(**wanted) if row.updated_at >= "2021"]
    assert {row.job for row in expected} <= {one.id, every.id}
    since: ListingFilters = {**wanted, "since": "2021-01-01"}
    for limit in (1, 2, 5):
        seen: list[Listing] = []
        after: str | None = None
        while True:
            found = client.listings.find(**since).page(after, limit=limit)
            seen += found.listings
            after = found.next
            if after is None:
                break
        assert seen == expected, limit
