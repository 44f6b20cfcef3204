"""Whether anybody would do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.obstacles import NO_WORKER, anyone_classifies

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["anyone_classifies", "nobody_works"]


def nobody_works(client: Client) -> str | None:
    """What to tell the person when no worker that takes images is alive."""
    return None if anyone_classifies(client) else NO_WORKER
