"""A TCP proxy with faults on demand."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Self

Observer = Callable[[bytes], None]


class Replies(Enum):
    """How the proxy treats the server's replies."""

    PASSED_ON = auto()
    HELD_BACK = auto()
    DROPPED = auto()


class Proxy:
    """Listens on a loopback port and forwards to ``target``, the port of a real server.

    ``observe`` returns an observer of the replies of a new connection.
    """

    def __init__(self, target: int, observe: Callable[[], Observer] | None = None) -> None:
        self.replies = Replies.PASSED_ON
        self.port = 0
        self.requests = 0
        """Reads from clients that were forwarded."""
        self._target = target
        self._observe = observe or _not_observed
        self._server: asyncio.Server | None = None
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    def release(self) -> None:
        """Forward the replies that were held back, and all later ones."""
        self.replies = Replies.PASSED_ON
        held, self._held = self._held, []
        for writer, data in held:
            writer.write(data)

    async def _connected(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {to_client, to_server}
        for work in (
            self._requests(from_client, to_server),
            self._answers(from_server, to_client, self._observe()),
        ):
            task = asyncio.create_task(work)
            self._tasks.add(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.requests += 1
                writer.write(data)
        writer.close()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observer: Observer
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                observer(data)
                match self.replies:
                    case Replies.PASSED_ON:
                        writer.write(data)
                    case Replies.HELD_BACK:
                        self._held.append((writer, data))
                    case Replies.DROPPED:
                        pass
        writer.close()


def _not_observed() -> Observer:
    return lambda _data: None
