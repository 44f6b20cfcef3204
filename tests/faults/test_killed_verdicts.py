"""Workers die while verdicts are given; every listing gets the one that an undisturbed run gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import text

from jobs import Client, Job
from jobs.records import JobStatus
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import ended, follow
from tests.support.processes import WorkerProcess

LISTINGS = int(os.environ.get("FAULT_LISTINGS", "300"))
IMAGES = 2 * LISTINGS
KILLS = 5


def shop(folder: Path) -> Path:
    """Listings of two images: of one class, of one make, or of two."""
    for number in range(LISTINGS):
        inside = folder / f"car {number:05}"
        inside.mkdir(parents=True)
        for n, shown in enumerate((100, (100, 101, 180)[number % 3])):
            Image.new("RGB", (16, 16), (shown, number >> 6, (number & 63) << 2 | n)).save(inside / f"{n}.png")
    return folder


def verdicts(client: Client, job: Job) -> dict[str, dict[str, Any]]:
    """The verdicts by listing, without what differs from run to run."""
    rows = [row.to_dict() for row in client.listings.find(job)]
    return {
        row["listing"]: {name: value for name, value in row.items() if name not in ("job", "updated_at")}
        for row in rows
    }


def test_every_listing_has_the_verdict_of_an_undisturbed_run(
    backend: Backend, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    folder = shop(tmp_path / "shop")
    env = {**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.003", "CARS_BATCH_SIZE": "16"}
    with Client() as client:

        def due_and_ended() -> int:
            with client.database.read() as connection:
                found = (
                    "SELECT count(*) FROM listings JOIN jobs ON jobs.id = job_id WHERE due AND finished_at IS NOT NULL"
                )
                return int(connection.scalar(text(found)) or 0)

        def done(count: int) -> Callable[[JobStatus], bool]:
            def reached(status: JobStatus) -> bool:
                assert due_and_ended() == 0
                return status.ok >= count

            return reached

        running = worker(env)
        job = client.submit(str(folder))
        for kill in range(1, KILLS + 1):
            follow(job, until=done(IMAGES * kill // KILLS - IMAGES // 50))
            running.kill_all()
            running = worker(env)
        status = follow(job, until=lambda status: ended(status) and due_and_ended() == 0)
        assert (status.state, status.ok) == ("completed", IMAGES)
        undisturbed = client.submit(str(folder))
        assert follow(undisturbed, until=ended).state == "completed"
        found = verdicts(client, job)
        assert len(found) == LISTINGS
        assert found == verdicts(client, undisturbed)
        assert {row["decision"] for row in found.values()} == {"model", "make", "unknown"}
