"""The server's protocol with limits on request size and time, which the server does not have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX: Final = 65_536
"""Bytes of a request line and headers."""
HEAD_S: Final = 10.0
BODY_S: Final = 30.0
LINGER_S: Final = 2.0
LINGER_MAX: Final = 8_388_608
"""Bytes that are read and discarded after the last response."""


class HeadTooLong(Exception):
    """Raised when the head has more than `HEAD_MAX` bytes; the server responds with 400."""


class BoundedProtocol(HttpToolsProtocol):
    """A protocol that closes connections with requests that are too large or too slow.

    The head must have at most `HEAD_MAX` bytes and arrive within `HEAD_S` to twice that, also on a
    new connection without any data. The body can then take `BODY_S` to `BODY_S` + `HEAD_S`, whether
    it is read or not.

    If the connection is closed while a request is still arriving, the rest is read for a while, so
    that the client gets the response instead of a reset.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._line = LingeringTransport(transport, self._is_receiving)
        self.transport = self._line  # type: ignore[assignment]
        self._piece = 0
        self._head_at: float | None = self.loop.time()
        self._head_size = 0
        self._head_most = 0
        self._body_at: float | None = None
        self._watching = self.loop.call_later(HEAD_S, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watching.cancel()
        self._line.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._line.is_closing():
            self._line.drop(data)
            return
        self._piece = len(data)
        self._head_size += len(data)
        self._head_most += len(data)
        super().data_received(data)
        # The parser does not report an unfinished header, so bytes are counted as they arrive.
        is_head = self._head_at is not None
        if is_head and self._head_size > HEAD_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_at is None:
            # The position of the head in the received data is unknown.
            self._head_at, self._head_size = self.loop.time(), 0
            self._head_most = self._piece

    def on_headers_complete(self) -> None:
        if self._head_most > HEAD_MAX and self._head_length() > HEAD_MAX:
            raise HeadTooLong
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
            self._line.cut()
            return
        self._watching = self.loop.call_later(HEAD_S, self._watch)

    def _is_receiving(self) -> bool:
        """Return whether a request has begun and is incomplete."""
        has_head = self._head_at is not None and self._head_size > 0
        return has_head or self._body_at is not None

    def _head_length(self) -> int:
        """Return the size of the parsed head in bytes, without optional white space."""
        method = self.parser.get_method()
        line = len(method) + len(self.url) + len("  HTTP/1.1\r\n")
        return line + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)


class LingeringTransport:
    """A connection that closes after its client has stopped sending, or after `LINGER_S` or
    `LINGER_MAX`. Closing it with unread bytes would reset it, and the response would be lost.
    """

    def __init__(self, transport: asyncio.Transport, is_receiving: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_receiving = is_receiving
        self._lingering: asyncio.TimerHandle | None = None
        self._dropped = 0
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        if self._lingering is None:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._lingering is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close it now, or after the arriving request has been read and discarded."""
        if self.is_closing():
            return
        if not self._is_receiving():
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._lingering = loop.call_later(LINGER_S, self.cut)
        self._transport.write_eof()
        self._transport.resume_reading()

    def cut(self) -> None:
        """Close it immediately."""
        self._transport.close()

    def drop(self, data: bytes) -> None:
        """Discard data after the last response, and close the connection above the limit."""
        self._dropped += len(data)
        if self._dropped > LINGER_MAX:
            self.cut()

    def lost(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
