"""docker-compose.yml: each service's own command, run as a process here, makes a system that classifies a folder."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.engines import SCRIPTED
from tests.support.processes import CHECKOUT, WorkerProcess, run_cars, wait_until

COMPOSE = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def interpolated(text: str) -> str:
    """Return `${NAME:-default}` as Compose reads it where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture
def compose_env(tmp_path: Path, home: Path, pg_url: str, broker_url: str) -> dict[str, str]:
    """Return the worker's environment in the file, with the test's servers and folders instead of those inside the
    containers, and with an engine that needs no weights.
    """
    env = {name: interpolated(str(value)) for name, value in SERVICES["worker"]["environment"].items()}
    assert env["CARS_DATABASE_URL"].startswith("postgresql://cars:")
    assert env["CARS_BROKER_URL"] == "redis://redis:6379/0"
    assert env["CARS_SOURCE_ROOTS"] == "/photos"
    here = {"CARS_DATABASE_URL": pg_url, "CARS_BROKER_URL": broker_url, "CARS_SOURCE_ROOTS": str(tmp_path / "photos")}
    return {**env, **here, **SCRIPTED, "CARS_MODELS": str(home / "models"), "CARS_HOME": str(home)}


@pytest.fixture
def service(tmp_path: Path, compose_env: dict[str, str]) -> Iterator[Callable[[str], WorkerProcess]]:
    """`service(name)`: starts a service by its command in the file."""
    started: list[WorkerProcess] = []

    def start(name: str) -> WorkerProcess:
        program, *arguments = SERVICES[name]["command"]
        assert program == "cars"
        command = [sys.executable, "-P", "-m", "jobs.cli", *arguments]
        started.append(WorkerProcess(command, env=compose_env, log=tmp_path / f"{name}.log"))
        return started[-1]

    yield start
    for process in started:
        process.kill_all()


def test_services_classify_a_folder(
    compose_env: dict[str, str], service: Callable[[str], WorkerProcess], photos: Callable[..., Path]
) -> None:
    folder = photos(3)
    migrate = service("migrate")
    assert migrate.process.wait(60) == 0, migrate.output()
    beat, worker = service("beat"), service("worker")
    worker.wait_ready()
    submitted = run_cars("submit", folder, env=compose_env)
    assert submitted.returncode == 0, submitted.stderr
    waited = run_cars("wait", submitted.stdout.strip(), "--timeout", "90s", env=compose_env)
    assert waited.returncode == 0, waited.stderr + worker.output()
    rows = run_cars("results", submitted.stdout.strip(), "--format", "csv", env=compose_env)
    assert len(rows.stdout.splitlines()) == 1 + 3
    _, *health_check = SERVICES["worker"]["healthcheck"]["test"][1:]
    assert run_cars(*health_check, env=compose_env).returncode == 0
    assert beat.process.poll() is None, beat.output()
    assert worker.stop() == 0


def test_the_console_asks_for_its_token(compose_env: dict[str, str], service: Callable[[str], WorkerProcess]) -> None:
    assert run_cars("migrate", env=compose_env).returncode == 0
    own = {name: interpolated(str(value)) for name, value in SERVICES["web"]["environment"].items()}
    assert own["CARS_WEB_TOKEN"] == ""
    refused = service("web")
    assert refused.process.wait(60) == 2
    assert "set CARS_WEB_TOKEN" in refused.output()
    compose_env["CARS_WEB_TOKEN"] = "a secret of many characters"
    console = service("web")
    wait_until(lambda: "the console: " in console.output(), timeout=60, message="the console's start")
    (port,) = re.findall(r":(\d+)/$", console.output(), re.MULTILINE)
    assert SERVICES["web"]["ports"] == [f"127.0.0.1:{port}:{port}"], "on this machine alone"
    answer = httpx.get(f"http://127.0.0.1:{port}/jobs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    *_, check = SERVICES["web"]["healthcheck"]["test"]
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    assert console.stop(timeout=30) == 0


@pytest.mark.parametrize("name", ["worker", "training-worker", "beat"])
def test_service_ends_within_the_grace_period(
    name: str, compose_env: dict[str, str], service: Callable[[str], WorkerProcess]
) -> None:
    assert run_cars("migrate", env=compose_env).returncode == 0
    process = service(name)
    if name == "beat":
        wait_until(process.output, message="the first output of beat")
    else:
        process.wait_ready()
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert process.stop(timeout=grace) == 0, process.output()


def test_every_own_service_is_built_from_the_checkout_and_waits_for_the_migration() -> None:
    own = {name: service for name, service in SERVICES.items() if "build" in service}
    assert {"migrate", "worker", "web", "beat", "training-worker", "gpu-worker"} == set(own)
    for name, service in own.items():
        assert service["build"]["context"] == "."
        assert ("migrate" in service["depends_on"]) == (name != "migrate")


def test_dockerfile_copies_what_a_build_needs_and_runs_as_nobody_special() -> None:
    lines = (CHECKOUT / "Dockerfile").read_text().splitlines()
    allowed = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert copied == allowed
    assert {"pyproject.toml", "constraints.txt", "README.md", "jobs", "model", "workers", "migrations"} <= copied
    assert all((CHECKOUT / name).exists() for name in copied)
    assert lines.index("USER cars") < next(i for i, line in enumerate(lines) if line.startswith("CMD"))
