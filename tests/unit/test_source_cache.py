"""What a worker process keeps open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from jobs.errors import SourceError
from jobs.settings import load
from jobs.sources import Source
from workers.source_cache import MAX_SOURCES, SourceCache


@pytest.fixture
def sources() -> Iterator[SourceCache]:
    sources = SourceCache(load())
    yield sources
    sources.close()


@pytest.fixture
def urls() -> Iterator[list[str]]:
    """One source more than are kept open."""
    memory = fsspec.filesystem("memory")
    names = [f"cars-{number}" for number in range(MAX_SOURCES + 1)]
    for name in names:
        memory.pipe_file(f"/{name}/a.jpg", b"photo")
    yield [f"memory://{name}" for name in names]
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def opened(sources: SourceCache, text: str) -> Source:
    with sources.open(text) as source:
        assert source.read("a.jpg") == b"photo"
        return source


def test_a_remote_source_stays_open_until_it_is_forgotten(sources: SourceCache, urls: list[str]) -> None:
    first = opened(sources, urls[0])
    assert opened(sources, urls[0]) is first
    sources.forget(urls[0])
    sources.forget("memory://never-opened")
    assert opened(sources, urls[0]) is not first


def test_the_one_used_least_recently_is_closed(sources: SourceCache, urls: list[str]) -> None:
    kept = [opened(sources, url) for url in urls[:-1]]
    assert opened(sources, urls[0]) is kept[0]
    opened(sources, urls[-1])
    assert opened(sources, urls[0]) is kept[0]
    assert opened(sources, urls[1]) is not kept[1]


def test_a_folder_is_opened_each_time(sources: SourceCache, tmp_path: Path) -> None:
    """Another one may have its name by then."""
    folder = tmp_path / "cars"
    for content in (b"photo", b"photo"):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(content)
        opened(sources, str(folder))
        sources.check(str(folder))
        folder.rename(tmp_path / f"moved-{len(list(tmp_path.iterdir()))}")
    with pytest.raises(SourceError):
        sources.check(str(folder))
