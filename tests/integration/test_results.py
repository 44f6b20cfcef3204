"""Querying results: every filter, the order, pages by key, and what is asked of the database for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import event, text

from jobs import Client
from jobs.db.database import Database
from jobs.errors import LabelNotFound, SettingsInvalid, VersionNotFound
from jobs.job import Job
from jobs.records import Result
from jobs.results import Results
from model.cards import read
from tests.support.artifacts import CLASSES
from tests.support.backends import embedded
from workers.artifacts import BUNDLED
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.runtime import Runtime


def save(file: Path, red: int, green: int = 0) -> None:
    """A photo of the class CLASSES[red]: the scripted engine looks at the red of a lossless file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (red, green, 0)).save(file)


def complete(client: Client, folder: Path, worker: Runtime, **options: Any) -> Job:
    job = client.submit(str(folder), **options)
    scan_job(worker, int(job.id))
    while classify_batch(worker):
        pass
    return job


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The SELECTs on images and their outcomes that are sent meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "FROM outcomes" in statement or "JOIN images" in statement or "FROM images" in statement:
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


@pytest.fixture
def job(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> Job:
    """Two photos of each of the four classes, one of them of another listing, and a broken one."""
    folder = tmp_path / "cars"
    for red in range(4):
        save(folder / f"a/{red}.png", red)
        save(folder / f"b/{red}.png", red, 9)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return complete(client, folder, runtime())


def paths(found: Any) -> list[str]:
    return [result.path for result in found]


def cut(found: Results, size: int) -> Iterator[list[str]]:
    """The paths of each page."""
    cursor = None
    while True:
        page = found.page(cursor, limit=size)
        yield [result.path for result in page.results]
        if (cursor := page.next) is None:
            return


def test_filters(client: Client, job: Job) -> None:
    everything = paths(job.results())
    assert everything == [*(f"{listing}/{red}.png" for listing in "ab" for red in range(4)), "broken.png"]
    good = everything[:-1]
    for wanted, expected in (
        ({"label": CLASSES[2]}, ["a/2.png", "b/2.png"]),
        ({"label": CLASSES[2].upper()}, ["a/2.png", "b/2.png"]),
        ({"label": "BMW M3 Coupe 2012", "make": "acura"}, []),
        ({"make": "ferrari"}, []),  # known to the bundled version
        ({"make": "Acura"}, ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]),
        ({"make": "aCURA"}, ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]),
        ({"make": "land  rover"}, ["a/3.png", "b/3.png"]),
        ({"model": "tsx"}, ["a/1.png", "b/1.png"]),
        ({"body": "suv"}, ["a/3.png", "b/3.png"]),
        ({"year": 2012}, good),
        ({"year": 2011}, []),
        ({"decision": "MODEL"}, good),
        ({"decision": "unknown"}, []),
        ({"listing": "a"}, good[:4]),
        ({"status": "failed"}, ["broken.png"]),
        ({"status": "ok"}, good),
        ({"version": "TINY"}, everything),
        ({"version": read(BUNDLED).name}, []),
        ({"make": "Acura", "listing": "b", "model": "TL"}, ["b/0.png"]),
        ({"min_confidence": 0.5}, good),
        ({"max_confidence": 0.5}, []),
    ):
        assert paths(job.results(**wanted)) == expected, wanted
        assert paths(client.results(**wanted)) == expected[::-1], wanted  # one batch: the newest is the last
        pages = cut(client.results(**wanted), 2)
        assert [path for page in pages for path in page] == expected[::-1], wanted


@pytest.mark.parametrize(
    ("wanted", "error", "nearest"),
    [
        ({"make": "BWM"}, LabelNotFound, "'BWM'; the nearest is 'BMW'"),
        ({"make": "Acura TL Sedan"}, None, ""),
        ({"make": "Zzz"}, LabelNotFound, "'Zzz'; `cars model show`"),
        ({"make": " "}, LabelNotFound, "' '; `cars model show`"),
        ({"label": "Audi TT"}, LabelNotFound, "'Audi TT .* [0-9]{4}'"),
        ({"model": "TXS"}, LabelNotFound, "'TSX'"),
        ({"body": "Sedna"}, LabelNotFound, "'Sedan'"),
        ({"version": "tinny"}, VersionNotFound, "the nearest is 'tiny'; `cars models`"),
    ],
)
def test_a_name_that_nothing_has(
    client: Client, job: Job, wanted: dict[str, Any], error: type[Exception] | None, nearest: str
) -> None:
    for ask in (client.results, job.results):
        if error is None:
            assert paths(ask(**wanted)) == []
            continue
        with pytest.raises(error, match=nearest):
            ask(**wanted)


def test_a_name_that_only_a_stored_prediction_has(client: Client, job: Job) -> None:
    with client.database.write() as connection:
        for table in ("predictions", "classes"):
            connection.execute(text(f"UPDATE {table} SET make = 'Trabant' WHERE make = 'Acura'"))
    assert len(paths(job.results(make="trabant"))) == 4
    with pytest.raises(LabelNotFound, match="'Trabant'"):
        job.results(make="Trabbant")


def test_confidence_bounds_are_inclusive(job: Job) -> None:
    exactly = next(iter(job.results(status="ok"))).confidence
    assert exactly is not None
    assert len(paths(job.results(min_confidence=exactly, max_confidence=exactly))) == 8


def test_fields(job: Job) -> None:
    first, *_, broken = job.results()
    assert (first.make, first.model, first.body, first.year) == ("Acura", "TL", "Sedan", 2012)
    assert (first.listing, first.status, first.decision, first.model_version) == ("a", "ok", "model", "tiny")
    assert first.label == first.top[0]["label"]
    assert first.confidence == first.top[0]["confidence"]
    assert broken.error is not None
    assert broken.error.code in {"undecodable", "truncated"}
    assert (broken.label, broken.confidence, broken.decision, broken.top) == (None, None, None, [])
    assert [failed.to_dict() for failed in job.errors()] == [
        {"job": job.id, "path": "broken.png", **broken.error.to_dict()}
    ]


def test_every_result_has_its_time_and_what_a_person_said_of_it(client: Client, job: Job, tmp_path: Path) -> None:
    client.label(f"{job.id}:b/2.png", CLASSES[0])
    status = job.status()
    assert status.started_at is not None
    assert status.finished_at is not None
    for result in job.results():
        assert result.finished_at is not None
        assert status.started_at <= result.finished_at <= status.finished_at
        assert result.correction == (CLASSES[0] if result.path == "b/2.png" else None)
    pending = client.submit(str(tmp_path / "cars"))
    pending.cancel()
    frame = job.results().to_pandas()
    assert str(frame["finished_at"].dtype) == "datetime64[ns, UTC]"
    assert frame["finished_at"].max().isoformat()[:23] == max(str(r.finished_at)[:23] for r in job.results())
    assert list(frame["correction"].dropna()) == [CLASSES[0]]


def set_confidences(client: Client) -> None:
    """Each prediction gets a confidence of its own, and each image a time: the larger its red, the surer and older."""
    with client.database.write() as connection:
        for red, path in ((red, f"{listing}/{red}.png") for red in range(4) for listing in "ab"):
            rank = red / 10 + (0.05 if path.startswith("b") else 0.0)
            connection.execute(
                text(
                    "UPDATE predictions SET confidence = :rank "
                    "WHERE content_hash = (SELECT content_hash FROM images WHERE path = :path)"
                ),
                {"rank": rank, "path": path},
            )
            at = f"2020-05-{30 - 20 * rank:02.0f} 00:00:00.000000" + ("" if client.database.sqlite else "+00")
            connection.execute(text("UPDATE images SET finished_at = :at WHERE path = :path"), {"at": at, "path": path})
            connection.execute(
                text(
                    "UPDATE outcomes SET confidence = :rank, finished_at = :at "
                    "WHERE ordinal = (SELECT ordinal FROM images WHERE path = :path)"
                ),
                {"rank": rank, "at": at.removesuffix("+00"), "path": path},
            )


def test_sorted_and_limited(client: Client, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    set_confidences(client)
    by_path = [*(f"{listing}/{red}.png" for listing in "ab" for red in range(4)), "broken.png"]
    by_confidence = [f"{listing}/{red}.png" for red in (3, 2, 1, 0) for listing in "ba"]
    for page in (1, 3, 9, 2_000):
        monkeypatch.setattr("jobs.results.PAGE", page)
        for ask in (client.results, job.results):
            assert paths(ask(sort="confidence")) == [*by_confidence, "broken.png"]
            assert paths(ask(sort="confidence", reverse=True)) == [*by_confidence[::-1], "broken.png"]
            assert paths(ask(sort="time")) == ["broken.png", *by_confidence[::-1]]
            assert paths(ask(sort="time", reverse=True)) == [*by_confidence, "broken.png"]
            assert paths(ask(sort="path")) == by_path
            assert paths(ask(sort="path", reverse=True)) == by_path[::-1]
            assert paths(job.results(reverse=True)) == by_path[::-1]
            assert paths(client.results(reverse=True)) == [*by_confidence, "broken.png"]
            for order in ("confidence", "time"):
                found = client.results(sort=order)
                assert [path for some in cut(found, page) for path in some] == paths(found)
            for limit in (1, 3, 8, 9, 100):
                assert paths(job.results(limit=limit)) == by_path[:limit]
                assert paths(client.results(limit=limit)) == ["broken.png", *by_confidence[::-1]][:limit]
                assert paths(ask(sort="confidence", limit=limit)) == [*by_confidence, "broken.png"][:limit]
            assert paths(ask(sort="confidence", make="Acura", limit=2)) == ["b/1.png", "a/1.png"]


@pytest.mark.parametrize("few", [0, 1, 30_000])
@pytest.mark.parametrize(
    "wanted",
    [
        {"max_confidence": 0.2},
        {"min_confidence": 0.1, "max_confidence": 0.3},
        {"decision": "model", "min_confidence": 0.2},
        {"decision": "model"},
        {"status": "ok"},
        {"status": "ok", "max_confidence": 0.3, "body": "sedan"},
    ],
)
def test_of_a_job_in_the_order_of_its_paths_many_as_few(
    client: Client, job: Job, monkeypatch: pytest.MonkeyPatch, few: int, wanted: dict[str, Any]
) -> None:
    """Rows of outcomes alone are walked, or sorted: images and predictions of the whole job are never joined."""
    monkeypatch.setattr("jobs.db.queries.walks.FEW_COVERED", few)
    set_confidences(client)
    fits: dict[str, Callable[[Result, Any], bool]] = {
        "max_confidence": lambda row, most: row.confidence is not None and row.confidence <= most,
        "min_confidence": lambda row, least: row.confidence is not None and row.confidence >= least,
        "decision": lambda row, decision: row.decision == decision,
        "status": lambda row, status: row.status == status,
        "body": lambda row, body: row.body is not None and row.body.lower() == body,
    }
    expected = [row.path for row in job.results() if all(fits[name](row, value) for name, value in wanted.items())]
    assert expected
    with statements(client.database) as sent:
        assert [path for page in cut(job.results(**wanted), 2) for path in page] == expected
    assert not [sql for sql in sent if "ORDER BY images.ordinal" in sql]


@embedded
@pytest.mark.parametrize(
    ("of_job", "wanted", "index"),
    [
        (False, {"decision": "model", "max_confidence": 0.9}, "ix_outcomes_decision"),
        (False, {"decision": "model", "sort": "confidence"}, "ix_outcomes_confidence"),
        (False, {"make": "Acura", "decision": "model"}, "ix_outcomes_class"),
        (False, {"listing": "a", "sort": "confidence"}, "ix_images_listing"),
        (False, {"listing": "a", "decision": "model"}, "ix_images_listing"),
        (False, {"listing": "a", "make": "Acura", "sort": "confidence"}, "ix_images_listing"),
        (True, {"decision": "model"}, "PRIMARY KEY"),
        (True, {"decision": "model", "max_confidence": 0.9}, "PRIMARY KEY"),
        (True, {"make": "Acura", "decision": "model"}, "ix_outcomes_job_class"),
    ],
)
def test_sqlite_takes_the_index_that_has_the_rows_together(
    client: Client, job: Job, monkeypatch: pytest.MonkeyPatch, of_job: bool, wanted: dict[str, Any], index: str
) -> None:
    """It would sort all rows of another index that covers the question."""
    monkeypatch.setattr("jobs.db.queries.walks.FEW_COVERED", -1)
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "outcomes" in statement and "ORDER BY" in statement and "count(" not in statement:
            sent.append((statement, parameters))

    event.listen(client.database.engine, "before_cursor_execute", note)
    (job.results if of_job else client.results)(**wanted).page(limit=2)
    with client.database.read() as connection:
        for statement, parameters in sent.copy():
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert any(index in step for step in plan), plan
    assert sent


def test_a_listing_sorted_by_confidence_has_no_others(client: Client, job: Job) -> None:
    set_confidences(client)
    for ask in (client.results, job.results):
        assert paths(ask(listing="a", sort="confidence")) == [f"a/{red}.png" for red in (3, 2, 1, 0)]
        assert paths(ask(listing="a", make="Acura", sort="confidence")) == ["a/1.png", "a/0.png"]


def test_sorting_is_of_one_moment(client: Client, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes while results are read is neither missed nor given twice."""
    monkeypatch.setattr("jobs.results.PAGE", 2)
    set_confidences(client)
    with client.database.write() as connection:
        connection.execute(text("UPDATE images SET status = 'pending' WHERE path LIKE 'b/%'"))
        connection.execute(text("UPDATE jobs SET state = 'running', finished_at = NULL, ok = ok - 4"))
    stream = iter(job.results(sort="confidence"))
    met = [next(stream).path for _ in range(2)]
    with client.database.write() as connection:
        connection.execute(text("UPDATE images SET status = 'ok' WHERE path LIKE 'b/%'"))
    met += paths(stream)
    assert sorted(met) == paths(job.results())


def test_counts(client: Client, job: Job) -> None:
    with client.database.write() as connection:
        for decision, make, car_model in (("unknown", "BMW", "M3"), ("make", "Acura", "TL")):
            named = {"decision": decision, "make": make, "model": car_model}
            classes = "(SELECT id FROM classes WHERE make = :make AND model = :model)"
            for change in (
                "UPDATE predictions SET decision = :decision WHERE make = :make AND model = :model",
                f"UPDATE outcomes SET decision = :decision WHERE class_id IN {classes}",
                f"UPDATE totals SET outcome = :decision WHERE class_id IN {classes}",
            ):
                connection.execute(text(change), named)
    expected = {
        "status": {"ok": 8, "failed": 1},
        "decision": {"model": 4, "make": 2, "unknown": 2},
        "make": {"Acura": 4, "Land Rover": 2},
        "code": {"undecodable": 1},
    }
    for found in (job.results(), client.results(), job.results(since="2020-01-01")):  # from totals, and one by one
        assert found.counts() == expected
    assert client.results(make="BMW").counts()["status"] == {"ok": 2}


def test_the_view_gives_sql_readers_the_same(client: Client, job: Job) -> None:
    with client.database.read() as connection:
        found = connection.execute(text("SELECT * FROM results ORDER BY job, path"))
        assert list(found.keys()) == [
            "job", "path", "listing", "status", "label", "make", "model", "body", "year", "confidence", "decision",
            "model_version", "content_hash", "finished_at",
        ]  # fmt: skip
        rows = [row._asdict() for row in found]
    expected = [result.to_dict() for result in job.results()]
    assert len(rows) == len(expected) == 9
    for row, result in zip(rows, expected, strict=True):
        moment = datetime.fromisoformat(str(row["finished_at"]))
        assert moment.tzinfo is None  # a plain time in UTC, whatever the session's time zone is
        assert moment.isoformat(timespec="milliseconds") + "Z" == result["finished_at"]
        assert {**row, "job": str(row["job"]), "finished_at": result["finished_at"]} == {
            name: result[name] for name in row
        }


def test_parts_are_those_that_the_data_named(
    client: Client, runtime: Callable[..., Runtime], publish: Callable[..., str], tmp_path: Path
) -> None:
    worker = runtime()
    parts = [
        ("Great Wall", "Ora 03", "Hatchback", 2023),
        ("Lynk", "Co 01 2023", None, None),
        ("Lynk", "Co 02", None, 2024),
    ]
    names = [" ".join(str(part) for part in each if part is not None) for each in parts]
    named = {
        name: dict(zip(("make", "model", "body", "year"), each, strict=True))
        for name, each in zip(names, parts, strict=True)
    }
    classes = [*names, "Land Rover LR2 SUV 2012"]  # which is not in parts: they are read from its name
    client.promote(publish("own", format=2, classes=classes, class_parts=named))
    for red in range(4):
        save(tmp_path / f"cars/{red}.png", red)
    job = complete(client, tmp_path / "cars", worker)
    found = [(result.make, result.model, result.body, result.year) for result in job.results()]
    assert found == [*parts, ("Land Rover", "LR2", "SUV", 2012)]
    assert [result.label for result in job.results(make="lynk")] == names[1:]
    assert [result.label for result in job.results(model="ORA 03")] == names[:1]
    assert [result.label for result in job.results(year=2023)] == names[:1]
    assert client.label(f"{job.id}:3.png", names[1]).label == names[1]
    assert client.model_card("own")["class_parts"] == named


def test_top_k(client: Client, runtime: Callable[..., Runtime], tmp_path: Path) -> None:
    save(tmp_path / "cars/1.png", 1)
    job = complete(client, tmp_path / "cars", runtime(), top_k=2)
    (submitted,) = job.results()
    (more,) = job.results(top_k=3)
    (most,) = job.results(top_k=99)
    assert (len(submitted.top), len(more.top), len(most.top)) == (2, 3, 4)
    assert most.top[:2] == submitted.top
    assert sum(one["confidence"] for one in most.top) == pytest.approx(1, abs=0.01)


def test_times(client: Client, job: Job) -> None:
    finished_at = job.status().finished_at
    assert finished_at is not None
    finished = datetime.fromisoformat(finished_at)
    day, minute = timedelta(days=1), timedelta(minutes=1)
    for since in (finished - minute, (finished - day).date(), (finished - day).isoformat(), str(date(2020, 1, 1))):
        assert len(paths(client.results(since=since))) == 9, since
    for since in (finished + day, (finished + 2 * day).date(), "2120-01-01"):
        with pytest.raises(SettingsInvalid, match="since must not lie in the future"):
            client.results(since=since)
    assert paths(client.results(since=datetime.now(UTC))) == []
    assert paths(client.results(until=finished - day)) == []
    assert len(paths(client.results(since=finished - day, until=finished + minute))) == 9
    local = datetime.now().astimezone().isoformat()
    assert paths(client.results(since=local)) == []
    utc = (finished - minute).astimezone(UTC).replace(tzinfo=None)
    assert len(paths(client.results(since=utc))) == 9


def test_time_of_the_image_not_of_the_job(client: Client, job: Job) -> None:
    with client.database.write() as connection:
        at = "2020-05-01 00:00:00.000000" + ("" if client.database.sqlite else "+00")
        connection.execute(text("UPDATE images SET finished_at = :at WHERE path LIKE 'a/%'"), {"at": at})
        at = at.removesuffix("+00")
        connection.execute(text("UPDATE outcomes SET finished_at = :at WHERE ordinal < 4"), {"at": at})
    expected = [*(f"b/{red}.png" for red in range(4)), "broken.png"]
    assert paths(job.results(since="2020-05-02")) == expected
    assert paths(client.results(since="2020-05-02")) == expected[::-1]


@pytest.mark.parametrize(
    "wanted",
    [
        {"decision": "sure"},
        {"status": "done"},
        {"min_confidence": 1.5},
        {"max_confidence": float("nan")},
        {"since": "some day"},
        {"sort": "colour"},
        {"limit": 0},
        {"job_id": 1},
        {"year": 99_999_999_999},
        {"top_k": 0},
        {"colour": "red"},
    ],
)
def test_a_filter_that_cannot_be_used(wanted: dict[str, Any], home: Path) -> None:
    with Client() as client, pytest.raises(SettingsInvalid):
        client.results(**wanted)


def test_pages_by_key(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime()
    folder = photos(23, 16)
    jobs = [complete(client, folder, worker) for _ in range(2)]
    expected = [(job.id, path.name) for job in jobs for path in sorted(folder.iterdir())][::-1]
    for page, queries in ((10, 5), (23, 3), (46, 2), (100, 1)):
        monkeypatch.setattr("jobs.results.PAGE", page)
        with statements(client.database) as seen:
            assert [(result.job, result.path) for result in client.results()] == expected
        assert len([each for each in seen if "FROM outcomes" in each]) == queries
        assert paths(jobs[1].results()) == [path for _, path in expected[22::-1]]


def test_a_stream_asks_for_no_more_than_is_read(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = complete(client, photos(9, 16), runtime())
    monkeypatch.setattr("jobs.results.PAGE", 3)
    with statements(client.database) as seen:
        stream = iter(job.results())
        for _ in range(3):
            next(stream)
        assert len(seen) == 2  # which images come first, and what is stored of them


def test_jobs_that_come_and_go_meanwhile(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime()
    folder = photos(4, 16)
    first, second = (complete(client, folder, worker) for _ in range(2))
    monkeypatch.setattr("jobs.results.PAGE", 2)
    stream = iter(client.results())
    met = [next(stream).job for _ in range(6)]
    second.delete()
    complete(client, folder, worker)  # newer than what has been read
    met += [result.job for result in stream]
    assert met == [second.id] * 4 + [first.id] * 4


@pytest.mark.parametrize("order", [{}, {"sort": "confidence"}, {"make": "Acura", "sort": "confidence"}])
def test_a_cursor_belongs_to_its_query(client: Client, job: Job, order: dict[str, Any]) -> None:
    cursor = client.results(**order).page(limit=2).next
    assert cursor is not None
    assert len(client.results(**order).page(cursor, limit=2).results) == 2
    for other in (
        client.results(min_confidence=0.1, **order),
        job.results(**order),
        client.results(sort="time", year=2012),
    ):
        with pytest.raises(SettingsInvalid, match="another query: repeat the filters"):
            other.page(cursor)
    for wrong in ("", "x", "é", cursor[:-4], "bm90IGEgY3Vyc29y"):
        with pytest.raises(SettingsInvalid, match="is not a cursor"):
            client.results(**order).page(wrong)


def test_pages_while_jobs_run(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path], tmp_path: Path
) -> None:
    """What was finished when the first page was read comes once, whatever is finished and tried again meanwhile."""
    worker = runtime(batch_size=4)
    first = complete(client, photos(12, 16), worker)
    second = client.submit(str(photos(12, 24)))
    scan_job(worker, int(second.id))
    classify_batch(worker)
    before = {(result.job, result.path) for result in client.results()}
    found, cursor, met = client.results(), None, []
    while True:
        page = found.page(cursor, limit=3)
        met += [(result.job, result.path) for result in page.results]
        classify_batch(worker)
        if (cursor := page.next) is None:
            break
    assert len(met) == len(set(met))
    assert before <= set(met)
    assert (first.status().pending, second.status().pending) == (0, 0)


def test_unfinished_images_of_all_jobs(
    client: Client, runtime: Callable[..., Runtime], photos: Callable[..., Path]
) -> None:
    worker = runtime(batch_size=2)
    folder = photos(6, 16)
    canceled, running = client.submit(str(folder)), client.submit(str(folder))
    for job in (canceled, running):
        scan_job(worker, int(job.id))
        classify_batch(worker)
    canceled.cancel()
    names = sorted(path.name for path in folder.iterdir())
    for status, job in (("canceled", canceled), ("pending", running)):
        of_all = client.results(status=status)
        listed = [result.path for result in of_all]
        assert listed == paths(job.results(status=status)) == [name for name in names if name in listed]
        assert len(listed) == getattr(job.status(), status) > 0
        assert [path for page in cut(of_all, 2) for path in page] == listed
    assert len(paths(client.results())) == 12 - canceled.status().canceled - running.status().pending


def test_write_and_pandas(job: Job, tmp_path: Path) -> None:
    assert job.results(make="Acura").write(tmp_path / "acura.jsonl") == 4
    assert len((tmp_path / "acura.jsonl").read_text().splitlines()) == 4
    frame = job.results(status="ok").to_pandas()
    assert list(frame["path"]) == paths(job.results(status="ok"))
