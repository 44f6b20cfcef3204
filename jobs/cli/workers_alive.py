"""Whether anybody would do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["anyone_classifies", "nobody_works"]


def anyone_classifies(client: Client) -> bool:
    """Whether a worker is alive that takes images."""
    return any(worker["alive"] and "classify" in worker["queues"] for worker in client.workers())


def nobody_works(client: Client) -> str | None:
    """What to tell the person when no worker that takes images is alive."""
    return None if anyone_classifies(client) else "no worker is alive; start one: cars worker"
