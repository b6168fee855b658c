"""What the server sends for one request, as the socket sees it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from entitlements.transports.http.one_write import OneWriteProtocol
from tests.servers import free_port

HEADERS = [(b"content-length", b"4")]


async def app(scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"body"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    number = free_port()
    config = uvicorn.Config(
        app, port=number, http=OneWriteProtocol, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it offers no event
        await asyncio.sleep(0.005)
    yield number
    server.should_exit = True
    await serving


async def answer(port: int, method: str, path: str) -> tuple[bytes, bytes]:
    """What came first, and what came after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(5):
        first = await reader.read(65_536)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest = await reader.read()
    writer.close()
    return first, rest


async def test_head_and_body_come_in_one_piece(port: int) -> None:
    first, rest = await answer(port, "GET", "/")

    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\nbody")
    assert rest.endswith(b"\r\n\r\nbody")


async def test_an_answer_without_a_body_is_not_held_back(port: int) -> None:
    first, rest = await answer(port, "HEAD", "/")

    assert first.endswith(b"\r\n\r\n")
    assert rest.endswith(b"\r\n\r\nbody")


async def test_a_head_does_not_wait_for_a_late_body(port: int) -> None:
    first, rest = await answer(port, "GET", "/slow")

    assert first.endswith(b"\r\n\r\n")
    assert rest.startswith(b"body")
