"""Text that cannot drive a terminal."""

from __future__ import annotations

import re

__all__ = ["safe"]

# Control and bidirectional characters: a file name must not be able to drive the terminal.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def safe(text: str) -> str:
    """Return the text with control characters as escapes."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
