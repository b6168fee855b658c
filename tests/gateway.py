"""A reverse proxy that speaks HTTP, with the habits of real ones."""

import asyncio
import gzip
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self


class Answer(NamedTuple):
    """A response of the service, or of the proxy in its place."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def with_headers(self, *headers: tuple[str, str]) -> "Answer":
        """Return the response with these headers added or replaced."""
        names = {name.lower() for name, _ in headers}
        kept = [header for header in self.headers if header[0].lower() not in names]
        return self._replace(headers=kept + list(headers))

    def sent(self) -> bytes:
        """Return one HTTP/1.1 response, with its length unless it is chunked."""
        is_chunked = any(name.lower() == "transfer-encoding" for name, _ in self.headers)
        length = [] if is_chunked else [("content-length", str(len(self.body)))]
        kept = [header for header in self.headers if header[0].lower() != "content-length"]
        lines = [f"HTTP/1.1 {self.status} -"] + [
            f"{name}: {value}" for name, value in kept + length
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


Habit = Callable[[Answer], bytes]
"""Returns the bytes that the client gets for a response."""


def untouched(answer: Answer) -> bytes:
    return answer.sent()


def with_parameters(answer: Answer) -> bytes:
    kind = dict(answer.headers)["content-type"]
    return answer.with_headers(("content-type", f"{kind}; Charset=UTF-8; profile=x")).sent()


def in_another_case(answer: Answer) -> bytes:
    headers = [(name.title(), value) for name, value in answer.headers]
    kind = dict(answer.headers)["content-type"].replace("json", "JSON").replace("app", "App")
    return answer._replace(headers=headers).with_headers(("Content-Type", kind)).sent()


def with_headers_of_its_own(answer: Answer) -> bytes:
    return answer.with_headers(
        ("Via", "1.1 edge"), ("X-Cache", "MISS"), ("Age", "0"), ("Server", "edge"),
        ("Set-Cookie", "route=7; Path=/"), ("Strict-Transport-Security", "max-age=1"),
        ("Alt-Svc", 'h3=":443"'),
    ).sent()  # fmt: skip


def in_chunks(answer: Answer) -> bytes:
    parts = [answer.body[at : at + 7] for at in range(0, len(answer.body), 7)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
    return answer._replace(body=body).with_headers(("transfer-encoding", "chunked")).sent()


def compressed(answer: Answer) -> bytes:
    packed = answer._replace(body=gzip.compress(answer.body))
    return packed.with_headers(("content-encoding", "gzip")).sent()


def after_early_hints(answer: Answer) -> bytes:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
    return b"HTTP/1.1 100 Continue\r\n\r\n" + hints + answer.sent()


def closing_the_connection(answer: Answer) -> bytes:
    return answer.with_headers(("connection", "close")).sent()


def page(status: int, *headers: tuple[str, str]) -> Habit:
    """Return an HTML page in place of the response."""
    body = f"<html><title>{status}</title><h1>{status}</h1></html>".encode()
    return lambda _: Answer(status, [("content-type", "text/html"), *headers], body).sent()


HABITS: tuple[Habit, ...] = (
    untouched,
    with_parameters,
    in_another_case,
    with_headers_of_its_own,
    in_chunks,
    compressed,
    after_early_hints,
    closing_the_connection,
)
"""The habits that leave the service's response intact."""


class Gateway:
    """Listens on a loopback port and forwards to ``target``, the port of a real service.

    ``habits`` apply to the next responses, one each; ``habit`` applies to all later ones.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.habit: Habit = untouched
        self.habits: list[Habit] = []
        self.requests = 0
        self._target = target
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                self.requests += 1
                answer = await self._asked(head, body)
                habit = self.habits.pop(0) if self.habits else self.habit
                sent = habit(answer)
                writer.write(sent)
                await writer.drain()
                if b"connection: close" in sent:
                    break
        writer.close()

    async def _asked(self, head: bytes, body: bytes) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1) + body)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = [(line.partition(": ")[0], line.partition(": ")[2]) for line in lines]
        kept = [header for header in headers if header[0].lower() != "connection"]
        return Answer(int(status.split()[1]), kept, body)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0
