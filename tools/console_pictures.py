"""Pictures of the web console for the documentation, made from drawn cars: a page, a width and a colour scheme each.

    PYTHONPATH=. python -P tools/console_pictures.py FOLDER

It starts a worker and a console on a database of its own, fills it with two jobs and a schedule, and drives Debian's
Chromium (`apt-get install chromium`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import sync_playwright

from jobs import Client
from jobs.settings import load
from tests.support.drawn_cars import LOOKS, draw
from tests.support.engines import SCRIPTED
from tests.support.processes import WorkerProcess, environment

SIZES = {"phone": (375, 812), "wide": (1440, 900)}
LISTINGS, SHOTS = 12, 3
CARS = tuple(LOOKS)


def fill(folder: Path, settings_home: Path) -> None:
    """Classify some listings twice, and add a schedule."""
    for listing in range(LISTINGS):
        for shot in range(SHOTS):
            file = folder / f"car {listing:02}" / f"{shot}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = draw(CARS[listing % len(CARS)], seed=100 * listing + shot)
            # The left edge tells the scripted engine which class to say; every fifth listing shows cars of two makes.
            edge = 10 * listing + (60 if listing % 5 == 4 and shot else 0)
            image.paste((edge, 120, 140), (0, 0, image.width // 8, image.height))
            image.save(file)
    (folder / "car 03" / "notes.jpg").write_bytes(b"no image")
    with Client(settings=load(home=settings_home)) as client:
        client.submit(folder, name="cars for sale").wait(timeout=300)
        client.schedules.add("nightly", folder, cron="0 2 * * *", timezone="Europe/Berlin")
        client.schedules.run("nightly").wait(timeout=300)


def take(address: str, target: Path, chromium: str) -> None:
    """Write a picture of each page."""
    listing = f"/listing?{urlencode({'job': 2, 'name': 'car 00'})}"
    pages = {
        "demo": "/", "jobs": "/jobs", "job": "/jobs/1", "listings": "/listings", "listing": listing,
        "review": "/review", "schedules": "/schedules", "schedule": "/schedules/nightly",
        "models": "/models", "workers": "/workers",
    }  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for size, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                viewport, dark = {"width": width, "height": height}, scheme == "dark"
                context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")  # type: ignore[arg-type]
                page = context.new_page()
                for name, path in pages.items():
                    page.goto(f"{address}{path}")
                    page.wait_for_load_state("networkidle")
                    page.screenshot(path=target / f"{name}-{size}-{scheme}.png")
                context.close()
        browser.close()


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("there is no Chromium on this machine: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="cars-pictures-") as temporary:
        home = Path(temporary) / "home"
        env = {"CARS_HOME": str(home), "CARS_DATABASE_URL": f"sqlite:///{home / 'cars.db'}", **SCRIPTED}
        command = [sys.executable, "-P", "-m", "workers", "worker"]
        worker = WorkerProcess(command, env=env, log=Path(temporary) / "worker.log")
        serve = [sys.executable, "-P", "-m", "jobs.cli", "web", "--port", "0"]
        web = subprocess.Popen(serve, env=environment(env), stderr=subprocess.PIPE, text=True)
        try:
            assert web.stderr is not None
            found = re.search(r"http://[^:]+:\d+", web.stderr.readline())
            assert found, "the console did not start"
            fill(Path(temporary) / "photos", home)
            take(found[0], target, chromium)
        finally:
            web.terminate()
            worker.stop()
            web.wait()


if __name__ == "__main__":
    main()
