"""A database that an earlier release has written, with schema 0005, is migrated and reads as that release printed it.

`tests/fixtures/schema_0005` has one of each kind: jobs in every state, a job whose last image has crashed two workers,
failed images, corrections, training runs with a published version, a worker. The JSON beside it is what the release's
own `Client` returned. Of the bundled version's card, the list of holdout photos is shortened to two.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from sqlalchemy import text

from jobs import Client
from jobs.db import migrate
from tests.support.processes import CHECKOUT, environment

FIXTURES = CHECKOUT / "tests" / "fixtures" / "schema_0005"
DEPENDS_ON_NOW = {"images_per_second", "eta_seconds", "waiting"}
ENDED = {"completed", "completed_with_errors", "canceled", "failed"}
OF_A_RUN = ("id", "state", "dataset", "recipe", "init", "epoch", "epochs", "epochs_run", "train_loss", "valid_loss",
            "accuracy", "notes", "model_version", "promoted", "reason", "error", "attempt", "created_at", "started_at",
            "finished_at")  # fmt: skip


class Old(NamedTuple):
    """A client of the migrated database, and what the release before printed of it."""

    client: Client
    printed: dict[str, Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, home: Path) -> Iterator[Old]:
    if request.param == "sqlite":
        shutil.copy(FIXTURES / "sqlite.database", home / "cars.db")
        url = f"sqlite:///{home / 'cars.db'}"
    else:
        url = request.getfixturevalue("pg_url")
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute((FIXTURES / "postgresql.sql").read_bytes())
    with Client(database_url=url, broker_url="memory://") as client:
        if request.function is test_a_migration_that_is_killed_continues:
            killed_in_the_middle(url)
            assert client.migrate()["from"] == "0007"
        else:
            assert client.migrate()["from"] == "0005"
        yield Old(client, json.loads((FIXTURES / f"{request.param}.json").read_text(encoding="utf-8")))


def killed_in_the_middle(url: str) -> None:
    """Migrate in slices of one image, in a process that kills itself after each of the first four."""
    code = (
        "import os, signal\n"
        "from jobs.db import filling, migrate\n"
        "from jobs.db.database import Database\n"
        "filling.SLICE = 1\n"
        f"migrate.migrate(Database({url!r}), report=lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    for _ in range(4):
        done = subprocess.run([sys.executable, "-P", "-c", code], env=environment(), check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL


def test_the_schema_is_this_releases_and_migrating_again_changes_nothing(old: Old) -> None:
    migrate.check(old.client.database)
    again = old.client.migrate()
    assert (again["from"], again["to"]) == (migrate.HEAD, migrate.HEAD)


def test_statuses_read_the_same(old: Old) -> None:
    jobs = [status.to_dict() for status in old.client.jobs()]
    assert [job["id"] for job in jobs] == [job["id"] for job in old.printed["jobs"]]
    for now, before in zip(jobs, old.printed["jobs"], strict=True):
        fields = before.keys() - (DEPENDS_ON_NOW if before["state"] not in ENDED else set())
        assert {name: now[name] for name in fields} == {name: before[name] for name in fields}
        assert old.client.job(before["id"]).status().to_dict().keys() == before.keys()


def test_results_errors_and_skipped_files_read_the_same(old: Old) -> None:
    finished = [result for result in old.printed["all_results"] if result["status"] in ("ok", "failed")]
    found = [result.to_dict() for result in old.client.results()]
    place = {(result["job"], result["path"]): at for at, result in enumerate(old.printed["all_results"])}
    assert sorted(found, key=lambda result: place[result["job"], result["path"]]) == finished
    times = [result["finished_at"] for result in found]
    assert times == sorted(times, reverse=True)
    for job_id, results in old.printed["results"].items():
        job = old.client.job(job_id)
        assert [result.to_dict() for result in job.results()] == results
        assert [error.to_dict() for error in job.errors()] == old.printed["errors"][job_id]
        assert [line.to_dict() for line in job.skipped()] == old.printed["skipped"][job_id]


def check_outcomes_of(old: Old) -> None:
    """Check that each finished image of the old database has its outcome, and that totals agree."""
    with old.client.database.read() as connection:
        rows = connection.execute(
            text(
                "SELECT jobs.id, jobs.ok + jobs.failed AS finished, "
                "(SELECT count(*) FROM outcomes WHERE job_id = jobs.id) AS outcomes, "
                "(SELECT coalesce(sum(images), 0) FROM totals WHERE job_id = jobs.id) AS counted FROM jobs"
            )
        ).all()
    assert sum(row.finished for row in rows) > 4
    assert all(row.finished == row.outcomes == row.counted for row in rows), rows


def test_every_finished_image_has_an_outcome(old: Old) -> None:
    check_outcomes_of(old)
    for job_id, results in old.printed["results"].items():
        makes = Counter(result["make"] for result in results if result["make"])
        assert {row.value: row.images for row in old.client.summary(job_id, by="make")} == makes


def test_a_migration_that_is_killed_continues(old: Old) -> None:
    check_outcomes_of(old)
    for job_id, results in old.printed["results"].items():
        assert [result.to_dict() for result in old.client.job(job_id).results()] == results


def test_corrections_and_model_versions_read_the_same(old: Old) -> None:
    printed = [{**correction, "author": None} for correction in old.printed["corrections"]]
    assert [correction.to_dict() for correction in old.client.labels()] == printed
    # This release may bring another bundled version, which is registered beside the old ones.
    models = {version["name"]: version for version in (version.to_dict() for version in old.client.models())}
    assert [models[version["name"]] for version in old.printed["models"]] == old.printed["models"]
    assert [promotion.to_dict() for promotion in old.client.history()] == old.printed["history"]
    for version in old.printed["models"]:
        assert old.client.model(version["name"]).name == version["name"]


def test_training_runs_read_the_same(old: Old) -> None:
    runs = [run.to_dict() for run in old.client.trainings()]
    for now, before in zip(runs, old.printed["trainings"], strict=True):
        assert {name: now[name] for name in OF_A_RUN} == {name: before[name] for name in OF_A_RUN}
        assert (now["candidate"] is None) == (before["candidate"] is None)


def test_crashes_and_workers_are_still_counted(old: Old) -> None:
    with old.client.database.read() as connection:
        images = connection.execute(text("SELECT * FROM images WHERE job_id = 3 AND ordinal = 3")).mappings().one()
        run = connection.execute(text("SELECT * FROM training_runs WHERE id = 2")).mappings().one()
        workers = connection.execute(text("SELECT id, host, pid, seen_at FROM workers")).all()
    assert (images["crashes"], run["crashes"]) == (2, 1)
    assert [(worker.host, worker.pid) for worker in workers] == [("host", 4711)]
    old.client.workers()
