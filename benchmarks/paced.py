"""An open-loop client: requests are sent by the clock, even if earlier ones are unanswered."""

import asyncio
import gc
import threading
from collections import deque
from itertools import count
from math import inf
from random import Random
from statistics import quantiles
from typing import cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.requests import YES, refuse_lacking, request
from benchmarks.wrk import CONNECTIONS, Sample

LONGER = 3
"""The factor by which paced loads are longer: one disk stall would dominate a short round."""

ANSWERED_WITHIN_S = 60
"""Counted from the due time of the last request."""

_runs = count(1)


def paced_load(
    url: str,
    kind: str,
    *,
    who: str,
    rate: float,
    seconds: float,
    token: str,
    until: threading.Event | None = None,
) -> Sample:
    """Send ``rate`` requests a second for `LONGER` times ``seconds``, or ``until`` an event.

    Latency counts from the instant a request was due, so that a stall delays all that follow it.
    A response that denies the request fails the benchmark.
    """
    refuse_lacking(url, kind, who=who, token=token)
    gc.collect()
    gc.disable()
    try:
        client = _Client(kind, who, token)
        return uvloop.run(client.run(url, rate, seconds * LONGER, until))
    finally:
        gc.enable()


class _Client:
    """The due requests, the idle connections, and the response times."""

    def __init__(self, kind: str, who: str, token: str) -> None:
        self._kind = kind
        self._who = who
        self._token = token
        self._random = Random(1)
        self._run = next(_runs)
        self.yes = YES[kind]
        self.due: deque[float] = deque()
        self.idle: deque[_Connection] = deque()
        self.waits_s: list[float] = []
        self.failed: list[bytes] = []
        self.sent = 0

    async def run(
        self, url: str, rate: float, seconds: float, until: threading.Event | None
    ) -> Sample:
        loop = asyncio.get_running_loop()
        where = urlsplit(url)
        for _ in range(CONNECTIONS):
            await loop.create_connection(
                lambda: _Connection(self), str(where.hostname), where.port or 80
            )
        started = loop.time()
        total = inf if until else int(rate * seconds)
        planned = 0
        while planned < total:
            now = loop.time()
            while planned < total and (at := started + planned / rate) <= now:
                self.due.append(at)
                planned += 1
            self.send_due()
            await asyncio.sleep(0.0005)
            if until and until.is_set():
                total = planned
        ended = loop.time()
        while len(self.waits_s) + len(self.failed) < total:
            if loop.time() > ended + ANSWERED_WITHIN_S:
                raise RuntimeError(f"{total - len(self.waits_s)} of {total} were never answered")
            await asyncio.sleep(0.01)
        if self.failed:
            raise RuntimeError(f"{len(self.failed)} refused, the first with {self.failed[0]!r}")
        for connection in self.idle:
            connection.close()
        percentiles = quantiles(self.waits_s, n=100)
        return Sample(
            rate=total / (loop.time() - started),
            operations=total,
            p50_ms=percentiles[49] * 1000,
            p99_ms=percentiles[98] * 1000,
        )

    def send_due(self) -> None:
        while self.due and self.idle:
            self.sent += 1
            name = f"paced{self._run}-{self.sent}"
            whole = request(
                self._kind, who=self._who, name=name, token=self._token, random=self._random
            )
            # Round robin: a server closes a connection that is idle for some seconds.
            self.idle.popleft().send(self.due.popleft(), whole)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._due_at = 0.0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._client.idle.append(self)

    def send(self, due_at: float, whole: bytes) -> None:
        self._due_at = due_at
        self._answer = b""
        self._transport.write(whole)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        client = self._client
        if client.yes in body:
            client.waits_s.append(asyncio.get_running_loop().time() - self._due_at)
        else:
            client.failed.append(self._answer)
        client.idle.append(self)
        client.send_due()


def _content_length(head: bytes) -> int:
    line = head.lower().partition(b"content-length:")[2]
    return int(line.partition(b"\r\n")[0])
