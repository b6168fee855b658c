"""The HTTP client: `AsyncClient`, and `Client` for callers without an event loop.

A request that changes something is retried with the same idempotency key until there is a
response, so it is executed once even if responses are lost. Needs the extra ``client``.
"""

from __future__ import annotations

import re
import ssl
from asyncio import sleep
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from random import Random
from time import monotonic
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
from msgspec import Struct

from entitlements.api import Call, Entitlements
from entitlements.contracts import errors
from entitlements.contracts.errors import Applied, EntitlementsError, Unavailable
from entitlements.contracts.fields import visible_key
from entitlements.contracts.http import BulkCheckResponse
from entitlements.contracts.problem import Problem
from entitlements.ids import uuid7
from entitlements.sync import SyncEntitlements

T = TypeVar("T", bound=Struct)

JSON: Final = "application/json"
BACKOFF_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
KEEPALIVE_S: Final = 4.0
"""Shorter than servers' timeouts, so that both ends rarely close a connection at the same time."""
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_PASSING: Final = frozenset(
    (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
)
_DENIED: Final = frozenset((HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.TOO_MANY_REQUESTS))
"""Statuses whose body is a denied check, unless it is a problem."""
_KEY: Final = re.compile(r"[!-~]+")
_NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_jitter: Final = Random()  # noqa: S311 - spreads retries; not for security


class AsyncClient(Entitlements):
    """A client of the service at ``url`` with an API ``key``. Use it as a context, or close it.

    White space around the key, such as a file's last newline, is stripped. Raise ValueError for an
    unusable URL, key or proxy; no error shows the key or a password.

    A timeout after ``timeout_s``, a lost connection, a 502, 503 and 504 are retried, in at most
    ``attempts_max`` attempts within ``patience_s`` seconds, respecting Retry-After. If none
    succeeds, it raises `Unavailable`. At most ``connections_max`` requests are in flight; others
    wait. With ``raise_on_shortfall`` a consumption that no payer covers raises `Shortfall`. The
    client is bound to the event loop of its first request; in another loop it raises `Closed`.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 15.0,
        attempts_max: int = 5,
        patience_s: float = 60.0,
        connections_max: int = 100,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        raise_on_shortfall: bool = False,
    ) -> None:
        self._raise_on_shortfall = raise_on_shortfall
        self._attempts_max = attempts_max
        self._patience_s = patience_s
        base_url = _service_url(url)
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            headers=_authorization(key),
            timeout=httpx2.Timeout(timeout_s),
            limits=httpx2.Limits(
                max_connections=connections_max,
                max_keepalive_connections=connections_max,
                keepalive_expiry=KEEPALIVE_S,
            ),
            # Without TLS an empty list of authorities is enough; reading theirs takes 25 ms.
            verify=verify if base_url.scheme == "https" else _NO_AUTHORITIES,
            proxy=None if proxy is None else _parsed_url("proxy", proxy),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        self._require_own_loop()
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Raise Closed in an event loop other than its own."""
        self._require_own_loop()
        await self._http.aclose()

    async def ask(self, call: Call[T]) -> T:
        self._require_own_loop()
        # Built once: a retry sends the same bytes, including the idempotency key.
        request = self._request(call)
        started = monotonic()
        applied: Applied = "no"
        for attempt in range(1, self._attempts_max + 1):
            failure = await self._asked(request, call)
            if not isinstance(failure, Unavailable):
                return failure
            # An unknown result stays unknown: a later attempt cannot undo the change.
            failure.applied = applied = failure.applied if applied == "no" else applied
            wait_s = _wait_s(attempt, failure.retry_after_s)
            is_last = attempt == self._attempts_max or failure.retry_after_s is None
            if is_last or monotonic() + wait_s > started + self._patience_s:
                raise failure
            await sleep(wait_s)
        raise AssertionError("attempts_max is at least 1")

    def _request(self, call: Call[Any]) -> httpx2.Request:
        path = call.verb.path.format_map(
            {name: _segment(value) for name, value in call.named.items()}
        )
        headers = {"accept": JSON}
        if call.verb.is_keyed:
            key = uuid7() if call.key is None else visible_key("key", call.key)
            headers["idempotency-key"] = key
        if call.correlation_id:
            text = quote(call.correlation_id, safe="", errors="surrogatepass")
            headers |= {"x-correlation-id": text, "x-identity-encoding": "url"}
        if not call.verb.has_body:
            query = _query(call.body)
            return self._http.build_request(call.verb.method, path, headers=headers, params=query)
        headers["content-type"] = JSON
        return self._http.build_request(
            call.verb.method,
            path,
            headers=headers,
            params={"explain": "true"} if call.explained else None,
            content=msgspec.json.encode(call.body),
        )

    async def _asked(self, request: httpx2.Request, call: Call[T]) -> T | Unavailable:
        """Return the response, or `Unavailable` if a retry is possible. Raise Refused."""
        try:
            response = await self._http.send(request)
        except httpx2.TransportError as error:
            reason = str(error) or type(error).__name__
            return Unavailable(
                "unreachable",
                f"the service does not answer: {reason}",
                applied="no" if isinstance(error, _NOT_SENT) else "unknown",
                retry_after_s=0,
            )
        if response.status_code in call.verb.answers_with and _is_json(response):
            return _decoded(response, call.verb.answer)
        failure = _failure(response)
        if isinstance(failure, Unavailable):
            return failure
        raise failure


class Client(SyncEntitlements):
    """The synchronous `AsyncClient`, for callers without an event loop. It is thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 15.0,
        attempts_max: int = 5,
        patience_s: float = 60.0,
        connections_max: int = 100,
        verify: ssl.SSLContext | bool = True,
        proxy: str | None = None,
        raise_on_shortfall: bool = False,
    ) -> None:
        super().__init__(
            AsyncClient(
                url,
                key=key,
                timeout_s=timeout_s,
                attempts_max=attempts_max,
                patience_s=patience_s,
                connections_max=connections_max,
                verify=verify,
                proxy=proxy,
                raise_on_shortfall=raise_on_shortfall,
            )
        )


def _service_url(url: str) -> httpx2.URL:
    parsed = _parsed_url("url", url)
    if parsed.scheme not in ("http", "https"):
        raise ValueError("url must begin with http:// or https://")
    if parsed.userinfo:
        # They would replace the key, and the HTTP library logs the URLs of its requests.
        raise ValueError("url must not hold credentials; pass the API key as `key`")
    return parsed


def _parsed_url(name: str, url: str) -> httpx2.URL:
    """Parse a URL. Raise ValueError that does not show it, because it can contain a password."""
    try:
        return httpx2.URL(url)
    except httpx2.InvalidURL:
        raise ValueError(f"{name} is not a valid URL") from None


def _authorization(key: str | None) -> Mapping[str, str]:
    """Return the header for the key. Raise ValueError that does not show the key."""
    if key is None:
        return {}
    stripped = key.strip()
    if _KEY.fullmatch(stripped) is None:
        raise ValueError("key must consist of visible ASCII characters")
    return {"authorization": f"Bearer {stripped}"}


def _wait_s(attempt: int, retry_after_s: int | None) -> float:
    """Return the delay before a retry: at least Retry-After, with backoff and jitter."""
    backoff_s = min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt)
    return (retry_after_s or 0) + _jitter.uniform(0, backoff_s)


def _segment(text: str) -> str:
    """Quote text as one path segment. A segment of dots alone would be a relative path."""
    quoted = quote(text, safe="", errors="surrogatepass")
    return quoted.replace(".", "%2E") if not quoted.strip(".") else quoted


def _query(body: Struct | None) -> Mapping[str, str]:
    if body is None:
        return {}
    fields = msgspec.to_builtins(body)
    return {name: str(value) for name, value in fields.items() if value is not None}


def _is_json(response: httpx2.Response) -> bool:
    """Return whether the media type is JSON, ignoring parameters and case (RFC 9110, 8.3.1)."""
    media_type, _, _ = response.headers.get("content-type", "").partition(";")
    return bool(media_type.strip().lower() == JSON)


@cache
def _decoder(answer: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(answer)


def _decoded(response: httpx2.Response, answer: type[T]) -> T:
    decoder: msgspec.json.Decoder[T] = _decoder(answer)
    try:
        return decoder.decode(response.content)
    except msgspec.DecodeError as error:
        raise Unavailable(
            "unexpected_answer", f"the response is not as expected: {error}", retry_after_s=None
        ) from None


def _failure(response: httpx2.Response) -> EntitlementsError:
    """Return the exception for an error response of the service, or of a proxy in between."""
    status = response.status_code
    if status in _DENIED and _is_json(response):
        return errors.denied(_decoded(response, BulkCheckResponse))
    try:
        problem = _decoder(Problem).decode(response.content)
    except msgspec.DecodeError:
        wait_s = _retry_after_s(response) or 0 if status in _PASSING else None
        return Unavailable("unexpected_answer", _other_answer(response), retry_after_s=wait_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(
            problem.code,
            problem.detail,
            applied=_applied(problem),
            retry_after_s=_retry_after_s(response) or 0 if status in _PASSING else None,
            correlation_id=problem.correlation_id,
        )
    return errors.error_class(problem.code, status)(
        problem.code,
        problem.detail,
        errors=problem.errors,
        data=problem.data or {},
        retry_after_s=_retry_after_s(response),
        correlation_id=problem.correlation_id,
    )


def _other_answer(response: httpx2.Response) -> str:
    """Describe a response that does not come from the service."""
    kind = response.headers.get("content-type", "no content type")
    if response.has_redirect_location:
        kind = f"a redirect to {response.headers['location']}"
    return f"HTTP {response.status_code} with {kind} is not a response of the service"


def _applied(problem: Problem) -> Applied:
    """Return ``no`` if the response says so, else unknown; earlier versions do not say it."""
    return "no" if problem.data and problem.data.get("applied") == "no" else "unknown"


def _retry_after_s(response: httpx2.Response) -> int | None:
    told = response.headers.get("retry-after", "")
    return int(told) if told.isascii() and told.isdigit() else None
