"""Which release this process runs."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

__all__ = ["release"]


@cache
def release() -> str:
    """Return the version of the installed package; `source` for a checkout that is not installed."""
    try:
        return version("car-classifier")
    except PackageNotFoundError:
        return "source"
