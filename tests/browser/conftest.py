"""Fixtures: a browser that notices what goes wrong on a page, and consoles with a worker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.engines import SCRIPTED
from tests.support.processes import WorkerProcess, environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60_000.0  # milliseconds that a page may take on a busy machine


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Return the system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    expect.set_options(timeout=SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, console: Callable[..., str]) -> Iterator[Page]:
    """Return a page; in the end nothing may have been loaded from another host, and no error logged.

    It depends on the consoles so that it ends before them: a page that still asks for progress would log an error.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(SECONDS)
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    opened.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    opened.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    opened.on("request", lambda request: wrong.append(request.url) if not _is_ours(request.url) else None)
    yield opened
    context.close()
    assert wrong == []


def _is_ours(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in ("data", "file") or parts.hostname == "127.0.0.1"


@pytest.fixture
def console(tmp_path: Path, home: Path) -> Iterator[Callable[..., str]]:
    """`console(env)`: starts `cars web` on a free port and returns its address."""
    started: list[subprocess.Popen[str]] = []

    def start(env: Mapping[str, str] | None = None, *options: str) -> str:
        command = [sys.executable, "-P", "-m", "jobs.cli", "web", "--port", "0", *options]
        env = environment({**SCRIPTED, **(env or {})})
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://[^:]+:(\d+)/", line)
        assert found, line + process.stderr.read()
        return f"http://127.0.0.1:{found[1]}"

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def local_worker(worker: Callable[..., WorkerProcess], home: Path) -> WorkerProcess:
    """Return a worker of the embedded default, whose engine has no weights."""
    urls = {"CARS_DATABASE_URL": f"sqlite:///{home / 'cars.db'}", "CARS_BROKER_URL": "memory://"}
    return worker({"CARS_HOME": str(home), **urls, **SCRIPTED})
