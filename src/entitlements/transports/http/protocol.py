"""The server's protocol, with bounds of its own: the server would let a head grow for ever."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX: Final = 65_536
"""Bytes of a request line and headers; a little more where they come in large pieces."""
HEAD_S: Final = 10.0
BODY_S: Final = 30.0
KEEP_ALIVE_S: Final = 75
"""How long a connection without a request stays open: longer than clients and load balancers keep
theirs (httpx 5 s, many load balancers 60 s), so that no request meets a connection being closed.
"""


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose request's head is longer than `HEAD_MAX`, or not whole within
    `HEAD_S` to twice that; a connection on which nothing ever comes counts as such a head. The body
    may then take `BODY_S`, and up to `HEAD_S` more, be it read or not.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_at: float | None = self.loop.time()
        self._head_size = 0
        self._body_at: float | None = None
        self._watching = self.loop.call_later(HEAD_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watching.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        super().data_received(data)
        # The parser keeps an unfinished header to itself, so bytes are counted as they arrive.
        is_head = self._head_at is not None
        if is_head and self._head_size > HEAD_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_at is None:
            self._head_at, self._head_size = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        self._head_at, self._body_at = None, self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_at = None
        super().on_message_complete()

    def _watch(self) -> None:
        now = self.loop.time()
        head_is_late = self._head_at is not None and now - self._head_at >= HEAD_S
        body_is_late = self._body_at is not None and now - self._body_at >= BODY_S
        if head_is_late or body_is_late:
            self.transport.close()
            return
        self._watching = self.loop.call_later(HEAD_S, self._watch)
