"""The console as people use it: with a mouse, a keyboard, and a screen reader's eyes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from jobs import Client
from tests.support.artifacts import write_artifact
from tests.support.axe import violations
from tests.support.processes import RunCars, WorkerProcess

TOKEN = "a secret of many characters"
DROP = """content => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(content)], "car.jpg", {type: "image/jpeg"}));
    return transfer;
}"""


def test_a_photo_that_is_dropped_is_classified(
    page: Page, console: Callable[..., str], photos: Callable[..., Path]
) -> None:
    page.goto(console())
    (photo,) = photos(1, 64).iterdir()
    transfer = page.evaluate_handle(DROP, list(photo.read_bytes()))
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    expect(page.get_by_role("img", name="The photo that was classified")).to_be_visible()
    expect(page.get_by_text("The label can be trusted.")).to_be_visible()
    expect(page.locator(".bars li")).to_have_count(5)
    assert violations(page) == []


def test_a_job_from_its_submission_to_its_gallery(
    page: Page, console: Callable[..., str], photos: Callable[..., Path], local_worker: WorkerProcess
) -> None:
    address = console()
    folder = photos(60, 48)
    (folder / "broken.jpg").write_bytes(b"no image")
    page.goto(f"{address}/jobs")
    page.get_by_label("Folder or URL").fill(str(folder))
    page.get_by_label("Name").fill("<b>mine</b>")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("heading", name="<b>mine</b>")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("completed with errors")
    page.reload()
    expect(page.locator(".photos li")).to_have_count(48)
    page.locator(".photos img").first.evaluate("image => image.decode()")  # rejects where there is no image
    page.get_by_role("link", name="Next page").click()
    expect(page.locator(".photos li")).to_have_count(13)
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".photos li")).to_have_count(1)
    expect(page.locator(".photos li")).to_contain_text("undecodable")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#status")).to_contain_text("completed with errors")


def test_a_version_is_promoted_after_a_confirmation_and_rolled_back(
    page: Page, console: Callable[..., str], run_cars: RunCars, tmp_path: Path, home: Path
) -> None:
    card = write_artifact(tmp_path / "other")
    assert run_cars("model", "import", tmp_path / "other").returncode == 0
    page.goto(f"{console()}/models")
    page.get_by_role("link", name=f"Promote {card.name}").click()
    expect(page.get_by_text(f"New jobs will use {card.name}")).to_be_visible()
    with Client() as client:
        assert not client.model(card.name).production, "not before it is confirmed"
        page.get_by_role("button", name="Promote").click()
        expect(page.locator("tr", has=page.get_by_role("link", name=card.name)).first).to_contain_text("production")
        assert client.model(card.name).production
        page.get_by_role("link", name="Roll back").click()
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("heading", name="History")).to_be_visible()
        assert not client.model(card.name).production


def test_signing_in_is_refused_and_accepted(chromium: Browser, console: Callable[..., str]) -> None:
    address = console({"CARS_WEB_TOKEN": TOKEN})
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}/jobs")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("That is not the token")
    assert violations(page) == []
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Which car is it?")).to_be_visible()
    page.goto(f"{address}/jobs")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()


def test_no_page_has_a_serious_violation_at_any_size_or_scheme(
    page: Page, console: Callable[..., str], photos: Callable[..., Path], local_worker: WorkerProcess
) -> None:
    with Client() as client:
        folder = photos(3, 48)
        (folder / "broken.jpg").write_bytes(b"no image")
        client.submit(folder, name="<script>alert(1)</script>").wait(timeout=60)
    address = console()
    for path in ("/", "/jobs", "/jobs/1", "/models", "/models/production", "/training", "/workers"):
        for width, scheme in ((375, "dark"), (1440, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.goto(f"{address}{path}")
            assert violations(page) == [], (path, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


def test_pages_read_without_javascript(
    chromium: Browser, console: Callable[..., str], photos: Callable[..., Path], local_worker: WorkerProcess
) -> None:
    with Client() as client:
        client.submit(photos(2, 48)).wait(timeout=60)
    address = console()
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/jobs")
    page.get_by_role("link", name="1: photos").click()
    expect(page.locator(".photos img")).to_have_count(2)
    page.goto(address)
    page.get_by_label("choose a file").set_input_files(next(photos(1, 48).iterdir()))
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("heading", name="Most probable")).to_be_visible(timeout=60_000)
    context.close()
