"""Whether anybody would do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.obstacles import anyone_classifies, no_worker

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["anyone_classifies", "nobody_works"]


def nobody_works(client: Client) -> str | None:
    """What to tell the person when no worker takes images."""
    return no_worker(client)
