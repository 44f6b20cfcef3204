"""The demo: one image, classified by the pipeline of jobs; nothing is stored."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.errors import VersionNotFound
from jobs.states import ImageFailure
from jobs.web.console import Console, Form, console_of, page, posting

if TYPE_CHECKING:
    from jobs.records import Json

__all__ = ["ROUTES"]

TOP = 5
SIZE = 480  # pixels of the image that is shown beside its label


def show(request: Request) -> Response:
    """Ask for an image."""
    return page(request, "demo.html", **_about(console_of(request)), found=None, failure=None, image=None)


def classify(request: Request, form: Form) -> Response:
    """Say what the image shows, or why that cannot be said."""
    console = console_of(request)
    about = _about(console)
    if not form.file:
        return page(request, "demo.html", status=400, **about, found=None, failure="Choose an image first.", image=None)
    limit = console.client.settings.max_file_bytes
    if len(form.file) > limit:
        failure = f"The file is larger than {limit / 2**20:.3g} MiB (CARS_MAX_FILE_MB)."
        return page(request, "demo.html", status=413, **about, found=None, failure=failure, image=None)
    found: Json | ImageFailure = console.demo.classify(form.file, version="production", top_k=TOP)
    if isinstance(found, ImageFailure):
        failure = f"{found.code}: {found.message}"
        return page(request, "demo.html", status=422, **about, found=None, failure=failure, image=None)
    small = console.demo.thumbnail(form.file, size=SIZE)
    image = f"data:image/jpeg;base64,{b64encode(small).decode()}" if isinstance(small, bytes) else None
    return page(request, "demo.html", **about, found=found, failure=None, image=image)


def _about(console: Console) -> dict[str, Any]:
    """What the version in production can know."""
    try:
        card = console.client.model_card()
    except VersionNotFound:
        return {"classes": 0, "newest": None, "version": None}
    years = [int(word) for name in card["classes"] if len(word := name.rpartition(" ")[2]) == 4 and word.isdecimal()]
    return {"classes": len(card["classes"]), "newest": max(years, default=None), "version": card["name"]}


ROUTES = (Route("/", show, methods=["GET"]), Route("/", posting(classify), methods=["POST"]))
