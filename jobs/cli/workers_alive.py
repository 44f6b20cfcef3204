"""Whether anybody would do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["anyone_classifies", "nobody_works"]


def anyone_classifies(client: Client) -> bool:
    """Whether a worker is alive that takes images, and is not broken."""
    return any(_is_sound(worker) for worker in _classifiers(client))


def nobody_works(client: Client) -> str | None:
    """What to tell the person when no worker takes images."""
    found = _classifiers(client)
    if any(map(_is_sound, found)):
        return None
    if found:
        return f"every worker is broken; one says: {found[0]['state'].removeprefix('broken: ')}; see: cars workers"
    return "no worker is alive; start one: cars worker"


def _classifiers(client: Client) -> list[dict[str, Any]]:
    return [worker for worker in client.workers() if worker["alive"] and "classify" in worker["queues"]]


def _is_sound(worker: dict[str, Any]) -> bool:
    return not worker["state"].startswith("broken")
