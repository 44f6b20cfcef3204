"""Stamps: what tells, without reading a file, that its bytes are those of the last time."""

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs.sources import canonical, open_source, stamps

OLD = "2026-01-02T03:04:05Z"


def stamp_of(folder: Path, path: str = "a.jpg") -> str | None:
    with open_source(canonical(folder), roots=None, max_file_bytes=1000) as source:
        return next(entry.stamp for entry in source.scan() if entry.path == path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file that was written a moment ago have a stamp."""
    monkeypatch.setattr(stamps, "SETTLED_SECONDS", 0.0)


def wait_for_a_tick(file: Path) -> None:
    """Wait until the file system's clock has moved past the file's last change."""
    before = file.stat().st_ctime_ns
    probe = file.with_name(".probe")
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > before:
            return


def test_a_young_file_has_none(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")
    assert stamp_of(tmp_path) is None
    os.utime(photo, (0, 0))
    assert stamp_of(tmp_path) is None, "its change time is young"


def test_size_and_both_times(tmp_path: Path, at_once: None) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")
    status = photo.stat()
    assert stamp_of(tmp_path) == f"5:{status.st_mtime_ns}:{status.st_ctime_ns}"


def test_a_file_that_keeps_size_and_modification_time_has_another(tmp_path: Path, at_once: None) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")
    before, status = stamp_of(tmp_path), photo.stat()
    wait_for_a_tick(photo)
    photo.write_bytes(b"other")
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert photo.stat().st_mtime_ns == status.st_mtime_ns
    assert stamp_of(tmp_path) not in (None, before)


def test_a_link_has_that_of_its_file(tmp_path: Path, at_once: None) -> None:
    (tmp_path / "a.jpg").write_bytes(b"photo")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "c.jpg").symlink_to("gone.jpg")
    assert stamp_of(tmp_path, "b.jpg") == stamp_of(tmp_path, "a.jpg") is not None
    assert stamp_of(tmp_path, "c.jpg") is None


def test_a_time_ahead_of_the_clock_gives_none(tmp_path: Path, at_once: None) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"photo")
    os.utime(photo, (time.time() + 1000, time.time() + 1000))
    assert stamp_of(tmp_path) is None


def test_of_named_files_as_a_scan_gives_them(tmp_path: Path, at_once: None) -> None:
    for name in ("a.jpg", "b/c.jpg", "b/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"photo")
    (tmp_path / "link.jpg").symlink_to("b/c.jpg")
    (tmp_path / "out.jpg").symlink_to("/etc/hostname")
    with open_source(canonical(tmp_path), roots=None, max_file_bytes=1000) as source:
        every = {entry.path: entry.stamp for entry in source.scan()}
        wanted = ["a.jpg", "b", "b/c.jpg", "b/d.jpg", "gone.jpg", "link.jpg", "out.jpg", "x/y.jpg"]
        assert list(source.stamps(wanted)) == [every.get(path) for path in wanted]
        assert sum(stamp is not None for stamp in source.stamps(wanted)) == 4


def test_of_named_files_in_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.jpg", "b/c.jpg", "b/d.jpg"):
        memory.pipe_file(f"/stamped/{name}", b"photo")
    ls = memory.ls

    def with_etags(path: str, **options: Any) -> list[dict[str, Any]]:
        return [{**item, "etag": item["name"]} for item in ls(path, **options)]

    monkeypatch.setattr(type(memory), "ls", lambda _, path, **options: with_etags(path, **options))
    with open_source("memory://stamped", roots=None, max_file_bytes=1000) as source:
        every = {entry.path: entry.stamp for entry in source.scan()}
        assert every == {"a.jpg": "5:/stamped/a.jpg", "b/c.jpg": "5:/stamped/b/c.jpg", "b/d.jpg": "5:/stamped/b/d.jpg"}
        wanted = ["a.jpg", "b/c.jpg", "b/x.jpg", "c/y.jpg"]
        assert list(source.stamps(wanted)) == [every.get(path) for path in wanted]


@pytest.mark.parametrize(
    ("item", "stamp"),
    [
        ({"size": 5, "ETag": '"abc-2"'}, "5:abc-2"),
        ({"size": 5, "etag": "abc", "mtime": 0}, "5:abc"),
        ({"size": 5, "mtime": 1000.5}, "5:1000.5"),
        ({"size": 5, "updated": OLD}, f"5:{OLD}"),
        ({"size": 5, "last_modified": datetime.fromisoformat(OLD)}, "5:2026-01-02 03:04:05+00:00"),
        ({"size": 5, "last_modified": "2126-01-02T03:04:05Z"}, None),
        ({"size": 5, "mtime": "soon"}, None),
        ({"size": None, "etag": "abc"}, None),
        ({"size": 5}, None),
    ],
)
def test_of_other_stores(item: dict[str, Any], stamp: str | None) -> None:
    assert stamps.of_item(item) == stamp
