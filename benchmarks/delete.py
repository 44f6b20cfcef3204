"""How long `delete` and `prune` of a large job take on PostgreSQL, and how long they hold others up meanwhile.

    PYTHONPATH=. python -P -m benchmarks.delete [--images 1000000] [--url postgresql+psycopg://…/an_empty_database]

Each job's contents are its own, so that all its predictions go, or all of another's, so that none goes. A second job
commits results all the while, of new contents and of some that the deletion is after. Without a URL it starts its own
server, with fsync on.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
from sqlalchemy import text

from jobs import housekeeping
from jobs.db import migrate
from jobs.db.database import Database
from jobs.db.queries import images, jobs, outcomes, predictions
from jobs.db.queries.classes import CarClass
from tests.support.servers import Postgres

BATCH, REUSED, PAUSE_SECONDS = 64, 8, 0.02
JOB = """INSERT INTO jobs (name, source, state, version_id, top_k, priority, total, ok, created_at, finished_at)
    SELECT 'x', '/x', CAST(:state AS text), min(id), 5, 0, :n, :ok, now(),
        CASE WHEN CAST(:state AS text) = 'completed' THEN now() END
    FROM model_versions RETURNING id"""
IMAGES = """INSERT INTO images (job_id, ordinal, path, status, crashes)
    SELECT :job, n, 'folder/' || n || '.jpg', 'pending', 0 FROM generate_series(0, :n - 1) AS n"""
SETTLED = """UPDATE images SET status = 'ok', finished_at = now(),
        content_hash = sha256(CAST(:contents || CAST(ordinal AS text) AS bytea))
    WHERE job_id = :job"""
PREDICTIONS = """INSERT INTO predictions (version_id, content_hash, label, make, model, body, year, confidence,
        decision, probabilities, created_at)
    SELECT version_id, content_hash, 'Label ' || ordinal % 196, 'Make ' || ordinal % 49, 'Model ' || ordinal % 196,
        'Sedan', 2012, random(), 'model', decode(repeat(md5(CAST(ordinal AS text)), 24), 'hex'), now()
    FROM images JOIN jobs ON jobs.id = job_id WHERE job_id = :job ORDER BY ordinal ON CONFLICT DO NOTHING"""
CLASSES = """INSERT INTO classes (version_id, label, make, model, body, year)
    SELECT DISTINCT version_id, label, make, model, body, year FROM predictions ON CONFLICT DO NOTHING"""
FACT = predictions.Fact(CarClass("x", "x", "x", None, None), 0.5, "model")


def fill(database: Database, count: int, *, contents: str, ended: bool = True) -> int:
    """Add a job of `count` images, finished if it has ended, and return its id. Equal `contents` are equal photos."""
    with database.write() as connection:
        values = {"state": "completed" if ended else "running", "n": count, "ok": count if ended else 0}
        job = int(connection.execute(text(JOB), values).scalar_one())
        connection.execute(text(IMAGES), {"job": job, "n": count})
        if ended:
            connection.execute(text(SETTLED), {"job": job, "contents": contents})
            connection.execute(text(PREDICTIONS), {"job": job})
            connection.execute(text(CLASSES))
            outcomes.fill(connection, job, first=0, last=count - 1)
    return job


@contextmanager
def committing(database: Database, job: int, victim: str, count: int, waits: list[float], seed: str) -> Any:
    """Commit another job's results meanwhile, as workers do; append to `waits` how long each commit took."""
    stop = threading.Event()

    def run() -> None:
        for first in range(0, count - BATCH, BATCH):
            if stop.wait(PAUSE_SECONDS):
                return
            waits.append(commit(database, job, range(first, first + BATCH), victim=victim, seed=seed, count=count))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def commit(database: Database, job: int, ordinals: range, *, victim: str, seed: str, count: int) -> float:
    """Commit one batch's results and return the seconds that it took."""
    with database.read() as connection:
        version = connection.execute(text("SELECT version_id FROM jobs WHERE id = :job"), {"job": job}).scalar_one()
        sql = "SELECT sha256(CAST(:contents || CAST(n AS text) AS bytea)) FROM unnest(CAST(:ns AS int[])) AS n"
        mine, theirs = (
            [bytes(one) for one in connection.execute(text(sql), {"contents": contents, "ns": ns}).scalars()]
            for contents, ns in (
                (seed, list(ordinals)),
                (victim, [(at * 7919) % count for at in ordinals[:REUSED]]),
            )
        )
        reused = predictions.known(connection, version, theirs)
    new = [predictions.Prediction(one, "x", "x", "x", None, None, 0.5, "model", b"0" * 392) for one in mine]
    began = time.perf_counter()
    with database.write() as connection:
        predictions.store(connection, version, new)
        protected = predictions.protect(connection, version, reused)
        jobs.count_up(connection, job, jobs.Counts(ok=len(new), failed=0, cached=0))
        settled = [images.Outcome(at, one, None) for at, one in zip(ordinals, mine, strict=True)]
        facts = dict.fromkeys(mine, FACT) | protected
        images.settle(connection, job, settled, version_id=version, facts=facts)
    return time.perf_counter() - began


def server_seconds(database: Database) -> dict[int, float]:
    """Return the CPU seconds of each of the program's connections; empty where the server is on another machine."""
    with database.read() as connection:
        pids = connection.execute(text("SELECT pid FROM pg_stat_activity WHERE application_name = 'cars'")).scalars()
        return {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids if psutil.pid_exists(pid)}


def measure(url: str, what: str, count: int, *, shared: bool) -> dict[str, Any]:
    deleting, writing = Database(url), Database(url)
    seed = f"{what}{shared}"
    job, waits = fill(deleting, count, contents=seed), list[float]()
    if shared:
        fill(deleting, count, contents=seed)
        with deleting.write() as connection:
            connection.execute(
                text("UPDATE jobs SET finished_at = now() - interval '9 days' WHERE id = :j"), {"j": job}
            )
    other = fill(writing, count // 2, contents="", ended=False)
    with deleting.write() as connection:
        connection.execute(text("ANALYZE"))
    deleting.close()  # the CPU seconds of its connections begin at 0
    calls: dict[str, Callable[[], object]] = {
        "delete": lambda: housekeeping.delete(deleting, job),
        "prune": lambda: housekeeping.prune(deleting, timedelta(days=8 if shared else 0)),
    }
    with committing(writing, other, seed, count, waits, f"new {seed} "):
        time.sleep(1)
        waits.clear()
        writers = set(server_seconds(writing))
        began = time.perf_counter()
        done = calls[what]()
        seconds = time.perf_counter() - began
        used = sum(cpu for pid, cpu in server_seconds(deleting).items() if pid not in writers)
    with deleting.write() as connection:
        connection.execute(text("TRUNCATE jobs, images, batches, predictions, outcomes, totals, classes CASCADE"))
    deleting.close()
    writing.close()
    return {
        "what": what,
        "shared": shared,
        "images": count,
        "done": done,
        "seconds": round(seconds, 1),
        "server_cpu_seconds": round(used, 1),
        "commits_meanwhile": len(waits),
        "longest_commit_seconds": round(max(waits), 3),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty database; a server of its own without it")
    arguments = parser.parse_args()
    postgres = Postgres(durable=True)
    try:
        if arguments.url is None:
            postgres.start()
        with postgres.database() as own:
            url = arguments.url or own
            migrate.migrate(Database(url))
            for shared in (False, True):
                for what in ("delete", "prune"):
                    print(json.dumps(measure(url, what, arguments.images, shared=shared)), flush=True)
    finally:
        postgres.remove()


if __name__ == "__main__":
    main()
