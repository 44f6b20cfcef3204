"""What open browsers take from a job: its rate while browsers show it and ask how far it is, and without them.

    PYTHONPATH=. python -P -m benchmarks.polling [--images 100000] [--browsers 20] [--repeats 3]

The engine does nothing, so that a job takes all cores by itself: with a real one, a page costs it less. Within each job
the browsers ask for some seconds, every two seconds as the console's pages do, and are silent for as long, by turns.
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

from benchmarks.scale import Running, make_photos, running, servers
from jobs.job import Job
from tests.support.processes import environment
from tests.support.servers import Postgres, Redis

SECONDS = 2.0  # between two questions of a page
TURN_SECONDS = 4.0


@contextmanager
def console(env: dict[str, str]) -> Iterator[str]:
    """Run `cars web` and yield its host and port."""
    command = [sys.executable, "-P", "-m", "jobs.cli", "web", "--port", "0"]
    process = subprocess.Popen(command, env=environment(env), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://([^/]+)", line := process.stderr.readline())
        assert found, line
        yield found[1]
    finally:
        process.terminate()
        process.communicate()


class Browsers:
    """So many pages that show a job, each of which asks for its changing part every two seconds while `asking` is set.

    They take next to no time themselves: a real browser is on another machine.
    """

    def __init__(self, host: str, job: str, *, count: int) -> None:
        self.milliseconds: list[float] = []
        self.asking = threading.Event()
        self._host, self._count = host, count
        self._request = f"GET /jobs/{job} HTTP/1.1\r\nhost: {host}\r\nhx-request: true\r\n\r\n".encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> Browsers:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(self._count)))

    async def _one(self, number: int) -> None:
        await asyncio.sleep(SECONDS * number / self._count)
        while not self._stop.is_set():
            if self.asking.is_set():
                began = time.perf_counter()
                await self._ask()
                self.milliseconds.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(SECONDS)

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection(*self._host.split(":"))
        writer.write(self._request)
        headers = await reader.readuntil(b"\r\n\r\n")
        assert headers.startswith(b"HTTP/1.1 200 "), headers
        length = re.search(rb"content-length: (\d+)", headers)
        assert length is not None, headers
        await reader.readexactly(int(length[1]))
        writer.close()


def turns(job: Job, browsers: Browsers) -> Iterator[float]:
    """Yield the job's images per second in each whole turn: without browsers, with them, and so on."""
    while not job.status().ok:
        time.sleep(0.1)
    asking, before, began = False, job.status(), time.perf_counter()
    while True:
        (browsers.asking.set if asking else browsers.asking.clear)()
        time.sleep(TURN_SECONDS)
        status, now = job.status(), time.perf_counter()
        if status.state.terminal:
            return
        yield (status.ok - before.ok) / (now - began)
        asking, before, began = not asking, status, now


def measure(run: Running, folder: Path, arguments: argparse.Namespace) -> list[float]:
    """Run a job, print its figures, and return what part of its rate it kept in each turn with browsers: of the mean of
    the turns before and after. The first turn is left out, as the folder is still being listed.
    """
    rates: list[float] = []
    with console(run.env) as host:
        job = run.client.submit(str(folder))
        with Browsers(host, job.id, count=arguments.browsers) as browsers:
            for rate in turns(job, browsers):
                rates.append(rate)
    status = job.status()
    assert (status.state, status.ok) == ("completed", arguments.images), status
    asked = browsers.milliseconds
    line = {"images_per_second": [round(rate) for rate in rates], "questions": len(asked)}
    print(json.dumps({**line, "median_ms": round(statistics.median(asked), 1)}), flush=True)
    return [rates[at] / statistics.fmean((rates[at - 1], rates[at + 1])) for at in range(3, len(rates) - 1, 2)]


def repeated(arguments: argparse.Namespace, folder: Path, postgres: Postgres, redis: Redis) -> None:
    """Measure in new databases, and print what the browsers cost."""
    kept: list[float] = []
    for number in range(arguments.repeats):
        home = folder.parent / f"home-{number}"
        with (
            postgres.database() as url,
            redis.database() as broker,
            running(folder, url=url, broker=broker, home=home) as run,
        ):
            kept += measure(run, folder, arguments)
    part, error = statistics.fmean(kept), statistics.stdev(kept) / len(kept) ** 0.5
    cost = f"{100 * (1 - part):.1f} % ± {100 * error:.1f}"
    print(f"{arguments.browsers} browsers take {cost} of the rate (under 5 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--browsers", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cars-polling-") as place, servers() as (postgres, redis):
        folder = Path(place) / "photos"
        make_photos(folder, arguments.images)
        repeated(arguments, folder, postgres, redis)


if __name__ == "__main__":
    main()
