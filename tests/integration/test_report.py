"""The report on a job: what is in it, whatever the files are called and wherever the source has gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from jobs import Client, Job
from jobs.errors import OutputError, SettingsInvalid
from jobs.report import thumbnails
from jobs.settings import Settings, load
from tests.support.engines import SCRIPTED
from tests.support.processes import CHECKOUT, run_cars

HOSTILE = ("<script>alert(1)<b>.jpg", "\"><img src=x onerror=alert(2)>.jpg", "javascript:alert(3).jpg", "{{7*7}}.jpg",
           "' onload='alert(4).jpg", "\u202egpj.exe.jpg")  # fmt: skip


class _Page(HTMLParser):
    """The elements of a page: their names and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


class _Done(NamedTuple):
    """A job that `cars classify --report` has finished, its folder, and the report."""

    settings: Settings
    folder: Path
    report: Path
    stderr: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> _Done:
    """Classify two listings with file names that attack pages, and a file that is not an image."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("photos")
    for number, name in enumerate(HOSTILE):
        listing = folder / ("first" if number % 2 else "<i>second")
        listing.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (40 * number, 100, 200)).save(listing / name, "JPEG")
    shutil.copy(folder / "first" / HOSTILE[1], folder / "<i>second" / "again.jpg")
    (folder / "first" / "broken.jpg").write_bytes(b"no image")
    report = home / "report.html"
    ran = run_cars("classify", folder, "--report", report, env={**SCRIPTED, "CARS_HOME": str(home)})
    assert ran.returncode == 0, ran.stderr
    return _Done(load(home=home), folder, report, ran.stderr)


@pytest.fixture
def job(done: _Done, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """Return the job that is done; children of this process find the checkout."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    with Client(settings=done.settings) as client:
        yield client.job("1")


def test_classify_writes_the_report(done: _Done) -> None:
    assert f"report written to {done.report}, with 6 images" in done.stderr
    page = _Page(text := done.report.read_text())
    assert not page.all("script")
    assert not page.all("i"), "a listing's name is text"
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert len(page.all("img")) == 6
    assert all(image["alt"] for image in page.all("img"))
    assert "{{7*7}}" in text
    assert "\u202e" not in text
    assert "undecodable" in text
    assert "The same photo in several listings: 1" in text


def test_nothing_is_loaded_from_anywhere(done: _Done) -> None:
    page = _Page(text := done.report.read_text())
    loaded = [attributes.get(name) for _, attributes in page.elements for name in ("src", "href", "srcset", "action")]
    assert [address[:16] for address in loaded if address and not address.startswith("data:image/jpeg;")] == []
    assert "url(" not in text
    assert "@import" not in text


def test_python_writes_it_with_as_many_photos_as_asked(job: Job, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert job.report(file, images=2) == (2, None)
    assert len(_Page(file.read_text()).all("img")) == 2
    assert job.report(file, images=0) == (0, None)
    with pytest.raises(SettingsInvalid, match="images must be from 0 to 2,000, not -1"):
        job.report(file, images=-1)
    with pytest.raises(OutputError, match="there is no folder"):
        job.report(tmp_path / "gone" / "report.html")


def test_a_file_that_has_changed_is_not_shown(job: Job, done: _Done, tmp_path: Path) -> None:
    changed = done.folder / "first" / HOSTILE[3]
    before = changed.read_bytes()
    changed.write_bytes((done.folder / "first" / HOSTILE[5]).read_bytes())
    assert job.report(tmp_path / "report.html") == (5, None)
    changed.write_bytes(before)
    assert "the file is another one by now" in (tmp_path / "report.html").read_text()


def test_a_source_that_is_gone_is_said(job: Job, done: _Done, tmp_path: Path) -> None:
    done.folder.rename(tmp_path / "elsewhere")
    written = job.report(tmp_path / "report.html")
    (tmp_path / "elsewhere").rename(done.folder)
    assert written.images == 0
    assert written.note
    assert str(done.folder) in written.note
    text = (tmp_path / "report.html").read_text()
    assert "There are no thumbnails" in text
    assert "undecodable" in text, "the rest is there"


def test_without_pillow_there_are_no_pictures_and_it_says_so(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "can_decode", lambda: False)
    written = job.report(tmp_path / "report.html")
    assert written.images == 0
    assert "this installation has no Pillow" in (written.note or "")
    assert "this installation has no Pillow" in (tmp_path / "report.html").read_text()


def test_a_running_job_has_a_report(home: Path, photos: Callable[..., Path], tmp_path: Path) -> None:
    with Client() as client:
        job = client.submit(photos(1), name="</title><script>alert(1)</script>")
        job.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "No image of this job has been classified yet" in text
    assert "<script" not in text
