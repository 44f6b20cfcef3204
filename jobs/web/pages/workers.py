"""The workers: what `cars workers` shows."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.web.console import console_of, page

__all__ = ["ROUTES"]


def show(request: Request) -> Response:
    """Show the workers of the last week."""
    return page(request, "workers.html", workers=console_of(request).client.workers())


ROUTES = (Route("/workers", show),)
