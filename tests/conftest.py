"""Fixtures: databases, brokers, photos, commands and workers, each fresh for its test."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support import processes
from tests.support.backends import Backend
from tests.support.processes import CHECKOUT, RunCars, WorkerProcess
from tests.support.servers import Postgres, Redis

_LOGS = pytest.StashKey[list[Path]]()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the CARS_* variables of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("CARS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a CARS_HOME of the test's own, in the environment of this process and of those it starts."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("CARS_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Yield the PostgreSQL server of this test run."""
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def pg_url(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of an empty database, dropped after the test."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def migrated_pg_url(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of a database on which `cars migrate` has run, dropped after the test."""
    with postgres.database(template=postgres.template("migrated", _migrate)) as url:
        yield url


def _migrate(url: str) -> None:
    done = processes.run_cars("migrate", env={"CARS_DATABASE_URL": url})
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """Yield the Redis server of this test run; a test may kill it, start it again and flush it."""
    server = Redis()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def broker_url(redis_server: Redis) -> Iterator[str]:
    """Yield the URL of an empty Redis database."""
    redis_server.start()
    with redis_server.database() as url:
        yield url


@pytest.fixture(params=["embedded", "server"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Return each backend in turn; its CARS_* variables are in this process's environment, too, for `Client()`."""
    if request.param == "embedded":
        urls = (f"sqlite:///{home / 'cars.db'}", "memory://")
    else:
        urls = (request.getfixturevalue("migrated_pg_url"), request.getfixturevalue("broker_url"))
    return _backend(request.param, tmp_path, home, urls, monkeypatch)


def _backend(name: str, tmp_path: Path, home: Path, urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Backend:
    env = {
        "CARS_HOME": str(home),
        "CARS_SOURCE_ROOTS": f"{tmp_path},{CHECKOUT.parent / 'shared'}",
        "CARS_DATABASE_URL": urls[0],
        "CARS_BROKER_URL": urls[1],
    }
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    return Backend(name, env)


@pytest.fixture
def server_backend(
    tmp_path: Path, home: Path, migrated_pg_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Backend:
    """Return PostgreSQL and Redis only, for tests of the broker's own faults."""
    return _backend("server", tmp_path, home, (migrated_pg_url, broker_url), monkeypatch)


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread: small networks are faster so, and tests run beside each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def shared() -> Path:
    """Return the folder of labelled photos and awkward images beside the checkout; skip the test without it."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the checkout")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """`photos(n, size=32, folder=None)`: a folder of n small JPEG files with different bytes; returns the folder."""
    numbers = itertools.count(1)

    def make(n: int, size: int = 32, folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "photos"
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.islice(numbers, n):
            # Multiples of an odd number modulo 2^24: no colour comes twice.
            colour = (number * 0x9E3779) & 0xFFFFFF
            image = Image.new("RGB", (size, size), (colour >> 16, colour >> 8 & 255, colour & 255))
            # JPEG may round two close colours to the same bytes; the comment keeps them apart.
            image.save(folder / f"{number:06}.jpg", quality=75, comment=str(number).encode())
        return folder

    return make


@pytest.fixture
def run_cars() -> RunCars:
    """`run_cars(*args, env=None, cwd=None)`: the command line in a process of its own."""
    return processes.run_cars


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """`wait_until(predicate, timeout=30, message="")`: the first true value of the predicate."""
    return processes.wait_until


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """`worker(env, *options, ready=True)`: starts a worker and waits for its heartbeat; all are killed in the end."""
    started: list[WorkerProcess] = []
    logs = request.node.stash.setdefault(_LOGS, [])

    def start(env: dict[str, str], *options: str, ready: bool = True) -> WorkerProcess:
        command = [sys.executable, "-P", "-m", "workers", "worker", *options]
        process = WorkerProcess(command, env=env, log=tmp_path / f"worker-{len(started)}.log")
        started.append(process)
        logs.append(process.log)
        if ready:
            process.wait_ready()
        return process

    yield start
    for process in started:
        process.kill_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a failed test show what its workers wrote."""
    report = yield
    if report.failed:
        for log in item.stash.get(_LOGS, []):
            if log.exists():
                report.sections.append((f"{log.name}", log.read_text(errors="replace")[-8000:]))
    return report
