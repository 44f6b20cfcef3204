"""Pages of results as columns: a million rows go into a file without an object for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.records import iso
from jobs.states import ImageErrorCode, ImageStatus

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Columns", "Top", "ahead", "columns", "each_value"]

V = TypeVar("V", bound=Hashable)
T = TypeVar("T")

_AS_THEY_ARE = ("path", "listing", "status", "label", "make", "model", "body", "year", "confidence", "decision",
                "model_version", "correction")  # fmt: skip
_DISTINCT = ("path", "confidence", "content_hash")
_INFINITY = 0x7C00  # the bits of float16: up to these, numbers have the order of their bits


@dataclass(frozen=True, slots=True)
class Top:
    """The most probable labels of each row of a page, the best first: row `i` has those from `starts[i]` to
    `starts[i + 1]`.
    """

    starts: np.ndarray
    """Shape (rows + 1), int32."""
    chosen: np.ndarray
    """Shape (labels in all), int32: which of `names` they are."""
    confidences: np.ndarray
    """Shape (labels in all), float16."""
    names: Sequence[str]
    """The classes of the versions of the page."""

    def rows(self, entries: Sequence[T]) -> Iterator[Sequence[T]]:
        """Yield for each row its part of a sequence that has an entry per label."""
        starts = self.starts.tolist()
        return (entries[start:end] for start, end in pairwise(starts))

    def lists(self) -> list[list[dict[str, Any]]]:
        """Return for each row its labels as `Result.top` has them."""
        chosen, confidences = self.chosen.tolist(), self.confidences.tolist()
        entries = [
            {"label": self.names[at], "confidence": value} for at, value in zip(chosen, confidences, strict=True)
        ]
        return list(map(list, self.rows(entries)))


@dataclass(frozen=True, slots=True)
class Columns:
    """A page of results: the columns of `COLUMNS`, each with one value per row, and `top` apart."""

    rows: int
    values: dict[str, Sequence[Any]]
    """All but `top`; `finished_at` as ISO 8601 text."""
    moments: Sequence[datetime | None]
    """`finished_at` as the database has it."""
    top: Top

    def cells(self, function: Callable[[Any], T]) -> dict[str, Sequence[T]]:
        """Return what a function makes of each value; it is called once for those of a column that are equal."""
        return {
            name: list(map(function, values)) if name in _DISTINCT else each_value(function, values)
            for name, values in self.values.items()
        }


def columns(
    given: Mapping[str, Sequence[Any]], *, classes: Callable[[int], Sequence[str]], top_k: int | None = None
) -> Columns:
    """Turn what `queries.results.columns` returns into columns that hold what `Result.from_row` makes of each row.

    `classes` returns the classes of a version, by its id, in the card's order.
    """
    values: dict[str, Sequence[Any]] = {name: given[name] for name in _AS_THEY_ARE}
    rows, moments = len(given["path"]), given["finished_at"]
    failures = [at for at, status in enumerate(values["status"]) if status == ImageStatus.FAILED]
    codes: list[str | None] = [None] * rows
    messages: list[str | None] = [None] * rows
    for at in failures:
        codes[at] = ImageErrorCode(given["error_code"][at]).value
        messages[at] = given["error_message"][at] or ""
    values |= {
        "job": each_value(str, given["job_id"]),
        "content_hash": [None if digest is None else digest.hex() for digest in given["content_hash"]],
        "finished_at": each_value(iso, moments),
        "error_code": codes,
        "error_message": messages,
    }
    predicted = (given[name] for name in ("version_id", "top_k", "probabilities"))
    return Columns(rows, values, moments, _top(*predicted, classes=classes, top_k=top_k))


def each_value(function: Callable[[V], T], values: Sequence[V]) -> list[T]:
    """Return what a function makes of each value; it is called once for those that are equal."""
    found = {value: function(value) for value in set(values)}
    return list(map(found.__getitem__, values)) if len(found) != 1 else list(found.values()) * len(values)


def ahead(pages: Iterable[T]) -> Iterator[T]:
    """Yield pages, each of which was fetched while its reader worked at the one before.

    The first is fetched by the caller's thread, so that a long wait for it can be interrupted.
    """
    source, end = iter(pages), object()
    page = next(source, end)
    with ThreadPoolExecutor(1, thread_name_prefix="pages") as pool:
        try:
            while page is not end:
                following = pool.submit(next, source, end)
                yield page  # type: ignore[misc]
                page = following.result()
        finally:
            if close := getattr(source, "close", None):
                pool.submit(close).result()


def _top(
    versions: Sequence[int],
    asked_lengths: Sequence[int],
    probabilities: Sequence[bytes | None],
    *,
    classes: Callable[[int], Sequence[str]],
    top_k: int | None,
) -> Top:
    import numpy as np  # slow to load, and a client that writes no file does not need it

    alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for at, (version, asked, found) in enumerate(zip(versions, asked_lengths, probabilities, strict=True)):
        if found:
            alike[version, top_k or asked, len(found)].append(at)
    lengths = np.zeros(len(probabilities), np.int32)
    for (_, k, size), rows in alike.items():
        lengths[rows] = min(k, size // 2)
    starts = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    chosen, confidences = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float16)
    names: list[str] = []
    for (version, k, size), rows in alike.items():
        joined = b"".join([probabilities[at] or b"" for at in rows])
        values = np.frombuffer(joined, "<f2").reshape(len(rows), size // 2)
        best = _best(values, k)
        places = starts[rows][:, None] + np.arange(best.shape[1])
        chosen[places] = best + len(names)
        confidences[places] = np.take_along_axis(values, best, axis=1)
        names += classes(version)
    return Top(starts, chosen, confidences, names)


def _best(values: np.ndarray, k: int) -> np.ndarray:
    """Return which are the `k` greatest of each row of float16, the greatest first, equal ones in their order."""
    import numpy as np

    bits, width = values.view("<u2"), values.shape[1]
    if (bits > _INFINITY).any():  # negative numbers and NaN
        return np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :k]
    # A number and its place, counted from the end, as one whole number: no two are equal.
    keys = bits.astype(np.uint32) << 16 | np.arange(width, dtype=np.uint32)[::-1]
    if k < width:
        keys = np.partition(keys, width - k, axis=1)[:, width - k :]
    best: np.ndarray = width - 1 - (np.sort(keys, axis=1)[:, ::-1] & 0xFFFF).astype(np.int32)
    return best
