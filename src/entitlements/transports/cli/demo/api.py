"""The demo's HTTP client, with the duration of each request."""

from time import perf_counter_ns
from typing import Final, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from entitlements.contracts.http import (
    AccountRequest,
    AccountResponse,
    AdjustRequest,
    AdjustResponse,
    BalanceResponse,
    BulkCheckRequest,
    BulkCheckResponse,
    BulkConsumeRequest,
    BulkConsumeResponse,
    ConsumeRequest,
    ConsumeResponse,
    SetRequest,
    SetResponse,
)
from entitlements.transports.cli.demo.grading import COMPARISON, FEEDBACK

CLIENTS: Final = 64
TIMEOUT_S: Final = 30
GRADED: Final = (COMPARISON, FEEDBACK)
ALL_GRADING: Final = "all grading"
MODEL_CALL: Final = "model call"
_OK: Final = (200, 201)
_CHECKED: Final = (200, 402)

Answer = TypeVar("Answer")


class UnexpectedAnswer(RuntimeError):
    """The service's response fits no step of the scenario."""


class Clock:
    """Durations of requests in nanoseconds, by kind, and the time from the first to the last."""

    def __init__(self) -> None:
        self.durations: dict[str, list[int]] = {}
        self._began: dict[str, int] = {}
        self._ended: dict[str, int] = {}

    def add(self, kind: str, began: int, ended: int) -> None:
        self.durations.setdefault(kind, []).append(ended - began)
        self._began.setdefault(kind, began)
        self._ended[kind] = ended

    def span(self, kind: str) -> int:
        return self._ended[kind] - self._began[kind]


class Api:
    """One method per endpoint. Raises UnexpectedAnswer and httpx2's errors.

    A connection pool larger than the number of ``clients`` slows all of them down.
    """

    def __init__(self, url: str, secret: str, clock: Clock, *, clients: int = CLIENTS) -> None:
        self._clock = clock
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
            limits=httpx2.Limits(max_connections=clients, max_keepalive_connections=clients),
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def open_account(self, request: AccountRequest) -> AccountResponse:
        return await self._post("account", "/v1/admin/accounts", request, AccountResponse)

    async def adjust(self, request: AdjustRequest) -> AdjustResponse:
        return await self._post("adjust", "/v1/admin/credits/adjust", request, AdjustResponse)

    async def set_balance(self, request: SetRequest) -> SetResponse:
        return await self._post("set", "/v1/admin/credits/set", request, SetResponse)

    async def check(self, request: BulkCheckRequest) -> BulkCheckResponse:
        path = "/v1/entitlements/check-credits/bulk"
        return await self._post("check", path, request, BulkCheckResponse, expected=_CHECKED)

    async def consume(self, request: ConsumeRequest, *, key: str) -> ConsumeResponse:
        path = "/v1/entitlements/consume-credits"
        return await self._post(request.metric, path, request, ConsumeResponse, key=key)

    async def consume_together(
        self, request: BulkConsumeRequest, *, key: str
    ) -> BulkConsumeResponse:
        path = "/v1/entitlements/consume-credits/bulk"
        return await self._post(MODEL_CALL, path, request, BulkConsumeResponse, key=key)

    async def balance(self, user_id: str, org_id: str) -> BalanceResponse:
        path = f"/v1/entitlements/balance/{quote(user_id, safe='')}?org_id={quote(org_id, safe='')}"
        return await self._ask("balance", self._http.build_request("GET", path), BalanceResponse)

    async def _post(
        self,
        kind: str,
        path: str,
        body: msgspec.Struct,
        answer: type[Answer],
        *,
        key: str | None = None,
        expected: tuple[int, ...] = _OK,
    ) -> Answer:
        headers = {"Idempotency-Key": key} if key else None
        content = msgspec.json.encode(body)
        request = self._http.build_request("POST", path, content=content, headers=headers)
        return await self._ask(kind, request, answer, expected)

    async def _ask(
        self,
        kind: str,
        request: httpx2.Request,
        answer: type[Answer],
        expected: tuple[int, ...] = _OK,
    ) -> Answer:
        began = perf_counter_ns()
        response = await self._http.send(request)
        ended = perf_counter_ns()
        self._clock.add(kind, began, ended)
        if kind in GRADED:
            self._clock.add(ALL_GRADING, began, ended)
        if response.status_code not in expected:
            raise UnexpectedAnswer(
                f"{request.method} {request.url.path}: {response.status_code} {response.text}"
            )
        return msgspec.json.decode(response.content, type=answer)
