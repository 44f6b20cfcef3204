"""What tests of incremental runs share: which files are opened, and what a job says of each path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from jobs import Client, Job

__all__ = ["opened_under", "outcome", "tags"]

_watched: dict[bytes, list[str]] = {}


def _note(event: str, arguments: tuple[object, ...]) -> None:
    """Write down which files are opened: an audit hook hears of every `open` of this process, and stays for good."""
    if event == "open" and _watched and isinstance(arguments[0], str | bytes):
        name = arguments[0].encode() if isinstance(arguments[0], str) else arguments[0]
        for ending, found in _watched.items():
            if name.endswith(ending):
                found.append(name.decode(errors="replace"))


_hooked: list[bool] = []


@contextmanager
def opened_under(ending: str) -> Iterator[list[str]]:
    """Yield the list of the files whose names end so that this process opens meanwhile."""
    if not _hooked:
        sys.addaudithook(_note)
        _hooked.append(True)
    found = _watched.setdefault(ending.encode(), [])
    try:
        yield found
    finally:
        del _watched[ending.encode()]


def outcome(client: Client, job: Job | str) -> dict[str, tuple[object, ...]]:
    """Return what a job says of each path, but for times."""
    return {
        result.path: (result.status, result.label, result.content_hash, result.error) for result in client.results(job)
    }


def tags(client: Client) -> dict[str, list[tuple[object, ...]]]:
    """Return what the views for readers with SQL show: images and listings of the current run of each source."""
    orders = {"image_tags": "job_source, job, path", "listing_tags": "job_source, job, listing"}
    with client.database.read() as connection:
        return {
            view: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {view} ORDER BY {order}"))]
            for view, order in orders.items()
        }
