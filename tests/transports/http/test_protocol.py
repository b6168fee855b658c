"""Timeouts and size limits of connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from entitlements.service.serve import server_of
from entitlements.settings import load
from entitlements.transports.http import protocol
from entitlements.transports.http.protocol import HEAD_MAX, BoundedProtocol
from tests.waiting import PATIENCE_S, until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def hello(_scope: Scope, receive: Receive, send: Send) -> None:
    """Respond once the whole body has arrived."""
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.disconnect":
        return
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def send_on(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Send repeatedly until the connection is reset."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Respond before the body has arrived."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Streams]:
    """Connect to a server of the application."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    server.close()
    await until(lambda: not state.connections)


@pytest.fixture
async def streams(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streams]:
    """A connection to a server that waits 0.1 s for a request head and 0.2 s for a body."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    monkeypatch.setattr(protocol, "BODY_S", 0.2)
    async with serving(hello) as connected:
        yield connected


async def all_of(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes the connection."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_head_that_does_not_arrive_closes_the_connection(
    streams: Streams, sent: bytes
) -> None:
    reader, writer = streams

    writer.write(sent)

    assert await all_of(reader) == b""


async def test_a_second_head_has_the_same_timeout(streams: Streams) -> None:
    reader, writer = streams

    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /")

    answers = await all_of(reader)
    assert answers.count(b"hello") == 1


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100]
)
async def test_a_head_that_never_ends_is_refused(streams: Streams, start: bytes) -> None:
    reader, writer = streams

    writer.write(start + b"x" * HEAD_MAX)

    assert b" 400 " in (await all_of(reader)).partition(b"\r\n")[0]


@pytest.mark.parametrize("earlier", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_a_complete_head_that_is_too_long_is_refused(
    streams: Streams, earlier: bytes
) -> None:
    reader, writer = streams
    if earlier:
        writer.write(earlier)
        await reader.readuntil(b"hello")

    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_MAX + b"\r\n\r\n")

    assert b" 400 " in (await all_of(reader)).partition(b"\r\n")[0]


async def test_a_response_reaches_a_client_that_is_still_sending() -> None:
    async with serving(refuse) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(50):
            writer.write(b"x" * 100_000)
            await writer.drain()

        assert (await all_of(reader)).startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_never_stops_sending_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "LINGER_MAX", 1_000_000)
    async with serving(refuse) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n")

        with pytest.raises(ConnectionError):
            await send_on(writer, b"x" * 100_000)


async def test_a_client_that_only_waits_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", 0.05)
    async with serving(refuse) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        assert (await all_of(reader)).startswith(b"HTTP/1.1 413 ")

        with pytest.raises(ConnectionError):
            await send_on(writer, b"x")


async def test_long_bodies_and_many_requests_do_not_count_as_a_long_head(streams: Streams) -> None:
    reader, writer = streams
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    body = b"x" * 2 * HEAD_MAX

    for _ in range(3):
        writer.write(head % len(body) + body + b"GET /")
        await writer.drain()
        writer.write(b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    assert (await all_of(reader)).count(b"hello") == 7


async def test_a_body_that_arrives_too_slowly_closes_the_connection(streams: Streams) -> None:
    reader, writer = streams
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    answer = asyncio.create_task(all_of(reader))

    while not answer.done():
        writer.write(b"x")
        await asyncio.sleep(0.02)

    assert await answer == b""


async def test_idle_connections_are_kept_longer_than_by_clients_and_load_balancers() -> None:
    server = server_of(hello, load())

    assert server.config.timeout_keep_alive > 60
    assert server.config.http is BoundedProtocol


async def test_a_connection_can_outlive_the_timeout_of_a_body(streams: Streams) -> None:
    reader, writer = streams
    loop = asyncio.get_running_loop()
    until = loop.time() + 3 * protocol.BODY_S

    asked = 0
    while loop.time() < until:
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(0.02)
        writer.write(b"x")
        await reader.readuntil(b"hello")
        asked += 1

    assert asked > 1
