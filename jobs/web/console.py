"""What every page needs: the client, the rules of access, templates, and how forms are read."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from jobs.errors import SettingsInvalid
from jobs.report.page import environment

if TYPE_CHECKING:
    from starlette.requests import Request

    from jobs.client import Client
    from jobs.metrics import Exposition
    from jobs.preview import Preview
    from jobs.web.access import Access
    from jobs.web.recent import Recent
    from jobs.web.thumbnails import Thumbnails

__all__ = ["Console", "Form", "console_of", "follows", "fraction", "page", "posting", "redirect", "whole_number"]


@dataclass(frozen=True)
class Console:
    """What one process of the console has once."""

    client: Client
    access: Access
    thumbnails: Thumbnails
    demo: Preview
    exposition: Exposition
    recent: Recent


def console_of(request: Request) -> Console:
    """Return the console that a request is for."""
    return cast("Console", request.app.state.console)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; every template may use `form_token`, `signs_in` and `where`, the first part of the path."""
    console = console_of(request)
    session = request.scope.get("cars_session", "")
    made = (
        environment("jobs.web")
        .get_template(template)
        .render(
            form_token=console.access.form_token(session),
            signs_in=console.access.signs_in,
            signed_in=bool(session),
            where=request.url.path.split("/")[1],
            **values,
        )
    )
    return HTMLResponse(made.encode("utf-8", "replace"), status)


def follows(request: Request) -> bool:
    """Return whether a page that is open asks for its changing part again, which then is all that it gets."""
    return "hx-request" in request.headers


def redirect(path: str) -> RedirectResponse:
    """Return the answer to a form that has done its work: show this page."""
    return RedirectResponse(path, 303)


class Form:
    """The fields of a form, and the file in it."""

    def __init__(self, fields: Mapping[str, str], file: bytes | None) -> None:
        self._fields, self.file = fields, file

    def text(self, name: str) -> str | None:
        """Return what was written into a field; None where it is empty."""
        return self._fields.get(name, "").strip() or None


def posting(act: Callable[[Request, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of what a form does, in a thread; a form that this session has not been shown is refused."""

    async def endpoint(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=40) as data:
            session = request.scope.get("cars_session", "")
            token = data.get("form_token")
            if not isinstance(token, str) or not console_of(request).access.is_form_token(token, session):
                raise HTTPException(403, "this form is out of date, or another site's: load its page again")
            form = Form(_texts(data), await _file(data))
        return await run_in_threadpool(act, request, form)

    return endpoint


def _texts(data: FormData) -> dict[str, str]:
    return {name: value for name, value in data.multi_items() if isinstance(value, str)}


async def _file(data: FormData) -> bytes | None:
    for _, value in data.multi_items():
        if isinstance(value, UploadFile) and value.filename:
            return await value.read()
    return None


def whole_number(text: str | None, *, default: int, most: int) -> int:
    """Return a number from 1 to `most` of a query or a form; `default` for what is none."""
    return min(most, max(1, int(text))) if text and re.fullmatch(r"[0-9]{1,9}", text) else default


def fraction(text: str | None) -> float | None:
    """Return a confidence that was written in per cent. Raises SettingsInvalid for what is none."""
    if text is None:
        return None
    try:
        return min(100.0, max(0.0, float(text))) / 100
    except ValueError as exc:
        raise SettingsInvalid(f"a confidence is a number from 0 to 100, not {text!r}") from exc
