"""What open browsers cost a job: the rate of a large one, alone and while browsers show it and ask how far it is.

    PYTHONPATH=. python -P -m benchmarks.polling [--images 100000] [--browsers 20] [--repeats 3]

The engine does nothing, so that a job takes all cores by itself: with a real one, a page costs it less. Runs with and
without browsers alternate, each in a new database; each browser asks every two seconds, as the console's pages do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.scale import Running, make_photos, running, servers
from tests.support.processes import environment
from tests.support.servers import Postgres, Redis

SECONDS = 2.0  # between two questions of a page


@contextmanager
def console(env: dict[str, str]) -> Iterator[str]:
    """Run `cars web` and yield its address."""
    command = [sys.executable, "-P", "-m", "jobs.cli", "web", "--port", "0"]
    process = subprocess.Popen(command, env=environment(env), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://[^/]+", line := process.stderr.readline())
        assert found, line
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


class Browsers:
    """So many pages that show a job, each of which asks for its changing part every two seconds."""

    def __init__(self, address: str, job: str, *, count: int) -> None:
        self.milliseconds: list[float] = []
        self._page, self._count = f"{address}/jobs/{job}", count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Browsers:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _all(self) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            await asyncio.gather(*(self._one(client, number) for number in range(self._count)))

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        await asyncio.sleep(SECONDS * number / self._count)
        while not self._stop.is_set():
            began = time.perf_counter()
            answer = await client.get(self._page, headers={"hx-request": "true"})
            assert answer.status_code == 200, answer.text
            self.milliseconds.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(SECONDS)


def rate(run: Running, folder: Path, images: int, *, browsers: int) -> tuple[float, list[float]]:
    """Run a job; return its images per second, and the milliseconds of the browsers' questions."""
    with console(run.env) as address:
        began = time.perf_counter()
        job = run.client.submit(str(folder))
        with Browsers(address, job.id, count=browsers) as asking:
            status = job.wait()
            seconds = time.perf_counter() - began
    assert (status.state, status.ok) == ("completed", images), status
    return images / seconds, asking.milliseconds


def measure(arguments: argparse.Namespace, folder: Path, postgres: Postgres, redis: Redis) -> None:
    rates: dict[int, list[float]] = {0: [], arguments.browsers: []}
    for number in range(arguments.repeats):
        for browsers in rates if number % 2 == 0 else reversed(rates):
            home = folder.parent / f"home-{number}-{browsers}"
            with (
                postgres.database() as url,
                redis.database() as broker,
                running(folder, url=url, broker=broker, home=home) as run,
            ):
                found, asked = rate(run, folder, arguments.images, browsers=browsers)
            rates[browsers].append(found)
            line: dict[str, float] = {"browsers": browsers, "images_per_second": round(found)}
            if asked:
                line |= {"questions": len(asked), "median_ms": round(statistics.median(asked), 1)}
            print(json.dumps(line), flush=True)
    alone, watched = (statistics.median(each) for each in rates.values())
    print(f"{arguments.browsers} browsers cost a job {100 * (1 - watched / alone):.1f} % of its rate (under 5 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cars-polling-") as temporary,
        servers() as (postgres, redis),
    ):
        folder = Path(temporary) / "photos"
        make_photos(folder, arguments.images)
        measure(arguments, folder, postgres, redis)


if __name__ == "__main__":
    main()
