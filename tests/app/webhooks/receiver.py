"""A receiver on loopback that records requests and sends configured responses."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.waiting import PATIENCE_S


@dataclass(frozen=True)
class Message:
    """One received request."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = msgspec.json.decode(self.body)
        return event

    def fits(self, secret: str) -> bool:
        """Return whether it is signed with the secret, computed from the specification alone."""
        key = b64decode(secret.split("_", 1)[1])
        head = f"{self.id}.{self.headers['webhook-timestamp']}.".encode()
        digest = hmac.new(key, head + self.body, hashlib.sha256).digest()
        return f"v1,{b64encode(digest).decode()}" in self.headers["webhook-signature"].split()


Answer = Callable[[Message], Awaitable[bytes] | bytes]


def status(code: int, *headers: str) -> bytes:
    """Return a response without a body."""
    lines = [f"HTTP/1.1 {code} Said", *headers, "content-length: 0", "", ""]
    return "\r\n".join(lines).encode()


@dataclass
class Receiver:
    """A receiver that responds with 200 unless ``answer`` is set."""

    answer: Answer = field(default=lambda _: status(200))
    tls: ssl.SSLContext | None = None
    got: list[Message] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()

    async def has(self, messages: int) -> None:
        """Wait until ``messages`` requests have arrived."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.got) < messages:
                self._arrived.clear()
                await self._arrived.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = dict(one.lower().split(": ", 1)[:1] + one.split(": ", 1)[1:] for one in lines)
            body = await reader.readexactly(int(headers["content-length"]))
            message = Message(line, headers, body)
            self.got.append(message)
            self._arrived.set()
            answer = self.answer(message)
            writer.write(answer if isinstance(answer, bytes) else await answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
