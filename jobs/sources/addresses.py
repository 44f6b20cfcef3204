"""Where a source is: a user's text made canonical, and whether workers may read there.

Paths are bytes here, or text that must not be resolved yet: both are beyond pathlib.
"""

# ruff: noqa: PTH100, PTH111

import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from jobs.errors import SourceError, SourceMissing, SourceNotAllowed
from jobs.redaction import redacted
from jobs.sources.paths import decode, encode

__all__ = ["PROTOCOLS", "Address", "canonical", "local_root", "parse", "permitted_folder", "permitted_url"]

PROTOCOLS = {
    "s3": "pip install 'car-classifier[s3]'",
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "abfs": "pip install adlfs",
    "az": "pip install adlfs",
    "memory": "pip install fsspec",
}
"""The URL protocols that a source may have, and what to do where the package for one is missing."""

_SAME = {"gcs": "gs", "az": "abfs"}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CHAIN = re.compile(r"[A-Za-z0-9+.-]+::|.*://.*::|.*::.*://", re.DOTALL)


class Address(NamedTuple):
    """A parsed source: a URL (`protocol`, and `rest` after `://`), or a local folder (`protocol` empty)."""

    text: str
    protocol: str
    rest: str
    folder: bytes


def canonical(source: str | os.PathLike[str]) -> str:
    r"""Return what a job's row keeps for a folder or URL as a user wrote it: an absolute path or a URL, always valid
    UTF-8.

    A path is made absolute against the current folder, `~` and `file://` (with its %-escapes) are resolved, links are
    not. A URL gets a lower-case protocol and loses slashes at its end. The result is then written as `paths.encode`
    has it: a backslash doubled, bytes that are not UTF-8 as `\xff`. So it is called once, on the user's text, and
    `open_source` takes the result. Nothing is looked up but the current folder and the user's home. Raises
    `SourceMissing` for a text that can name no folder.
    """
    text = os.fsdecode(source)
    if not text or "\0" in text:
        raise SourceMissing(f"{text!r} names no folder: give the folder or URL that has the images")
    try:
        match = _URL.fullmatch(text)
        if _CHAIN.match(text):
            return encode(os.fsencode(text))  # refused when it is opened
        if match is None:
            return _absolute(os.path.expanduser(text))
        protocol, rest = match[1].lower(), match[2]
        if protocol in ("file", "local"):
            return _absolute(_file_path(rest))
        return encode(os.fsencode(f"{protocol}://{rest.rstrip('/')}"))
    except UnicodeEncodeError as exc:
        raise SourceMissing(f"{text!r} names no folder: it has characters that no path can have") from exc


def _absolute(path: str) -> str:
    return encode(b"/" + os.fsencode(os.path.abspath(path)).lstrip(b"/"))


def _file_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise SourceMissing(f"file://{rest} names no folder of this machine: write file:///absolute/path, or the path")
    return os.fsdecode(unquote_to_bytes(os.fsencode(slash + path)))


def parse(source: str) -> Address:
    """Return what `canonical` returned, taken apart; raises `SourceNotAllowed` for a chained URL or one with `..` in
    it.
    """
    try:
        raw = decode(source)
    except ValueError as exc:
        raise SourceError(f"{source!r} is not a canonical source ({exc}): it must come from canonical()") from exc
    text = os.fsdecode(raw)
    if _CHAIN.match(text):
        raise SourceNotAllowed(
            f"{redacted(source)} chains protocols with '::', which is never allowed: give a plain URL"
        )
    match = _URL.fullmatch(text)
    if match is None:
        return Address(source, "", "", raw)
    if ".." in match[2].split("/"):
        raise SourceNotAllowed(f"{redacted(source)} has '..' in it: write the URL without")
    return Address(source, match[1].lower(), match[2].strip("/"), b"")


def permitted_url(address: Address, roots: Sequence[str] | None) -> None:
    """Raise `SourceNotAllowed` unless the protocol is supported and a root, where there are any, is a prefix."""
    if address.protocol not in PROTOCOLS:
        known = ", ".join(sorted(PROTOCOLS))
        raise SourceNotAllowed(
            f"{redacted(address.text)}: '{address.protocol}' is not supported: use a folder, or {known}"
        )
    if not address.rest:
        raise SourceMissing(
            f"{redacted(address.text)} names no bucket or folder: write {address.protocol}://bucket/folder"
        )
    if roots is not None and not any(_covers(root, address) for root in roots):
        raise SourceNotAllowed(_outside(address.text, roots))


def _covers(root: str, address: Address) -> bool:
    match = _URL.fullmatch(root)
    if match is None or _CHAIN.match(root):
        return False
    protocol, prefix = match[1].lower(), match[2].strip("/")
    same = _SAME.get(protocol, protocol) == _SAME.get(address.protocol, address.protocol)
    return same and (not prefix or f"{address.rest}/".startswith(f"{prefix}/"))


def permitted_folder(address: Address, roots: Sequence[str] | None) -> bytes:
    """Return the real path of a local source, every link on the way followed; raises `SourceNotAllowed` outside the
    roots.
    """
    try:
        real = os.path.realpath(address.folder)
    except ValueError as exc:
        raise SourceMissing(f"{address.text}: {exc}") from exc
    if roots is not None and not any(_contains(root, real) for root in roots):
        raise SourceNotAllowed(_outside(address.text, roots))
    return real


def _contains(root: str, real: bytes) -> bool:
    match = _URL.fullmatch(root)
    if match is not None and match[1].lower() != "file":
        return False
    top = os.path.realpath(decode(canonical(root))).rstrip(b"/")
    return real == top or real.startswith(top + b"/")


def _outside(text: str, roots: Sequence[str]) -> str:
    allowed = ", ".join(map(redacted, roots)) if roots else "none"
    return (
        f"{redacted(text)} is outside what workers may read ({allowed}): "
        "add its folder or URL prefix to CARS_SOURCE_ROOTS of the workers and the client"
    )


def local_root(address: Address, real: bytes) -> int:
    """Return a descriptor of the folder at `real`, reached without following a link: what was permitted is what is
    opened.
    """
    descriptor = os.open("/", _STEP)
    try:
        for name in real.split(b"/"):
            if name:
                above = descriptor
                descriptor = os.open(name, _STEP, dir_fd=above)
                os.close(above)
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    except NotADirectoryError as exc:
        raise SourceMissing(f"{address.text} is not a folder: give the folder that has the images") from exc
    except FileNotFoundError as exc:
        advice = "check the path, and that workers see the same disk"
        raise SourceMissing(f"{address.text} does not exist: {advice}") from exc
    except OSError as exc:
        raise SourceMissing(f"{address.text} cannot be opened: {exc.strerror}") from exc
    finally:
        os.close(descriptor)


_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
