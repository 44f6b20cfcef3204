"""Connections to the console that do not say what they want."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from jobs.web.connections import Connection

PATIENCE = 30
REQUEST = b"POST / HTTP/1.1\r\nhost: cars\r\ncontent-length: 4\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(echo, http=Connection, lifespan="off", log_level="warning", timeout_keep_alive=PATIENCE)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        yield int(listener.getsockname()[1])
        server.should_exit = server.force_exit = True
        await task


async def is_closed(port: int, said: bytes) -> None:
    """Say something, and wait until the other side has ended the connection without an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


@pytest.mark.parametrize("said", [b"", b"G", b"GET / HTTP/1.1\r\nhost: ca"])
def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr("jobs.web.connections.HEADER_SECONDS", 0.1)

    async def ask() -> None:
        async with served() as port:
            await is_closed(port, said)

    asyncio.run(ask())


def test_a_request_has_its_own_time_and_a_second_one_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.web.connections.HEADER_SECONDS", 0.1)

    async def ask() -> None:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST)
            await is_closed(port, b"")  # so the time for headers has passed
            writer.write(b"body")
            assert (await asyncio.wait_for(reader.readuntil(b"body"), PATIENCE)).startswith(b"HTTP/1.1 200")
            await is_closed(port, b"")
            writer.write(REQUEST + b"more")
            assert (await asyncio.wait_for(reader.readuntil(b"more"), PATIENCE)).startswith(b"HTTP/1.1 200")
            writer.write(REQUEST[:10])
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
            writer.close()

    asyncio.run(ask())
