"""What a new model version changes: sources that are tagged again, and what two versions say differently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs import Client, Job
from jobs.errors import JobNotFound, NotPossible, SettingsInvalid, SourceMissing, VersionNotFound
from jobs.sources import stamps
from tests.support.backends import embedded
from tests.support.changes import tags
from tests.support.engines import inferences
from tests.support.steps import complete
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]
Publish = Callable[..., str]


@pytest.fixture(autouse=True)
def stamped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file that was written a moment ago have a stamp."""
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 0.0)


def run(client: Client, worker: Runtime, source: Path | list[Path], **options: Any) -> Job:
    job = client.submit(source, **options)
    complete(job, worker)
    return job


def do(client: Client, worker: Runtime, *ids: str | None) -> list[Job]:
    """Let the worker do these jobs."""
    found = [client.job(id) for id in ids if id is not None]
    for job in found:
        complete(job, worker)
    return found


def unseen_by_hand(client: Client, version: str) -> int:
    """Count the images of stale current runs whose content a version has not seen, by SQL alone."""
    sql = """
        SELECT count(*) FROM images
        WHERE status = 'ok' AND job_id IN (
            SELECT max(id) FROM jobs
            WHERE state IN ('completed', 'completed_with_errors') AND trial = false GROUP BY source
        )
        AND job_id NOT IN (
            SELECT jobs.id FROM jobs
            JOIN model_versions ON version_id = model_versions.id WHERE model_versions.name = :v
        )
        AND content_hash NOT IN (
            SELECT content_hash FROM predictions
            JOIN model_versions ON version_id = model_versions.id WHERE model_versions.name = :v
        )
    """
    with client.database.read() as connection:
        return int(connection.execute(text(sql), {"v": version}).scalar_one())


def test_every_stale_source_is_tagged_once(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path
) -> None:
    worker = runtime()
    sources = [photos(number, 16, tmp_path / f"s{number}") for number in (3, 4, 5)]
    (sources[0] / "text.jpg").write_text("no photo")
    first, second, third = (run(client, worker, source, name=source.name, top_k=2) for source in sources)
    run(client, worker, [sources[2] / "000008.jpg"])
    client.promote(publish("newer"))
    run(client, worker, sources[2])
    (sources[1] / "copy.jpg").write_bytes((sources[2] / "000008.jpg").read_bytes())
    second = run(client, worker, sources[1], model="tiny")
    planned = client.retag(stale=True, dry_run=True)
    assert [(row.job, row.base, row.before, row.after, row.images, row.unseen) for row in planned] == [
        (None, first.id, "tiny", "newer", 4, 3),
        (None, second.id, "tiny", "newer", 5, 4),
    ]
    assert sum(row.unseen for row in planned) == unseen_by_hand(client, "newer")
    assert third.status().model_version == "tiny"
    submitted = client.retag(stale=True)
    assert client.retag(stale=True) == [], "they are on their way"
    one, two = do(client, worker, *(row.job for row in submitted))
    assert [(s.model_version, s.name, s.ok) for s in (one.status(), two.status())] == [
        ("newer", "s3", 3), ("newer", "s4", 5)
    ]  # fmt: skip
    assert client.retag(stale=True, dry_run=True) == []
    assert unseen_by_hand(client, "newer") == 0


def test_a_trial_is_never_current_and_spares_the_real_run_all_reading(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "engine.log"
    monkeypatch.setenv("ENGINE_LOG", str(log))
    worker = runtime()
    folder = photos(3, 16, tmp_path / "photos" / "one listing").parent
    first = run(client, worker, folder)
    before = tags(client)
    publish("newer")
    (row,) = client.retag(first, model="newer", trial=True)
    (trial,) = do(client, worker, row.job)
    assert tags(client) == before
    assert (trial.status().model_version, trial.status().ok, inferences(log)) == ("newer", 3, 6)
    client.promote("newer")
    (planned,) = client.retag(stale=True, dry_run=True)
    assert (planned.base, planned.unseen) == (first.id, 0), "the trial does not count"
    (row,) = client.retag(stale=True)
    (again,) = do(client, worker, row.job)
    assert (again.status().unchanged, inferences(log)) == (3, 6)
    assert [len(rows) for rows in tags(client).values()] == [3, 1]
    assert tags(client) != before


def test_one_job_is_tagged_again_with_its_options(
    client: Client, runtime: Make, publish: Publish, photos: Photos
) -> None:
    worker = runtime()
    folder = photos(3, 16)
    first = run(client, worker, folder, name="night", top_k=2, priority="low")
    publish("newer")
    (planned,) = client.retag(first.id, model="newer", dry_run=True)
    assert (planned.job, planned.unseen, len(list(client.jobs()))) == (None, 3, 1)
    (row,) = client.retag(first.id, model="newer")
    (job,) = do(client, worker, row.job)
    assert (job.status().name, job.status().model_version) == ("night", "newer")
    assert [len(result.top) for result in job.results()] == [2, 2, 2]
    assert row.to_dict() == {
        "job": job.id, "source": str(folder), "base": first.id, "from": "tiny", "to": "newer", "images": 3,
        "unseen": 3, "error": None,
    }  # fmt: skip


def test_a_source_that_is_gone_keeps_no_other_from_being_tagged(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path
) -> None:
    worker = runtime()
    gone, there = photos(1, 16, tmp_path / "gone"), photos(1, 16, tmp_path / "there")
    jobs = [run(client, worker, source) for source in (gone, there)]
    client.promote(publish("newer"))
    gone.rename(tmp_path / "elsewhere")
    first, second = client.retag(stale=True)
    assert first.job is None
    assert "gone does not exist" in (first.error or "")
    assert second.error is None
    assert client.job(second.job or "").status().model_version == "newer"
    with pytest.raises(SourceMissing):
        client.retag(jobs[0])


@embedded
def test_what_cannot_be_tagged_again(client: Client, runtime: Make, publish: Publish, photos: Photos) -> None:
    worker = runtime()
    folder = photos(2, 16)
    job = run(client, worker, [folder / "000001.jpg"])
    with pytest.raises(SettingsInvalid, match="--stale"):
        client.retag()
    with pytest.raises(SettingsInvalid, match="--stale"):
        client.retag(job, stale=True)
    with pytest.raises(NotPossible, match="single images"):
        client.retag(job)
    with pytest.raises(JobNotFound):
        client.retag("99")
    with pytest.raises(VersionNotFound):
        client.retag(stale=True, model="none")


def make_differ(client: Client, version: str, job: Job, **said: str) -> None:
    """Let a version say something else of the job's images: labels by path."""
    hashes = {result.path: result.content_hash or "" for result in client.results(job)}
    with client.database.write() as connection:
        for path, label in said.items():
            connection.execute(
                text(
                    "UPDATE predictions SET label = :label WHERE content_hash = :hash AND version_id = "
                    "(SELECT id FROM model_versions WHERE name = :version)"
                ),
                {"label": label, "hash": bytes.fromhex(hashes[f"{path}.jpg"]), "version": version},
            )


def test_the_images_of_which_versions_say_different_things(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path
) -> None:
    worker = runtime()
    folder = photos(5, 16, tmp_path / "cars")
    for number in range(1, 6):
        (folder / f"{number:06}.jpg").rename(folder / f"{'abcde'[number - 1]}.jpg")
    first = run(client, worker, folder)
    publish("newer")
    (row,) = client.retag(first, model="newer", trial=True)
    (trial,) = do(client, worker, row.job)
    make_differ(client, "newer", trial, b="other car", d="another car")
    found = [difference.to_dict() for difference in client.diff(first, "tiny", "newer")]
    results = {(job.id, result.path): result for job in (first, trial) for result in client.results(job)}

    def said(job: Job, path: str) -> dict[str, object]:
        result = results[job.id, path]
        return {"label": result.label, "confidence": result.confidence, "decision": result.decision}

    assert found == [
        {
            "kind": "image", "job": first.id, "listing": None, "path": path,
            "from": said(first, path), "to": said(trial, path),
        } for path in ("b.jpg", "d.jpg")
    ]  # fmt: skip
    assert [one["to"]["label"] for one in found] == ["other car", "another car"]
    backwards = [difference.to_dict() for difference in client.diff(trial, "newer", "production")]
    assert [(one["from"], one["to"]) for one in backwards] == [(one["to"], one["from"]) for one in found]
    (folder / "b.jpg").write_bytes((folder / "a.jpg").read_bytes())
    (row,) = client.retag(first, model="newer", trial=True)
    do(client, worker, row.job)
    assert [difference.path for difference in client.diff(row.job or "", "tiny", "newer")] == ["d.jpg"]


def test_a_version_without_a_run_of_the_source(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path
) -> None:
    worker = runtime()
    folder = photos(2, 16)
    first = run(client, worker, folder)
    publish("newer")
    with pytest.raises(NotPossible, match=f"retag first: cars retag {first.id} --model newer --trial"):
        client.diff(first, "tiny", "newer")
    run(client, worker, photos(2, 16, tmp_path / "others"), model="newer")
    run(client, worker, [folder / "000001.jpg"], model="newer")
    canceled = client.submit(str(folder), model="newer")
    with pytest.raises(NotPossible, match="wait for its end"):
        client.diff(canceled, "tiny", "newer")
    canceled.cancel()
    with pytest.raises(NotPossible, match="retag first"):
        client.diff(first, "tiny", "newer")
    with pytest.raises(SettingsInvalid, match="both versions"):
        client.diff(first, "tiny", "production")
    with pytest.raises(VersionNotFound):
        client.diff(first, "tiny", "none")
    with pytest.raises(JobNotFound):
        client.diff("99", "tiny", "newer")


def test_the_listings_on_which_versions_say_different_things(
    client: Client, runtime: Make, publish: Publish, photos: Photos, tmp_path: Path
) -> None:
    worker = runtime()
    folder = tmp_path / "cars"
    for name in ("a", "b", "c", "d"):
        photos(2, 16, folder / name)
    first = run(client, worker, folder)
    (folder / "a" / "more.jpg").write_bytes((folder / "d" / "000007.jpg").read_bytes() + b"more")
    publish("newer")
    (row,) = client.retag(first, model="newer", trial=True)
    (trial,) = do(client, worker, row.job)
    for job, name, label in ((trial, "a", "one"), (trial, "b", "two"), (first, "c", None), (trial, "c", None)):
        with client.database.write() as connection:
            connection.execute(
                text("UPDATE listings SET label = :label, decision = 'model' WHERE job_id = :id AND name = :name"),
                {"label": label, "id": int(job.id), "name": name},
            )
    listings = {(job.id, row.listing): row for job in (first, trial) for row in client.listings.find(job)}
    found = [one.to_dict() for one in client.diff(first, "tiny", "newer") if one.kind == "listing"]

    def said(job: Job, name: str) -> dict[str, object]:
        row = listings[job.id, name]
        return {"label": row.label, "confidence": row.confidence, "decision": row.decision}

    common = {"kind": "listing", "job": first.id, "path": None}
    assert found == [
        {**common, "listing": "a", "from": said(first, "a"), "to": said(trial, "a"), "photos_changed": True},
        {**common, "listing": "b", "from": said(first, "b"), "to": said(trial, "b")},
    ]
    assert [one["to"]["label"] for one in found] == ["one", "two"]
