"""The web console as HTTP: its pages, what its forms do, and everything that must not get in."""

from __future__ import annotations

import asyncio
import html
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from PIL import Image
from starlette.testclient import TestClient

from jobs import Client
from jobs.errors import SettingsInvalid
from jobs.settings import Settings, load
from jobs.web.app import ROUTES, make
from tests.support.engines import SCRIPTED
from tests.support.processes import CHECKOUT, run_cars

TOKEN = "a secret of many characters"
HOSTILE = "<script>alert(1)</script>"
MIXED = "50% <i>&'#?"
NAMES = ("<img src=x onerror=alert(2)>.jpg", "\"' onload='alert(3).jpg", "{{7*7}}.jpg", "\u202egpj.exe.jpg")


class _Done(NamedTuple):
    """A finished job with hostile names everywhere, and a neighbour of its folder that is nobody's business."""

    settings: Settings
    folder: Path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> _Done:
    """Classify a few images by an engine without weights."""
    home, above = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("above")
    folder = above / "photos"
    (folder / "<i>listing").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (64, 48), (40 * number, 100, 200)).save(folder / "<i>listing" / name.replace("/", ""), "JPEG")
    (folder / "broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(above / "secret.jpg")
    env = {**SCRIPTED, "CARS_HOME": str(home)}
    submitted = run_cars("submit", folder, "--name", HOSTILE, "--key", "k", env=env, timeout=240)
    assert submitted.returncode == 0, submitted.stderr
    assert run_cars("classify", folder / "<i>listing", env=env, timeout=240).returncode == 0
    for number, shows in enumerate((100, 102)):  # cars of two makes, says the scripted engine
        (above / "cars" / MIXED).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (shows, number, 0)).save(above / "cars" / MIXED / f"{number}.png")
    assert run_cars("classify", above / "cars", env=env, timeout=240).returncode == 0
    settings = load(home=home, engine=SCRIPTED["CARS_ENGINE"])
    with Client(settings=settings) as client:
        client.schedules.add("nightly", above / "cars", cron="0 2 * * *", timezone="Europe/Berlin")
        assert client.job("1").status().state == "completed_with_errors", "the same worker has done both"
    return _Done(settings, folder)


@pytest.fixture
def browser(done: _Done, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Return what asks a console on loopback, with its cookies."""
    yield from _browser(done.settings, monkeypatch)


def _browser(settings: Settings, monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1") -> Iterator[TestClient]:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    with (
        Client(settings=settings) as client,
        TestClient(make(client, host=host), base_url="http://127.0.0.1", follow_redirects=False) as browser,
    ):
        yield browser


@pytest.fixture
def guarded(done: _Done, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Return what asks a console that has a token."""
    settings = done.settings.model_copy(update={"web_token": TOKEN})
    yield from _browser(settings, monkeypatch, host="0.0.0.0")


def form_token(browser: TestClient, page: str = "/") -> str:
    found = re.search(r'name="form_token" value="(\w+)"', browser.get(page).text)
    assert found
    return found[1]


MIXED_PAGE = f"/listing?{urlencode({'job': 3, 'name': MIXED})}"
PAGES = (
    *("/", "/jobs", "/jobs/1", "/models", "/models/production", "/training", "/workers", "/jobs?state=running"),
    *("/listings", "/listings?job=1", MIXED_PAGE, "/review", "/schedules", "/schedules/nightly"),
    "/schedules/nightly/remove",
)


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_there_and_strict(browser: TestClient, page: str) -> None:
    answer = browser.get(page)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert not re.findall(r"<script(?! src=\"/static/)", answer.text)
    assert not re.findall(r"\s(?:on\w+|style)=\"", re.sub(r"&#\d+;|&\w+;", "", answer.text))
    assert re.findall(r"(?:src|href|action)=\"(?![/#]|data:image/jpeg)[^\"]*", answer.text) == ['href="data:,']


@pytest.mark.parametrize(("page", "part"), [("/jobs", "list"), ("/jobs/1", "status")])
def test_a_page_that_is_open_gets_only_what_changes(browser: TestClient, page: str, part: str) -> None:
    whole, again = browser.get(page), browser.get(page, headers={"hx-request": "true"})
    assert again.text.lstrip().startswith(f'<div id="{part}"')
    assert again.text.strip() in whole.text
    assert len(again.text) < len(whole.text) / 2


def test_hostile_names_are_text_on_every_page(browser: TestClient) -> None:
    own = ("/jobs", "/jobs/1", "/jobs/99<i>x", "/jobs/1?make=<i>x", "/jobs/1?listing=<i>x", "/models/<i>x")
    listings = ("/listings", "/listings?job=<i>x", "/listings?make=<i>x", MIXED_PAGE, "/listing?job=1&name=<i>x")
    others = ("/review", "/review?image=<i>x&label=<i>y&before=<i>z", "/review?after=<i>x", "/schedules/<i>x")
    for page in (*own, *listings, *others):
        text = browser.get(page).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<i>" not in text
        assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)" in browser.get("/jobs").text
    assert "{{7*7}}" in browser.get("/jobs/1").text


def test_the_gallery_has_thumbnails_that_are_encoded_anew(browser: TestClient) -> None:
    page = browser.get("/jobs/1")
    addresses = re.findall(r'<img src="([^"]+)"', page.text)
    assert len(addresses) == len(NAMES)
    for address in addresses:
        answer = browser.get(address.replace("&amp;", "&"))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (64, 48)


def test_the_gallery_is_filtered_and_paged(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "undecodable" in browser.get("/jobs/1?status=failed").text
    assert "<img" not in browser.get("/jobs/1?status=failed").text
    assert browser.get("/jobs/1?min_confidence=abc").status_code == 400
    assert browser.get("/jobs/1?make=Trabant").status_code == 400
    assert browser.get("/jobs/1?after=nonsense").status_code == 400
    monkeypatch.setattr("jobs.web.pages.gallery.IMAGES", 2)
    seen, page, pages = list[str](), "/jobs/1", 0
    while page:
        text = browser.get(page).text
        seen += re.findall(r'class="path" title="([^"]*)"', text)
        following = re.search(r'href="([^"#]*after=[^"#]*)[^"]*">Next page', text)
        page, pages = following[1].replace("&amp;", "&") if following else "", pages + 1
    assert len(seen) == len(set(seen)) == len(NAMES) + 1
    assert pages == 3


@pytest.mark.parametrize(
    "address",
    [
        "/jobs/1/thumbnail?path=../secret.jpg",
        "/jobs/1/thumbnail?path=%2Fetc%2Fpasswd",
        "/jobs/1/thumbnail?path=<i>listing/../../secret.jpg",
        "/jobs/1/thumbnail?path=%00",
        "/jobs/1/thumbnail?path=",
        "/jobs/1/thumbnail",
        "/jobs/../1/thumbnail?path=broken.jpg",
        "/jobs/1%2F..%2F1/thumbnail?path=broken.jpg",
        "/jobs/%2e%2e/thumbnail?path=broken.jpg",
        "/jobs/one/thumbnail?path=broken.jpg",
        "/jobs/1%00/thumbnail?path=broken.jpg",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/jobs/" + "9" * 400,
        "/models/..%2f..%2fetc",
        "/listing?job=1&name=../secret",
        "/listing?job=1:x&name=%00",
        "/listing?job=../1&name=x",
        "/listing",
        "/listings?job=one",
        "/schedules/..%2f..%2fetc",
    ],
)
def test_no_path_leads_out(browser: TestClient, address: str) -> None:
    answer = browser.get(address)
    assert answer.status_code in (400, 404, 422)
    assert not answer.headers["content-type"].startswith("image/")
    assert "root:" not in answer.text
    assert "import " not in answer.text


def test_what_is_not_an_image_is_not_served(browser: TestClient) -> None:
    answer = browser.get("/jobs/1/thumbnail?path=broken.jpg")
    assert answer.status_code == 422
    assert "no image" not in answer.text


def test_a_source_that_is_gone_leaves_the_page(browser: TestClient, done: _Done) -> None:
    moved = done.folder.rename(done.folder.parent / "elsewhere")
    page, thumbnail = browser.get("/jobs/1"), browser.get("/jobs/1/thumbnail?path=other.jpg")
    moved.rename(done.folder)
    assert page.status_code == 200
    assert thumbnail.status_code == 400


# Forms

POSTS = sorted({route.path for route in ROUTES if "POST" in (route.methods or ())})


@pytest.mark.parametrize("path", [path for path in POSTS if path != "/sign-in"])
@pytest.mark.parametrize("token", [None, "", "0" * 64])
def test_every_form_needs_its_token(browser: TestClient, path: str, token: str | None) -> None:
    browser.get("/")
    address = path.replace("{id}", "1").replace("{name}", "production")
    fields = {"source": "/", **({} if token is None else {"form_token": token})}
    answer = browser.post(address, data=fields)
    assert answer.status_code == 403
    assert "out of date" in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_forms_of_other_sites_are_refused(browser: TestClient, headers: dict[str, str]) -> None:
    token = form_token(browser)
    for path in ("/jobs", "/sign-in"):
        answer = browser.post(path, data={"form_token": token, "source": "/"}, headers=headers)
        assert answer.status_code == 403


def test_listings_are_filtered_and_paged(browser: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.get("/listings?min_confidence=abc").status_code == 400
    assert browser.get("/listings?make=Trabant").status_code == 400
    assert browser.get("/listings?after=nonsense").status_code == 400
    assert "conflict" in browser.get("/listings?job=3&only=conflict").text
    assert "No listing fits" in browser.get("/listings?job=2").text
    monkeypatch.setattr("jobs.web.pages.listings.LISTINGS", 1)
    seen, page = list[str](), "/listings"
    while page:
        text = browser.get(page).text
        seen += re.findall(r'href="/listing\?([^"]*)"', text)
        following = re.search(r'href="([^"]*after=[^"]*)">Next page', text)
        page = following[1].replace("&amp;", "&") if following else ""
    with Client(settings=browser.app.state.console.client.settings) as client:  # type: ignore[attr-defined]
        assert len(seen) == len(set(seen)) == len(list(client.listings.find()))


def test_a_review_corrects_a_listing_and_is_undone(browser: TestClient) -> None:
    page = browser.get("/review")
    assert "Which car is" in page.text
    image = html.unescape(re.findall(r'name="image" value="([^"]+)"', page.text)[0])
    token = form_token(browser, "/review")
    client = browser.app.state.console.client  # type: ignore[attr-defined]
    refused = browser.post("/review", data={"form_token": token, "image": image, "label": "Trabant 601"})
    assert refused.status_code == 400
    assert "is not a class" in refused.text
    assert "Which car is" in refused.text
    label = html.unescape(re.findall(r'name="label" value="([^"]+)"', page.text)[0])
    answer = browser.post("/review", data={"form_token": token, "image": image, "label": label})
    assert [one.label for one in client.corrections] == [label]
    following = browser.get(answer.headers["location"])
    assert "is corrected to" in following.text
    undone = browser.post("/review/undo", data={"form_token": token, "image": image})
    assert undone.status_code == 303
    assert list(client.corrections) == []
    assert browser.post("/review/undo", data={"form_token": token, "image": image}).status_code == 409


def test_a_schedule_is_added_paused_run_and_removed(browser: TestClient, done: _Done) -> None:
    token = form_token(browser, "/schedules")
    client = browser.app.state.console.client  # type: ignore[attr-defined]

    def post(path: str, **fields: str) -> Any:
        return browser.post(path, data={"form_token": token, **fields})

    asked = {"name": "weekly", "source": str(done.folder), "cron": "0 3 * * 0"}
    for wrong in ({"every": "15m"}, {"cron": "61 * * * *"}, {"name": "<i>x"}, {"keep": "many"}, {"source": "/nowhere"}):
        refused = post("/schedules", **{**asked, **wrong})
        assert (refused.status_code, 'role="alert"' in refused.text) == (400, True), wrong
    assert post("/schedules", **asked, keep="7").status_code == 303
    assert post("/schedules", **{**asked, "cron": "0 4 * * 0"}).status_code == 400, "another one of this name"
    assert post("/schedules/weekly/pause").headers["location"] == "/schedules/weekly"
    assert client.schedules.show("weekly").paused
    assert "paused" in browser.get("/schedules").text
    post("/schedules/weekly/resume")
    assert not client.schedules.show("weekly").paused
    job = post("/schedules/weekly/run").headers["location"].rpartition("/")[2]
    assert "is still running" in post("/schedules/weekly/run").text
    client.job(job).cancel()
    assert "Remove" in browser.get("/schedules/weekly/remove").text
    assert client.schedules.show("weekly"), "not before it is confirmed"
    assert post("/schedules/weekly/remove").status_code == 303
    assert [one.name for one in client.schedules.list()] == ["nightly"]
    client.job(job).delete()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_foreign_hosts_are_refused(browser: TestClient, host: str) -> None:
    for path in ("/", "/jobs", "/metrics", "/static/console.css"):
        assert browser.get(path, headers={"host": host}).status_code == 421


def test_a_job_is_submitted_canceled_and_tried_again(
    browser: TestClient, photos: Callable[..., Path], tmp_path: Path
) -> None:
    token = form_token(browser, "/jobs")
    folder = photos(2)
    fields = {"form_token": token, "source": str(folder), "name": "mine", "priority": "high", "top_k": "3"}
    answer = browser.post("/jobs", data=fields)
    assert answer.status_code == 303
    job = answer.headers["location"]
    assert "queued" in browser.get(job).text
    assert browser.post(f"{job}/retry", data={"form_token": token}).status_code == 409
    assert browser.post(f"{job}/cancel", data={"form_token": token}).headers["location"] == job
    assert "canceled" in browser.get(job).text
    assert browser.post(f"{job}/retry", data={"form_token": token}).status_code == 303
    assert browser.post(f"{job}/cancel", data={"form_token": token}).status_code == 303
    missing = browser.post("/jobs", data={**fields, "source": str(tmp_path / "gone")})
    assert missing.status_code == 400
    assert (
        "no such folder" in missing.text.lower() or "does not exist" in missing.text.lower() or "gone" in missing.text
    )
    assert browser.post("/jobs", data={**fields, "source": ""}).status_code == 400
    assert browser.post("/jobs", data={**fields, "model": "other"}).status_code == 404
    assert browser.post("/jobs/999/cancel", data={"form_token": token}).status_code == 404


def test_promotion_of_what_is_not_there_and_rollback_without_a_past(browser: TestClient) -> None:
    token = form_token(browser)
    assert browser.get("/models/other/promote").status_code == 404
    assert browser.post("/models/other/promote", data={"form_token": token}).status_code == 404
    assert browser.get("/models/rollback").status_code == 409
    assert browser.post("/models/rollback", data={"form_token": token}).status_code == 409


# The demo


def upload(browser: TestClient, content: bytes) -> Any:
    files = {"photo": ("car.jpg", content, "image/jpeg")}
    return browser.post("/", data={"form_token": form_token(browser)}, files=files)


def jpeg(width: int = 64, height: int = 48) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), (7, 100, 200)).save(target, "JPEG")
    return target.getvalue()


def test_the_demo_says_what_it_sees_and_what_it_cannot_know(browser: TestClient) -> None:
    before = browser.get("/").text
    assert "196 kinds of car, the newest of 2012" in before
    answer = upload(browser, jpeg())
    assert answer.status_code == 200
    assert "the label can be trusted" in answer.text.lower()
    assert answer.text.count("<li>") == 5
    assert "data:image/jpeg;base64," in answer.text


def test_the_demo_refuses_as_a_job_does(done: _Done, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = done.settings.model_copy(update={"max_pixels": 1000, "max_file_mb": 1.0})
    for browser in _browser(settings, monkeypatch):
        bomb = upload(browser, jpeg(800, 600))
        assert bomb.status_code == 422
        assert "too_large" in bomb.text
        assert "undecodable" in upload(browser, b"no image").text
        assert "&lt;svg" not in upload(browser, b"<svg onload=alert(1)>").text
        assert upload(browser, b"").status_code == 400
        assert upload(browser, jpeg() + b"0" * (1 << 20)).status_code == 413


# What is sent


def test_a_body_that_says_it_is_huge_is_refused_before_it_comes(browser: TestClient) -> None:
    form_token(browser)
    for path, size in (("/", 2 << 30), ("/jobs", 1 << 20), ("/sign-in", 1 << 20)):
        answer = browser.post(path, content=b"", headers={"content-length": str(size)})
        assert answer.status_code == 413


def asked(app: Any, messages: list[dict[str, Any]], *, path: str = "/jobs") -> int:
    """Return the status that an app answers to a request whose body comes in these messages, and then no more."""
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/x-www-form-urlencoded")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1),
             "server": ("127.0.0.1", 80), "root_path": ""}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return int(answers[0]["status"])


def test_a_body_without_a_length_is_cut_off_where_it_is_too_large(done: _Done) -> None:
    with Client(settings=done.settings) as client:
        app = make(client, host="127.0.0.1")
        part = {"type": "http.request", "body": b"a" * 65_536, "more_body": True}
        assert asked(app, [dict(part) for _ in range(100)]) == 413


def test_a_body_that_does_not_come_is_cut_off(done: _Done) -> None:
    with Client(settings=done.settings) as client:
        app = make(client, host="127.0.0.1", form_seconds=0.05)
        assert asked(app, [{"type": "http.request", "body": b"a", "more_body": True}]) == 408


# Signing in


def test_without_a_token_other_machines_are_not_served(done: _Done) -> None:
    with Client(settings=done.settings) as client, pytest.raises(SettingsInvalid, match="CARS_WEB_TOKEN"):
        make(client, host="0.0.0.0")


def test_whoever_has_not_signed_in_sees_nothing(guarded: TestClient) -> None:
    for page in (*PAGES, "/jobs/1/thumbnail?path=broken.jpg", "/nothing"):
        answer = guarded.get(page)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        assert "set-cookie" not in answer.headers
    assert guarded.post("/jobs", data={"source": "/"}).status_code == 401
    assert guarded.get("/sign-in").status_code == 200
    assert guarded.get("/static/look.css").status_code == 200
    assert guarded.get("/healthz").text == "ok\n"


def test_signing_in_and_out(guarded: TestClient) -> None:
    answer = guarded.post("/sign-in", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/jobs").status_code == 200
    assert guarded.post("/sign-out", data={"form_token": form_token(guarded)}).status_code == 303
    assert guarded.get("/jobs").status_code == 303


def test_guessing_the_token_is_limited(guarded: TestClient) -> None:
    for _ in range(5):
        assert guarded.post("/sign-in", data={"token": "wrong"}).status_code == 403
    limited = guarded.post("/sign-in", data={"token": TOKEN})
    assert limited.status_code == 429
    assert limited.headers["retry-after"] == "60"
    assert guarded.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 429


def test_metrics_take_the_token_as_a_bearer(guarded: TestClient, browser: TestClient) -> None:
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/metrics", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert guarded.get("/metrics", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    assert "cars_jobs" in guarded.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    assert "cars_jobs" in browser.get("/metrics").text


def test_the_cache_of_thumbnails_is_bounded(done: _Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jobs.web.thumbnails import Thumbnails

    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    with Client(settings=done.settings) as client:
        thumbnails = Thumbnails(done.settings, children=1, most_bytes=1500)
        try:
            paths = [result.path for result in client.job("1").results(status="ok")]
            made = [thumbnails.get(client.job("1"), path) for path in paths]
            again = thumbnails.get(client.job("1"), paths[-1])
        finally:
            thumbnails.close()
    assert all(isinstance(one, bytes) for one in made)
    assert again == made[-1]
    assert 0 < thumbnails.cached_bytes <= 1500


def test_the_htmx_file_is_served_with_its_licence(browser: TestClient) -> None:
    base = browser.get("/").text
    (script,) = re.findall(r'src="(/static/htmx-[\d.]+\.min\.js)"', base)
    assert browser.get(script).status_code == 200
    assert "Zero-Clause BSD" in browser.get(script.replace(".min.js", ".LICENSE")).text
