"""S3 sources against a local S3 server."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pytest

from jobs.errors import ImageUnavailable, SourceMissing, SourceNotAllowed
from jobs.sources import canonical, has_images, open_source
from jobs.sources import s3 as module
from jobs.sources.addresses import parse

LIMIT = 1000
JPEG = b"\xff\xd8\xff\xe0"


def put(client: Any, *keys: str, content: bytes = b"photo") -> None:
    for key in keys:
        client.put_object(Bucket="cars", Key=key, Body=content)


def opened(url: str, **options: Any) -> Any:
    return open_source(canonical(url), **{"roots": None, "max_file_bytes": LIMIT} | options)


@contextmanager
def watched(url: str) -> Iterator[tuple[module.S3Source, list[Any]]]:
    """A source, and the requests that it sends."""
    requests: list[Any] = []

    def note(request: Any, **_: Any) -> None:
        requests.append(request)

    def connect() -> Any:
        client = module.connect()
        client.meta.events.register("before-send.s3", note)
        return client

    with module.S3Source(parse(canonical(url)), max_file_bytes=LIMIT, client=connect) as source:
        yield source, requests


def test_the_same_listing_as_of_a_local_folder(s3: Any, tmp_path: Path) -> None:
    names = (
        "a.jpg",
        "a/x.jpg",
        "a-b.jpg",
        "B.PNG",
        "b/c/y",
        "b/notes.txt",
        ".h.jpg",
        "b/.h/x.jpg",
        "é\\ +%41.jpg",
        "🚗.jpg",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    put(s3, *(f"photos/{name}" for name in names), "photos/", "photos/b/", "photos-not/x.jpg", "x.jpg", content=JPEG)
    with opened(str(tmp_path)) as here, opened("s3://cars/photos/") as there:
        entries = list(here.scan())
        stamped = list(there.scan())
        assert [entry._replace(stamp=None) for entry in stamped] == entries
        assert there.skipped == here.skipped == 1
        for place, entry in enumerate(stamped):
            assert entry.stamp == f"{len(JPEG)}:{hashlib.md5(JPEG, usedforsecurity=False).hexdigest()}"
            assert list(there.scan(after=entry.path)) == stamped[place + 1 :]
            assert there.read(entry.path) == JPEG


def test_where_the_suffix_says_nothing_one_small_request_decides(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    wanted = [f"{number:02}.jpg?w=800" for number in range(20)]
    put(s3, *(f"p/{name}" for name in wanted), "p/z", content=JPEG + b"x" * LIMIT)
    put(s3, "p/a.jpg", "p/b.txt", "p/c.part", "p/d.part", "p/e")
    put(s3, "p/f", content=b"")
    with watched("s3://cars/p") as (source, requests):
        assert [entry.path for entry in source.scan()] == [*wanted, "a.jpg", "z"]
        assert source.left_out == {".txt": 1, ".part": 2, "": 2}
        source.read("a.jpg")
    looked_at = [*(f"p/{name}" for name in wanted), "p/c.part", "p/d.part", "p/e", "p/z"]
    asked = [(unquote(urlsplit(request.url).path), request.headers.get("Range")) for request in requests]
    assert asked.count(("/cars", None)) == 4, "27 keys, 7 a page"
    assert asked[-1] == ("/cars/p/a.jpg", None)
    assert sorted(pair for pair in asked[:-1] if pair[1]) == [(f"/cars/{key}", b"bytes=0-255") for key in looked_at]
    assert len(requests) == 4 + len(looked_at) + 1


def test_keys_with_steps_are_images_like_any_other(s3: Any) -> None:
    keys = ["../x.jpg", "./y.jpg", "a/../z.jpg", "a/./z.jpg", ".hidden/x.jpg"]
    for key in keys:
        put(s3, f"p/{key}", content=key.encode())
    put(s3, "p/a/../notes.txt", "x.jpg", "z.jpg", "p/z.jpg")
    with opened("s3://cars/p") as source:
        found = [entry.path for entry in source.scan()]
        assert found == sorted([*keys[:-1], "z.jpg"])
        assert source.left_out == {".txt": 1}
        assert [source.read(path) for path in found[:-1]] == [path.encode() for path in found[:-1]]


def test_a_whole_bucket_of_many_pages(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    names = [f"{number:02}.jpg" for number in range(30)]
    put(s3, *names)
    with opened("s3://cars") as source:
        assert [entry.path for entry in source.scan()] == names
        assert [entry.path for entry in source.scan(after="05.jpg")] == names[6:]


def test_reading(s3: Any) -> None:
    put(s3, "p/full.jpg", content=b"x" * LIMIT)
    put(s3, "p/large.jpg", content=b"x" * (LIMIT + 1))
    put(s3, "p/empty.jpg", content=b"")
    with opened("s3://cars/p") as source:
        assert source.read("full.jpg") == b"x" * LIMIT
        assert source.read("empty.jpg") == b""
        for path, code in (("large.jpg", "too_large"), ("gone.jpg", "vanished"), ("../p/full.jpg", "vanished")):
            with pytest.raises(ImageUnavailable) as caught:
                source.read(path)
            assert caught.value.code == code


def test_by_many_threads_at_once(s3: Any) -> None:
    wanted = {f"{number}.jpg": str(number).encode() for number in range(20)}
    for name, content in wanted.items():
        put(s3, f"p/{name}", content=content)
    wrong: list[str] = []
    with opened("s3://cars/p") as source:

        def read_all() -> None:
            wrong.extend(name for name, content in wanted.items() if source.read(name) != content)

        threads = [threading.Thread(target=read_all) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_used_again_after_a_fork(s3: Any) -> None:
    put(s3, "p/x.jpg")
    source = opened("s3://cars/p")
    assert source.read("x.jpg") == b"photo"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if source.read("x.jpg") == b"photo" and has_images(source) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert [entry.path for entry in source.scan()] == ["x.jpg"]
    source.close()


def test_what_is_not_there(s3: Any) -> None:
    with opened("s3://cars/none") as source:
        assert not has_images(source)
    with opened("s3://no-such-bucket/photos") as source, pytest.raises(SourceMissing, match="no-such-bucket"):
        list(source.scan())


def test_no_server(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with opened("s3://cars/p") as source:
        with pytest.raises(ImageUnavailable) as caught:
            source.read("x.jpg")
        assert caught.value.code == "unreadable"


def test_nobody_waits_for_a_server_that_does_not_answer(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with watched("s3://cars/p") as (source, requests):
            with pytest.raises(ImageUnavailable, match="could not be read within"):
                source.read("x.jpg")
            with pytest.raises(SourceMissing, match="no answer within"):
                list(source.scan())
            assert len(requests) == 2


def test_what_fsspec_is_configured_to_use(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="cars", Key="p/x.jpg", Body=b"photo", ACL="public-read")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for options, signed in (
        ({"key": "mine", "secret": "secret"}, "Credential=mine/"),
        ({"anon": True, "key": "mine", "requester_pays": True}, ""),
    ):
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint, **options})
        with watched("s3://cars/p") as (source, requests):
            assert source.read("x.jpg") == b"photo"
        headers = requests[0].headers
        assert signed in str(headers.get("Authorization", ""))
        assert ("Authorization" in headers) == bool(signed)
        assert headers.get("x-amz-request-payer") == (None if signed else b"requester")


def test_roots(s3: Any) -> None:
    put(s3, "p/x.jpg")
    with opened("s3://cars/p", roots=["s3://cars/p"]) as source:
        assert has_images(source)
    with pytest.raises(SourceNotAllowed):
        opened("s3://cars/photos", roots=["s3://cars/p"])


def test_stamps_of_some_objects_take_few_requests(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)
    put(s3, *(f"p/{number:02}.jpg" for number in range(40)), "p/é\\.jpg", "p/z/x.jpg")
    with watched("s3://cars/p") as (source, requests):
        every = {entry.path: entry.stamp for entry in source.scan()}
        del requests[:]
        for wanted, sent in (
            (["03.jpg", "04.jpg", "05.jpg", "no.jpg"], 2),
            (["00.jpg", "39.jpg", "z/x.jpg", "é\\\\.jpg"], 2),
            (list(every), 6),
            ([], 0),
        ):
            assert list(source.stamps(wanted)) == [every.get(path) for path in wanted]
            assert len(requests) == sent, wanted
            del requests[:]
