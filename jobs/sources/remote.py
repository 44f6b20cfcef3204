"""Sources behind a URL, through fsspec. Nothing is contacted before the first scan or read, and the filesystem is made
in the process that uses it: its connections and event loop do not outlive a fork.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import fsspec
from fsspec.asyn import sync

from jobs.errors import ImageUnavailable, SourceError, SourceMissing
from jobs.redaction import redacted
from jobs.sources.addresses import PROTOCOLS, Address
from jobs.sources.base import OTHER, UNSURE, Entry, Source, TreeSource, too_large, why
from jobs.sources.kinds import HEAD_BYTES, Kind, LeftOut, kind, starts_like_an_image, suffix
from jobs.sources.paths import decode, encode, is_dotted
from jobs.states import ImageErrorCode, ImageFailure

__all__ = ["open_remote"]

SECONDS = 60.0
"""The longest one listing call or one image may take, retries included."""

PAGE = 1000
"""Keys in one answer of S3, which gives no more."""

HEADS_AT_ONCE = 16
"""Objects whose first bytes are asked for at the same time."""

_GONE = ("NoSuchKey", "NoSuchBucket", "404")


def open_remote(address: Address, *, max_file_bytes: int) -> Source:
    """Return a source for a URL that is permitted; raises `SourceError` where the package for its protocol is
    missing.
    """
    try:
        fsspec.get_filesystem_class(address.protocol)
    except ImportError as exc:
        advice = PROTOCOLS[address.protocol]
        raise SourceError(
            f"{redacted(address.text)} needs a package that is not installed here ({exc}): {advice}"
        ) from exc
    if address.protocol == "s3":
        return S3Source(address, max_file_bytes=max_file_bytes)
    return UrlSource(address, max_file_bytes=max_file_bytes)


class _Filesystem:
    """The filesystem of a URL, made by the process and at the time that it is first needed."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[tuple[int, Any]] = []

    def get(self) -> Any:
        with self._lock:
            if not self._made or self._made[-1][0] != os.getpid():
                # One made before a fork is kept: its finalizer would close connections that the parent still uses.
                self._made.append((os.getpid(), self._make()))
            return self._made[-1][1]

    def close(self) -> None:
        with self._lock:
            if self._made and self._made[-1][0] == os.getpid():
                self._made.pop()


class S3Source(Source):
    """An S3 prefix: listed one page at a time in the order that S3 keeps, which is that of the raw paths.

    Credentials, region and endpoint (`AWS_ENDPOINT_URL`) are those of the usual AWS environment and files.
    """

    def __init__(self, address: Address, *, max_file_bytes: int) -> None:
        super().__init__()
        self._text = redacted(address.text)
        self._bucket, _, prefix = address.rest.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._max_file_bytes = max_file_bytes
        self._filesystem = _Filesystem(_s3)

    def close(self) -> None:
        self._filesystem.close()

    def scan(self, *, after: str | None = None) -> Generator[Entry, None, None]:
        self.left_out = LeftOut()
        start = _text(decode(after or ""))
        for page in self._pages(self._prefix + start if start else self._prefix):
            looks = self._look([raw for raw, size in page if size and kind(_name(raw)) is Kind.UNKNOWN])
            for raw, _ in page:
                if kind(_name(raw)) is Kind.IMAGE or raw in looks:
                    path = encode(raw)
                    yield Entry(path, path.rpartition("/")[0] or None)
                else:
                    self.left_out.add(suffix(_name(raw)))

    def _pages(self, after: str) -> Iterator[list[tuple[bytes, int]]]:
        """(key relative to the prefix, size) of every file past `after` that is not a dotfile, one page at a time."""
        where = {"StartAfter": after} if after else {}
        while True:
            try:
                page = self._page(where)
            except Exception as exc:
                raise SourceMissing(f"{self._text} cannot be listed: {why(exc)}") from exc
            listed = [(item["Key"], item["Size"]) for item in page.get("Contents", ()) if item["Key"] > after]
            files = [(key[len(self._prefix) :].encode("utf-8", "surrogateescape"), size) for key, size in listed]
            yield [(raw, size) for raw, size in files if not (raw.endswith(b"/") or is_dotted(raw))]
            if not page.get("IsTruncated"):
                return
            where = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, where: dict[str, str]) -> Any:
        arguments = {"Prefix": self._prefix, "MaxKeys": PAGE, **where}
        return sync(self._filesystem.get().loop, self._request, "list_objects_v2", timeout=SECONDS, **arguments)

    def _look(self, names: Sequence[bytes]) -> set[bytes]:
        """Return those that start like an image, by a request of `HEAD_BYTES` bytes each; and those that cannot be
        read, so that their rows say why.
        """
        found: set[bytes] = set()
        for at in range(0, len(names), HEADS_AT_ONCE):
            some = names[at : at + HEADS_AT_ONCE]
            looks = sync(self._filesystem.get().loop, self._heads, some, timeout=SECONDS)
            found.update(name for name, image in zip(some, looks, strict=True) if image)
        return found

    async def _heads(self, names: Sequence[bytes]) -> list[bool]:
        return await asyncio.gather(*map(self._looks_like_an_image, names))

    async def _request(self, method: str, **arguments: Any) -> Any:
        """Send one request of S3's protocol, for which s3fs has no public call: it would look objects up first."""
        return await self._filesystem.get()._call_s3(method, Bucket=self._bucket, **arguments)  # noqa: SLF001

    async def _looks_like_an_image(self, name: bytes) -> bool:
        key, span = self._prefix + _text(name), f"bytes=0-{HEAD_BYTES - 1}"
        try:
            response = await self._request("get_object", Key=key, Range=span)
            async with response["Body"] as body:
                return starts_like_an_image(await body.read())
        except Exception:
            return True

    def read(self, path: str) -> bytes:
        try:
            key = self._prefix + _text(decode(path))
            data: bytes = sync(self._filesystem.get().loop, self._object, key, timeout=SECONDS)
        except ImageUnavailable:
            raise
        except Exception as exc:
            raise _unavailable(exc) from exc
        return data

    async def _object(self, key: str) -> bytes:
        """Return an object's bytes in one request; one that is too large is refused before its body is asked for."""
        response = await self._request("get_object", Key=key)
        body = response["Body"]
        try:
            limit = self._max_file_bytes
            if response["ContentLength"] > limit:
                raise too_large(response["ContentLength"], limit)
            parts = []
            total = 0
            while part := await body.read(1 << 20):
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise too_large(None, limit)
            return b"".join(parts)
        finally:
            body.close()


def _s3() -> Any:
    return fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={"connect_timeout": 10, "read_timeout": 30, "max_pool_connections": 32},
    )


class UrlSource(TreeSource[str]):
    """A folder of any other filesystem, listed and sorted a folder at a time."""

    def __init__(self, address: Address, *, max_file_bytes: int) -> None:
        super().__init__()
        self._text = redacted(address.text)
        self._url = f"{address.protocol}://{address.rest}"
        self._max_file_bytes = max_file_bytes
        self._filesystem = _Filesystem(self._connect)
        self._base = ""

    def close(self) -> None:
        self._filesystem.close()

    def _connect(self) -> Any:
        filesystem, base = fsspec.core.url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
        self._base = base.rstrip("/")
        return filesystem

    def _enter(self, name: bytes, *, within: str | None) -> str:
        self._filesystem.get()
        return self._base if within is None else f"{within}/{_text(name)}"

    def _leave(self, folder: str) -> None:  # noqa: ARG002
        return

    def _keys(self, folder: str, floor: bytes) -> Iterator[bytes]:
        try:
            found = self._call("ls", folder, detail=True)
        except OSError:
            raise
        except Exception as exc:
            raise OSError(why(exc)) from exc
        keys = []
        for item in found:
            if item["name"].strip("/") == folder.strip("/"):
                continue  # some stores list a folder's own marker
            name = item["name"].rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
            if is_dotted(name):
                continue
            empty = item.get("size") == 0
            key = name + (b"/" if item["type"] == "directory" else _end(name, empty=empty))
            if key >= floor:
                keys.append(key)
        keys.sort()
        return iter(keys)

    def _examine(self, path: str) -> tuple[bool, ImageFailure | None]:
        self._filesystem.get()
        try:
            head: bytes = self._call("cat_file", f"{self._base}/{_text(decode(path))}", start=0, end=HEAD_BYTES)
        except Exception as exc:
            return True, _unavailable(exc).failure
        return starts_like_an_image(head), None

    def read(self, path: str) -> bytes:
        """Return the bytes of an image; see `Source.read`."""
        try:
            data = self._fetch(_text(decode(path)))
        except ImageUnavailable:
            raise
        except Exception as exc:
            raise _unavailable(exc) from exc
        if len(data) > self._max_file_bytes:
            raise too_large(None, self._max_file_bytes)
        return data

    def _fetch(self, path: str) -> bytes:
        """Return a file's bytes, at most one more than the limit."""
        limit = self._max_file_bytes
        if ".." in path.split("/"):
            raise ImageUnavailable(ImageErrorCode.OUTSIDE_SOURCE, "the path leads out of the source")
        self._filesystem.get()
        name = f"{self._base}/{path}"
        info = self._call("info", name)
        if info["type"] == "directory":
            raise ImageUnavailable(ImageErrorCode.UNSUPPORTED, "a folder, not a file")
        size = info.get("size")
        if size is not None and size > limit:
            raise too_large(size, limit)
        data: bytes = self._call("cat_file", name, start=0, end=limit + 1) if size != 0 else b""
        return data

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the filesystem, with a time limit where it has an asynchronous form."""
        filesystem = self._filesystem.get()
        if filesystem.async_impl:
            return sync(filesystem.loop, getattr(filesystem, f"_{method}"), *arguments, timeout=SECONDS, **options)
        return getattr(filesystem, method)(*arguments, **options)


def _end(name: bytes, *, empty: bool) -> bytes:
    said = kind(name)
    return b"" if said is Kind.IMAGE else OTHER if empty or said is Kind.OTHER else UNSURE


def _name(raw: bytes) -> bytes:
    return raw.rpartition(b"/")[2]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _unavailable(error: Exception) -> ImageUnavailable:
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    if isinstance(error, FileNotFoundError) or code in _GONE:
        return ImageUnavailable(ImageErrorCode.VANISHED, "the file was there when the source was scanned, and is gone")
    if isinstance(error, TimeoutError):
        return ImageUnavailable(ImageErrorCode.UNREADABLE, f"the file could not be read within {SECONDS:.0f} seconds")
    return ImageUnavailable(ImageErrorCode.UNREADABLE, f"the file cannot be read: {why(error)}")
