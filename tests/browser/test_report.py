"""The report in a browser: no script of a file's name runs, and it fits a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from jobs import Client
from tests.support.axe import violations
from tests.support.processes import WorkerProcess


def test_the_report_opens_from_a_file_and_fits(
    page: Page, photos: Callable[..., Path], local_worker: WorkerProcess, tmp_path: Path
) -> None:
    folder = photos(4, 48)
    files = iter(sorted(folder.iterdir()))
    for name in ("<script>alert(1)<b>.jpg", '"><img src=x onerror=alert(2)>.jpg'):
        next(files).rename(folder / name)
    (folder / f"{'long' * 50}.jpg").write_bytes(b"no image")
    with Client() as client:
        job = client.submit(folder, name="</title><script>alert(3)</script>")
        job.wait(timeout=60)
        job.report(tmp_path / "report.html")
    for width, scheme in ((375, "dark"), (1440, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.alt)")
        assert page.locator("script").count() == 0
        assert violations(page) == []
