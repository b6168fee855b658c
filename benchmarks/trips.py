"""Round trips to PostgreSQL, counted by a proxy in front of it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from tests.proxy import Proxy


class Counter:
    """A database at ``url``, through a proxy that counts."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.url = url
        self._proxy = proxy

        self.turns = 0
        """Bursts from a client that the server has answered, in the latest lap."""

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        """Count while the block runs."""
        before = self._proxy.turns
        yield
        self.turns = self._proxy.turns - before


@contextlib.contextmanager
def counting(url: str) -> Iterator[Counter]:
    """Run a proxy in a thread. It costs time, so only turns are measured through it."""
    where = urlsplit(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = Proxy(where.port or 5432)
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        user = where.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{proxy.port}" if user else f"127.0.0.1:{proxy.port}"
        yield Counter(urlunsplit(where._replace(netloc=netloc)), proxy)
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
