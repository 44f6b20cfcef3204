"""Paths as text: any bytes a file name may have, written as valid UTF-8 and read back exactly."""

import re

__all__ = ["decode", "encode", "is_dotted", "resume_point"]

_DOTFILE = re.compile(rb"(?:\A|/)\.(?!\.?(?:/|\Z))")
_TO_WRITE = re.compile("[\\\\\0\udc80-\udcff]")
_WRITTEN = re.compile(r"\\(?:(\\)|x(00|[89a-f][0-9a-f]))?")


def encode(raw: bytes) -> str:
    r"""`raw` as text that every database and JSON takes.

    Bytes that are not valid UTF-8, and NUL, are written `\xff` (lower-case hex), a backslash is doubled; all else
    stays, line breaks too. `decode(encode(raw)) == raw` for any bytes.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
    else:
        if "\\" not in text and "\0" not in text:
            return text
    return _TO_WRITE.sub(_write, text)


def decode(text: str) -> bytes:
    """Return the bytes that `encode` wrote as `text`; ValueError for a text that it cannot have written."""
    raw = text.encode()
    if b"\\" not in raw:
        return raw
    return _WRITTEN.sub(_read, text).encode("utf-8", "surrogateescape")


def _write(match: re.Match[str]) -> str:
    character = match[0]
    return "\\\\" if character == "\\" else f"\\x{ord(character) & 0xFF:02x}"


def _read(match: re.Match[str]) -> str:
    backslash, digits = match.groups()
    if backslash:
        return "\\"
    if digits is None:
        raise ValueError(f"a lone backslash at character {match.start()}")
    byte = int(digits, 16)
    return chr(0xDC00 + byte) if byte else "\0"


def is_dotted(path: bytes) -> bool:
    """Return whether the file, or a folder on the way to it, is a dotfile; `.` and `..`, as keys may have them, are
    none.
    """
    return (path[:1] == b"." or b"/." in path) and _DOTFILE.search(path) is not None


def resume_point(after: bytes) -> tuple[bytes, bytes, bytes]:
    """(smallest key still to handle, folder to enter in the middle, where in it) for a scan of one folder.

    A key is a name, with a slash at its end for a folder; `after` is the last path that was handled, relative to the
    folder, or empty. A path that ends in a slash is a folder that could not be listed: it is not entered again.
    """
    name, slash, rest = after.partition(b"/")
    if not after or not slash:
        # No name has a NUL, and a key at most two at its end: this is past every key of the same name.
        return (name + b"\0\0\0" if name else b""), b"", b""
    folder = name + slash
    return (folder, folder, rest) if rest else (folder + b"\0", b"", b"")
