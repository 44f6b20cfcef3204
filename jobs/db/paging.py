"""Pages by key: the rows of a long listing in statements of limited size, each after the last key of the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["pages"]

R = TypeVar("R")
K = TypeVar("K")


def pages(
    fetch: Callable[[K | None, int], Sequence[R]], *, key: Callable[[R], K], size: int, limit: int | None = None
) -> Iterator[Sequence[R]]:
    """Yield pages of `size` rows until one is short, or until there are `limit` rows.

    `fetch` gets the key of the last row so far (None at first) and how many rows to return.
    """
    after: K | None = None
    left = limit
    while left is None or left > 0:
        wanted = size if left is None else min(size, left)
        rows = fetch(after, wanted)
        if rows:
            yield rows
        if len(rows) < wanted:
            return
        after = key(rows[-1])
        left = None if left is None else left - len(rows)
