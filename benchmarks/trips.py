"""Round trips to PostgreSQL, counted by a proxy in front of it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from tests.proxy import Proxy

READY: Final = b"Z"
LENGTH: Final = slice(1, 5)
"""Of a message, after its kind: the length of itself and of the rest."""


class Counter:
    """A database at ``url``, through a proxy that counts."""

    def __init__(self) -> None:
        self.url = ""
        self.turns = 0
        """Requests that the server has answered, in the latest lap."""
        self._answered = 0

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        """Count while the block runs."""
        before = self._answered
        yield
        self.turns = self._answered - before

    def connection(self) -> Callable[[bytes], None]:
        """Return an observer of a new connection's replies.

        A request ends with the message ReadyForQuery. Bursts are not counted: rows that are copied
        are sent without waiting for the server, whose answer to COPY can come before them or after.
        """
        waiting = bytearray()
        is_new = True

        def observe(data: bytes) -> None:
            nonlocal is_new
            waiting.extend(data)
            if is_new and waiting.startswith((b"N", b"S")):
                del waiting[:1]  # the answer to the question for TLS is a single byte
            is_new = False
            while len(waiting) > LENGTH.stop:
                end = 1 + int.from_bytes(waiting[LENGTH])
                if len(waiting) < end:
                    return
                self._answered += waiting[:1] == READY
                del waiting[:end]

        return observe


@contextlib.contextmanager
def counting(url: str) -> Iterator[Counter]:
    """Run a proxy in a thread. It costs time, so only turns are measured through it."""
    where = urlsplit(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    counter = Counter()
    proxy = Proxy(where.port or 5432, counter.connection)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        user = where.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{proxy.port}" if user else f"127.0.0.1:{proxy.port}"
        counter.url = urlunsplit(where._replace(netloc=netloc))
        yield counter
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
