"""Sources in S3, through boto3. Nothing is contacted before the first scan or read, and the client is made in the
process that uses it.
"""

import errno
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import botocore.session
from boto3.session import Session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from fsspec.config import conf

from jobs.errors import ImageUnavailable, SourceMissing
from jobs.redaction import redacted
from jobs.sources.addresses import Address
from jobs.sources.base import Entry, Source, too_large, why
from jobs.sources.connections import SECONDS, PerProcess, unavailable
from jobs.sources.kinds import HEAD_BYTES, Kind, LeftOut, kind, starts_like_an_image, suffix
from jobs.sources.paths import decode, encode, is_dotted
from jobs.sources.stamps import of_object

__all__ = ["S3Source", "connect"]

Answer = TypeVar("Answer")

PAGE = 1000
"""Keys in one answer of S3, which gives no more."""

HEADS_AT_ONCE = 16
"""Objects whose first bytes are asked for at the same time."""

CONNECTIONS = 32
"""Requests of one source that are under way at the same time; more wait for their turn."""

ATTEMPTS = 7
"""How often one request is sent at most where the AWS settings (`AWS_MAX_ATTEMPTS`) do not say. The growing waits
between the attempts then take about half of `SECONDS`: time for a server that asks to slow down."""

_GONE = ("NoSuchKey", "NoSuchVersion", "NoSuchBucket", "404")

_OPTIONS = {
    "endpoint_url": "endpoint_url",
    "use_ssl": "use_ssl",
    "key": "aws_access_key_id",
    "username": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "password": "aws_secret_access_key",
    "token": "aws_session_token",
}
"""What fsspec's configuration calls the options of a client."""


def connect() -> Any:
    """Return a client of S3 with the settings of the usual AWS environment and files.

    What fsspec is configured to use for `s3` (`FSSPEC_S3_ANON`, `FSSPEC_S3_ENDPOINT_URL`, ...) comes first, as it does
    for model versions in S3.
    """
    chosen = {**conf.get("s3", {}), **conf.get("s3a", {})}
    named = {_OPTIONS[name]: value for name, value in chosen.items() if name in _OPTIONS and value is not None}
    options = {**chosen.get("client_kwargs", {}), **named}
    # A session is not safe among threads, and the default one is shared: each client has its own.
    settings = botocore.session.Session(profile=chosen.get("profile"))
    config = Config(connect_timeout=10, read_timeout=30, max_pool_connections=CONNECTIONS)
    if chosen.get("anon"):
        options = {name: value for name, value in options.items() if not name.startswith("aws_")}
        config = config.merge(Config(signature_version=UNSIGNED))
    if settings.get_config_variable("max_attempts") is None:
        config = config.merge(Config(retries={"total_max_attempts": ATTEMPTS}))
    client = Session(botocore_session=settings).client("s3", config=config, **options)
    if chosen.get("requester_pays"):
        client.meta.events.register("provide-client-params.s3", _requester_pays)
    return client


def _requester_pays(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    return {**params, "RequestPayer": "requester"}


class _Connection:
    """A client, and the threads that its requests occupy, so that nobody waits longer than `SECONDS` for one."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3")
        self._here = threading.local()
        self._closed = False
        client.meta.events.register("before-send.s3", self.check)

    def answers(self, *calls: Callable[[], Answer]) -> list[Answer]:
        """Return what the calls return, which run side by side; raises what they raise, and TimeoutError."""
        deadline = time.monotonic() + SECONDS
        waiting = [self._threads.submit(self._until, deadline, call) for call in calls]
        try:
            return [answer.result(timeout=max(0.0, deadline - time.monotonic())) for answer in waiting]
        except TimeoutError as exc:
            raise TimeoutError(f"no answer within {SECONDS:.0f} seconds") from exc
        finally:
            for answer in waiting:
                answer.cancel()

    def _until(self, deadline: float, call: Callable[[], Answer]) -> Answer:
        self._here.deadline = deadline
        return call()

    def check(self, **_: Any) -> None:
        """Raise TimeoutError in a call that nobody waits for any more: it is neither sent again nor read on."""
        if self._closed or time.monotonic() > self._here.deadline:
            raise TimeoutError

    def close(self) -> None:
        """Wait for nothing, and close the client."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()


class S3Source(Source):
    """An S3 prefix: listed one page at a time in the order that S3 keeps, which is that of the raw paths.

    Credentials, region and endpoint (`AWS_ENDPOINT_URL`) are those of the usual AWS environment and files.
    `client` makes the client of a process.
    """

    def __init__(self, address: Address, *, max_file_bytes: int, client: Callable[[], Any] = connect) -> None:
        super().__init__()
        self._text = redacted(address.text)
        self._bucket, _, prefix = address.rest.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._max_file_bytes = max_file_bytes
        self._connection = PerProcess(lambda: _Connection(client()))

    def close(self) -> None:
        """Close what is open; see `Source.close`."""
        connection = self._connection.forget()
        if connection is not None:
            connection.close()

    def scan(self, *, after: str | None = None) -> Generator[Entry, None, None]:
        """Yield every image once; see `Source.scan`."""
        self.left_out = LeftOut()
        start = _text(decode(after or ""))
        for page in self._pages(self._prefix + start if start else self._prefix):
            looks = self._look([raw for raw, size, _ in page if size and kind(_name(raw)) is Kind.UNKNOWN])
            for raw, size, etag in page:
                if kind(_name(raw)) is Kind.IMAGE or raw in looks:
                    path = encode(raw)
                    yield Entry(path, path.rpartition("/")[0] or None, stamp=of_object(size, etag))
                else:
                    self.left_out.add(suffix(_name(raw)))

    def _pages(self, after: str) -> Iterator[list[tuple[bytes, int, str | None]]]:
        """(key relative to the prefix, size, ETag) of every file past `after` that is not a dotfile, one page at a
        time.
        """
        for page in self._listing({"StartAfter": after} if after else {}):
            files = []
            for item in page.get("Contents", ()):
                raw = item["Key"][len(self._prefix) :].encode("utf-8", "surrogateescape")
                if item["Key"] > after and not (raw.endswith(b"/") or is_dotted(raw)):
                    files.append((raw, item["Size"], item.get("ETag")))
            yield files

    def _listing(self, where: dict[str, str]) -> Iterator[Any]:
        """Yield the answers of S3, one request each."""
        try:
            connection = self._connection.get()
            pages = iter(
                connection.client.get_paginator("list_objects_v2").paginate(
                    Bucket=self._bucket, Prefix=self._prefix, PaginationConfig={"PageSize": PAGE}, **where
                )
            )
            while (page := connection.answers(partial(next, pages, None))[0]) is not None:
                yield page
        except Exception as exc:
            raise SourceMissing(f"{self._text} cannot be listed: {why(_translated(exc))}") from exc

    def stamps(self, paths: Sequence[str]) -> Iterator[str | None]:
        """Yield the stamp of each path, by pages of the listing that begin where the next path is: at most one request
        for a path, and one for a thousand where they lie together; see `Source.stamps`.
        """
        listed: dict[str, str | None] = {}
        last = ""
        for path in paths:
            key = self._prefix + _text(decode(path))
            if key not in listed and key > last:
                page: Any = next(self._listing({"StartAfter": key[:-1]} if key[:-1] > self._prefix else {}), {})
                listed = {item["Key"]: of_object(item["Size"], item.get("ETag")) for item in page.get("Contents", ())}
                last = max(listed, default=key)
            yield listed.get(key)

    def _look(self, names: Sequence[bytes]) -> set[bytes]:
        """Return those that start like an image, by a request of `HEAD_BYTES` bytes each; and those that cannot be
        read, so that their rows say why.
        """
        found: set[bytes] = set()
        for at in range(0, len(names), HEADS_AT_ONCE):
            some = names[at : at + HEADS_AT_ONCE]
            connection = self._connection.get()
            looks = connection.answers(*(partial(self._looks_like_an_image, connection, name) for name in some))
            found.update(name for name, image in zip(some, looks, strict=True) if image)
        return found

    def _looks_like_an_image(self, connection: _Connection, name: bytes) -> bool:
        key, span = self._prefix + _text(name), f"bytes=0-{HEAD_BYTES - 1}"
        try:
            response = connection.client.get_object(Bucket=self._bucket, Key=key, Range=span)
            with closing(response["Body"]) as body:
                return starts_like_an_image(body.read())
        except Exception:
            return True

    def read(self, path: str) -> bytes:
        """Return the bytes of an image; see `Source.read`."""
        try:
            key = self._prefix + _text(decode(path))
            connection = self._connection.get()
            return connection.answers(partial(self._object, connection, key))[0]
        except ImageUnavailable:
            raise
        except Exception as exc:
            raise unavailable(_translated(exc)) from exc

    def _object(self, connection: _Connection, key: str) -> bytes:
        """Return an object's bytes in one request; one that is too large is refused before its body is asked for."""
        limit = self._max_file_bytes
        response = connection.client.get_object(Bucket=self._bucket, Key=key)
        with closing(response["Body"]) as body:
            if response["ContentLength"] > limit:
                raise too_large(response["ContentLength"], limit)
            parts = []
            total = 0
            while part := body.read(1 << 16):
                connection.check()
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise too_large(None, limit)
            return b"".join(parts)


def _translated(error: Exception) -> Exception:
    """Return an answer of S3 that is an error as the OSError that a file would give."""
    if not isinstance(error, ClientError):
        return error
    said = error.response.get("Error", {})
    missing = said.get("Code") in _GONE
    return OSError(errno.ENOENT if missing else errno.EIO, said.get("Message") or str(error))


def _name(raw: bytes) -> bytes:
    return raw.rpartition(b"/")[2]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
