"""Bounds on what is sent to the console: how large it is, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["BoundedBodies"]


class _Refused(Exception):
    """What was sent is too large or too slow."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text


class BoundedBodies:
    """Cut off a request whose body is larger than `most_bytes(path)` says, or takes longer than `seconds`."""

    def __init__(self, app: ASGIApp, *, most_bytes: Callable[[str], int], seconds: float) -> None:
        self._app, self._most_bytes, self._seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most_bytes(scope["path"])
        said = Headers(scope=scope).get("content-length", "0")
        begun = False

        async def bounded_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if not said.isdecimal() or int(said) > most:
                raise _too_large(most)
            await self._app(scope, self._bounded(receive, most), bounded_send)
        except _Refused as exc:
            if begun:
                raise
            await PlainTextResponse(exc.text, exc.status, headers={"connection": "close"})(scope, receive, send)

    def _bounded(self, receive: Receive, most: int) -> Receive:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:  # what follows is that the client has gone, which may take as long as it likes
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - loop.time())
            except TimeoutError as exc:
                raise _Refused(408, f"what is sent must have come within {self._seconds:g} s\n") from exc
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > most:
                raise _too_large(most)
            return message

        return bounded


def _too_large(most: int) -> _Refused:
    return _Refused(413, f"at most {most / 2**20:.3g} MiB can be sent here (CARS_MAX_FILE_MB)\n")
