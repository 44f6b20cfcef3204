"""How the cost of an image grows with the job: many tiny files, an engine that does nothing, PostgreSQL and Redis.

    PYTHONPATH=. python -P -m benchmarks.scale [--images 200000] [--small 20000]

Print images per second, the time as a multiple of raw COPY of the same rows into the same tables, the memory of client
and worker, and the longest that the broker's queues have been. It starts its own servers in private folders, with
fsync on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import psycopg
from PIL import Image

from jobs import Client
from jobs.settings import load
from tests.support.processes import WorkerProcess, run_cars
from tests.support.servers import Postgres, Redis

SIDE = 8
PROCESSES = 2  # with nothing to infer, an engine process is Python alone: one per core
TABLES = ("predictions", "batches", "images", "classes", "outcomes", "totals")


class NoopEngine:
    """An engine that gives every image the class of its red value, at as little cost as possible."""

    input_size = SIDE

    def __init__(self, *, card: Any, folder: Path, device: str) -> None:  # noqa: ARG002 - the signature of engines
        self.classes = card.classes

    def logits(self, images: np.ndarray) -> np.ndarray:
        logits = np.zeros((len(images), len(self.classes)), np.float32)
        logits[np.arange(len(images)), images[:, 0, 0, 0] % len(self.classes)] = 9
        return logits

    def unload(self) -> None:
        """Nothing to close."""


def make_photos(folder: Path, count: int) -> None:
    """Write `count` PNG files of 8 × 8 pixels with different bytes, in one folder."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((SIDE, SIDE, 3), number % 251, np.uint8)
        pixels.reshape(-1)[:4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:07}.png", compress_level=1)


class Sampler:
    """Peaks of memory (bytes, after the first second) and of the broker's queues, sampled ten times a second."""

    def __init__(self, worker: WorkerProcess, redis: Redis, database: int) -> None:
        self.worker_bytes: list[int] = []
        self.client_bytes: list[int] = []
        self.queued = 0
        self._worker, self._redis = worker, redis.connect(database)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.1):
            processes = [psutil.Process(pid) for pid in (self._worker.pid, *self._worker.child_pids())]
            self.worker_bytes.append(sum(process.memory_info().rss for process in processes))
            self.client_bytes.append(own.memory_info().rss)
            self.queued = max(self.queued, sum(self._redis.llen(queue) for queue in ("classify", "control")))


def growth(samples: list[int]) -> float:
    """Return the MiB between the medians of the second and the last tenth of a run: the start is not growth."""
    tenth = max(1, len(samples) // 10)
    return float(np.median(samples[-tenth:]) - np.median(samples[tenth : 2 * tenth])) / 2**20


def run_job(client: Client, folder: Path) -> float:
    """Run a job and return the seconds from submission to the end."""
    start = time.perf_counter()
    status = client.submit(str(folder)).wait()
    seconds = time.perf_counter() - start
    assert status.state == "completed", status
    return seconds


def raw_copy(url: str, spare: str) -> float:
    """Return the seconds to COPY a database's rows into the same (empty) tables of another, without reading them."""
    with psycopg.connect(_dsn(url)) as source, psycopg.connect(_dsn(spare)) as target:
        target.execute("TRUNCATE model_versions CASCADE")
        for table in ("model_versions", "jobs"):  # what the rows refer to
            _copy(source, target, table)
        return sum(_copy(source, target, table) for table in TABLES)


def _copy(source: psycopg.Connection, target: psycopg.Connection, table: str) -> float:
    with source.cursor() as reader:
        blocks = [bytes(block) for block in _read(reader, table)]
    start = time.perf_counter()
    with target.cursor() as writer, writer.copy(f"COPY {table} FROM STDIN") as copy:
        for block in blocks:
            copy.write(block)
    target.commit()
    return time.perf_counter() - start


def _read(reader: psycopg.Cursor, table: str) -> Iterator[Any]:
    with reader.copy(f"COPY {table} TO STDOUT") as copy:
        yield from copy


def _dsn(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


@contextmanager
def servers() -> Iterator[tuple[Postgres, Redis]]:
    """Yield a PostgreSQL that syncs to disk, and a Redis."""
    postgres, redis = Postgres(durable=True), Redis()
    try:
        postgres.start()
        redis.start()
        yield postgres, redis
    finally:
        redis.remove()
        postgres.remove()


class Running(NamedTuple):
    """A worker with the engine that does nothing, a client of its database, and the environment of both."""

    worker: WorkerProcess
    client: Client
    env: dict[str, str]


@contextmanager
def running(folder: Path, *, url: str, broker: str, home: Path) -> Iterator[Running]:
    """Migrate a new database and run a worker on it that may read this folder."""
    env = {
        "CARS_HOME": str(home),
        "CARS_DATABASE_URL": url,
        "CARS_BROKER_URL": broker,
        "CARS_SOURCE_ROOTS": str(folder.parent),
        "CARS_ENGINE": "benchmarks.scale:NoopEngine",
    }
    migrated(env)
    command = [sys.executable, "-P", "-m", "workers", "worker", "--concurrency", str(PROCESSES)]
    worker = WorkerProcess(command, env=env, log=home.with_suffix(".log"))
    try:
        worker.wait_ready()
        settings = load(**{name.removeprefix("CARS_").lower(): value for name, value in env.items()})
        with Client(settings=settings) as client:
            yield Running(worker, client, env)
    finally:
        worker.stop()


def migrated(env: dict[str, str]) -> None:
    """Make the tables of a database."""
    done = run_cars("migrate", env=env)
    assert done.returncode == 0, done.stderr


def measure(count: int, folder: Path, postgres: Postgres, redis: Redis) -> dict[str, Any]:
    """Run one job of `count` images in a new database and return its figures."""
    home = folder.parent / f"home-{count}"
    with postgres.database() as url, postgres.database() as spare, redis.database() as broker:
        with (
            running(folder, url=url, broker=broker, home=home) as (worker, client, env),
            Sampler(worker, redis, int(broker.rpartition("/")[2])) as sampler,
        ):
            migrated({**env, "CARS_DATABASE_URL": spare})
            seconds = run_job(client, folder)
        copied = raw_copy(url, spare)
    return {
        "images": count,
        "seconds": round(seconds, 2),
        "images_per_second": round(count / seconds),
        "copy_seconds": round(copied, 2),
        "times_copy": round(seconds / copied, 2),
        "microseconds_per_image": round(seconds / count * 1e6, 1),
        "worker_peak_mib": round(max(sampler.worker_bytes) / 2**20),
        "worker_growth_mib": round(growth(sampler.worker_bytes), 1),
        "client_growth_mib": round(growth(sampler.client_bytes), 1),
        "broker_peak_messages": sampler.queued,
        "window": 4 * PROCESSES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--small", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cars-scale-") as temporary, servers() as (postgres, redis):
        rows = []
        for count in (arguments.small, arguments.images):
            folder = Path(temporary) / str(count) / "photos"
            make_photos(folder, count)
            rows.append(measure(count, folder, postgres, redis))
            print(json.dumps(rows[-1]), flush=True)
    ratio = rows[1]["microseconds_per_image"] / rows[0]["microseconds_per_image"]
    print(f"cost per image at {rows[1]['images']:,} against {rows[0]['images']:,}: {ratio:.2f}×  (at most 1.2×)")
    print(f"time against raw COPY of the same rows: {rows[1]['times_copy']:.2f}×  (at most 8×)")


if __name__ == "__main__":
    main()
