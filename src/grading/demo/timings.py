"""Durations of requests, as the clients measure them."""

from time import perf_counter_ns
from typing import Final, TypeVar

from msgspec import Struct

from entitlements.api import Call
from entitlements.client import AsyncClient
from entitlements.contracts.http import (
    AccountRequest,
    AdjustRequest,
    BalanceQuery,
    BulkCheckRequest,
    BulkConsumeRequest,
    ConsumeRequest,
    SetRequest,
)

KINDS: Final[dict[type[Struct], str]] = {
    AccountRequest: "account",
    AdjustRequest: "adjust",
    SetRequest: "set",
    BulkCheckRequest: "check",
    BulkConsumeRequest: "model call",
    BalanceQuery: "balance",
}

T = TypeVar("T", bound=Struct)


class Timings:
    """When each request began and ended, in nanoseconds, by kind of request."""

    def __init__(self) -> None:
        self.by_kind: dict[str, list[tuple[int, int]]] = {}

    def add(self, kind: str, began: int, ended: int) -> None:
        self.by_kind.setdefault(kind, []).append((began, ended))


class TimedClient(AsyncClient):
    """A client that times its requests by kind; the kind of a consumption is its metric.

    Connections beyond the number of concurrent ``requests`` would slow all of them down.
    """

    def __init__(self, url: str, key: str, timings: Timings, *, requests: int) -> None:
        super().__init__(url, key=key, timeout_s=30, connections_max=requests)
        self._timings = timings

    async def ask(self, call: Call[T]) -> T:
        began = perf_counter_ns()
        answer = await super().ask(call)
        ended = perf_counter_ns()
        body = call.body
        kind = body.metric if isinstance(body, ConsumeRequest) else KINDS[type(body)]
        self._timings.add(kind, began, ended)
        return answer
