"""Sources behind a URL, through fsspec, but for S3. Nothing is contacted before the first scan or read, and the
filesystem is made in the process that uses it: its connections and event loop do not outlive a fork.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.asyn import sync

from jobs.errors import ImageUnavailable, SourceError
from jobs.redaction import redacted
from jobs.sources.addresses import PROTOCOLS, Address
from jobs.sources.base import OTHER, UNSURE, Look, Source, TreeSource, too_large, why
from jobs.sources.connections import SECONDS, PerProcess, unavailable
from jobs.sources.kinds import HEAD_BYTES, Kind, kind, starts_like_an_image
from jobs.sources.paths import decode, is_dotted
from jobs.sources.stamps import of_item
from jobs.states import ImageErrorCode

__all__ = ["open_remote"]


def open_remote(address: Address, *, max_file_bytes: int) -> Source:
    """Return a source for a URL that is permitted; raises `SourceError` where the package for its protocol is
    missing.
    """
    try:
        if address.protocol == "s3":
            from jobs.sources.s3 import S3Source  # boto3 is in the extra of the same name

            return S3Source(address, max_file_bytes=max_file_bytes)
        fsspec.get_filesystem_class(address.protocol)
    except ImportError as exc:
        advice = PROTOCOLS[address.protocol]
        raise SourceError(
            f"{redacted(address.text)} needs a package that is not installed here ({exc}): {advice}"
        ) from exc
    return UrlSource(address, max_file_bytes=max_file_bytes)


class _Folder:
    """A folder of the store, and the stamps of the images that were listed in it."""

    __slots__ = ("path", "stamps")

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamps: dict[bytes, str | None] = {}


class UrlSource(TreeSource[_Folder]):
    """A folder of any other filesystem, listed and sorted a folder at a time."""

    def __init__(self, address: Address, *, max_file_bytes: int) -> None:
        super().__init__()
        self._text = redacted(address.text)
        self._url = f"{address.protocol}://{address.rest}"
        self._max_file_bytes = max_file_bytes
        self._filesystem = PerProcess(self._connect)
        self._base = ""

    def close(self) -> None:
        self._filesystem.forget()

    def _connect(self) -> Any:
        filesystem, base = fsspec.core.url_to_fs(self._url, skip_instance_cache=True, use_listings_cache=False)
        self._base = base.rstrip("/")
        return filesystem

    def _enter(self, name: bytes, *, within: _Folder | None) -> _Folder:
        self._filesystem.get()
        return _Folder(self._base if within is None else f"{within.path}/{_text(name)}")

    def _leave(self, folder: _Folder) -> None:
        folder.stamps.clear()

    def _keys(self, folder: _Folder, floor: bytes) -> Iterator[bytes]:
        try:
            found = self._call("ls", folder.path, detail=True)
        except OSError:
            raise
        except Exception as exc:
            raise OSError(why(exc)) from exc
        keys = []
        for item in found:
            if item["name"].strip("/") == folder.path.strip("/"):
                continue  # some stores list a folder's own marker
            name = item["name"].rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
            if is_dotted(name):
                continue
            empty = item.get("size") == 0
            key = name + (b"/" if item["type"] == "directory" else _end(name, empty=empty))
            if key >= floor:
                keys.append(key)
                if not key.endswith((b"/", OTHER)) or key.endswith(UNSURE):
                    folder.stamps[name] = of_item(item)
        keys.sort()
        return iter(keys)

    def _stamp(self, name: bytes, *, folder: _Folder) -> str | None:
        return folder.stamps.get(name)

    def _examine(self, path: str, *, folder: _Folder) -> Look:
        self._filesystem.get()
        try:
            head: bytes = self._call("cat_file", f"{self._base}/{_text(decode(path))}", start=0, end=HEAD_BYTES)
        except Exception as exc:
            return Look(True, unavailable(exc).failure)
        return Look(starts_like_an_image(head), stamp=self._stamp(decode(path).rpartition(b"/")[2], folder=folder))

    def stamps(self, paths: Sequence[str]) -> Iterator[str | None]:
        """Yield the stamp of each path, by a listing of its folder; see `Source.stamps`."""
        listed: tuple[bytes | None, dict[bytes, str | None]] = (None, {})
        for path in paths:
            within, _, name = decode(path).rpartition(b"/")
            if within != listed[0]:
                self._filesystem.get()
                folder = _Folder(f"{self._base}/{_text(within)}".rstrip("/"))
                with suppress(OSError):
                    self._keys(folder, b"")
                listed = (within, folder.stamps)
            yield listed[1].get(name)

    def read(self, path: str) -> bytes:
        """Return the bytes of an image; see `Source.read`."""
        try:
            data = self._fetch(_text(decode(path)))
        except ImageUnavailable:
            raise
        except Exception as exc:
            raise unavailable(exc) from exc
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


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
