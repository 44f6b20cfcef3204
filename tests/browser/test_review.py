"""Reviewing listings and minding schedules in a browser, with the keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from jobs import Client
from tests.support.axe import violations
from tests.support.processes import WorkerProcess


def mixed(folder: Path, count: int) -> Path:
    """Listings whose two images show cars of different makes, as the scripted engine says."""
    for number in range(count):
        for place, shows in enumerate((100, 102)):
            file = folder / f"car {number}" / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), (shows, number, place)).save(file)
    return folder


def press(page: Page, key: str) -> None:
    """Press a key once the page has loaded, its script included."""
    page.wait_for_load_state()
    page.keyboard.press(key)


def test_a_review_by_keyboard_with_undo(
    page: Page, console: Callable[..., str], local_worker: WorkerProcess, tmp_path: Path
) -> None:
    with Client() as client:
        client.submit(mixed(tmp_path / "shop", 3)).wait(timeout=60)
        page.goto(f"{console()}/review")
        title = page.get_by_role("heading", level=2)
        expect(title).to_contain_text("car 0")
        expect(page.locator(".photos img")).to_have_count(2)
        said = page.get_by_role("button", name="1 ").first.get_attribute("value")
        press(page, "1")
        expect(title).to_contain_text("car 1")
        expect(page.get_by_role("status")).to_contain_text("is corrected to")
        assert [one.label for one in client.corrections] == [said]
        press(page, "u")
        expect(title).to_contain_text("car 0")
        assert list(client.corrections) == []
        press(page, "s")
        expect(title).to_contain_text("car 1")
        press(page, "/")
        expect(page.get_by_label("Another class")).to_be_focused()
        page.keyboard.type(said or "")
        press(page, "Enter")
        expect(title).to_contain_text("car 2")
        press(page, "s")
        expect(page.get_by_text("Nothing more needs a review")).to_be_visible()


def test_the_pages_of_listings_and_schedules_are_accessible(
    page: Page, console: Callable[..., str], local_worker: WorkerProcess, tmp_path: Path
) -> None:
    folder = mixed(tmp_path / "a very long name of a source folder, as some people have them", 2)
    with Client() as client:
        client.submit(folder).wait(timeout=60)
        client.schedules.add("nightly", folder, cron="0 2 * * *")
        client.schedules.run("nightly").wait(timeout=60)
    address = console()
    paths = ("/listings", "/listing?job=1&name=car+0", "/review", "/schedules", "/schedules/nightly")
    for path in (*paths, "/schedules/nightly/remove"):
        for width, scheme in ((375, "dark"), (1440, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.goto(f"{address}{path}")
            assert violations(page) == [], (path, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
