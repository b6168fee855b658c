"""Posts to public internet addresses only, even if DNS changes in between.

A host is resolved for every message, and the connection goes to the address that was checked, so a
name that resolves differently a moment later has no effect. Messages share no connections, cookies
or proxies.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

import httpx2

from entitlements.app.webhooks.store import Answered, ForbiddenAddress, NotReached, Unresolvable
from entitlements.app.webhooks.targets import is_public

Resolve = Callable[[str], Awaitable[Sequence[str]]]

TIMEOUT_S: Final = 10.0
ADDRESSES_MAX: Final = 3
"""The maximum number of addresses of a host that are tried in turn."""
LOOKUPS_AT_ONCE: Final = 32


class HttpSender:
    """Implements `Sender`. ``resolve`` returns the addresses of a host."""

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._allow_private = allow_private
        self._lookup = Lookup()
        self._resolve = resolve or self._lookup
        self._verify = verify
        self._timeout_s = timeout_s
        self._opened: httpx2.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lookup.close()
        if self._opened is not None:
            await self._opened.aclose()

    async def require_public(self, url: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._addresses(httpx2.URL(url).host)
        except TimeoutError:
            raise Unresolvable("its host was not found in time") from None
        except httpx2.InvalidURL:
            raise Unresolvable("is not a URL") from None

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotReached:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(httpx2.URL(url), headers, body)
        except TimeoutError:
            return NotReached(f"no response within {self._timeout_s:g} seconds")
        except (ForbiddenAddress, Unresolvable) as error:
            return NotReached(str(error))
        except (httpx2.TransportError, httpx2.InvalidURL, OSError, ValueError) as error:
            return NotReached(f"{type(error).__name__}: {error}"[:200])

    async def _post(
        self, url: httpx2.URL, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotReached:
        failure: Exception = Unresolvable("its host has no address")
        for address in (await self._addresses(url.host))[:ADDRESSES_MAX]:
            try:
                return await self._post_to(address, url, headers, body)
            except httpx2.ConnectError as error:
                failure = error
        raise failure

    async def _post_to(
        self, address: str, url: httpx2.URL, headers: Mapping[str, str], body: bytes
    ) -> Answered:
        """Connect to the address; Host and the certificate's name stay those of the URL."""
        request = httpx2.Request(
            "POST",
            url.copy_with(host=address),
            headers={"host": url.netloc.decode("ascii"), **headers},
            content=body,
            extensions={
                "sni_hostname": url.host,
                "timeout": httpx2.Timeout(self._timeout_s).as_dict(),
            },
        )
        response = await self._transport().handle_async_request(request)
        # The body is not read, however long it is.
        await response.aclose()
        return Answered(response.status_code, response.headers.get("retry-after"))

    async def _addresses(self, host: str) -> Sequence[str]:
        """Return the host's addresses. Raises ForbiddenAddress if any of them is not public."""
        found = await self._resolve(host)
        if not found:
            raise Unresolvable("its host has no address")
        if not self._allow_private and not all(map(is_public, found)):
            raise ForbiddenAddress("its host is not on the public internet")
        return found

    def _transport(self) -> httpx2.AsyncHTTPTransport:
        if self._opened is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
            self._opened = httpx2.AsyncHTTPTransport(verify=self._verify, limits=limits)
        return self._opened


class Lookup:
    """The system's resolver in separate threads: names that do not resolve delay only those queued
    after them.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="webhook-lookup")
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str) -> list[str]:
        """Resolve the host; concurrent calls for a host share a query. Raises Unresolvable."""
        asked = self._under_way.get(host)
        if asked is None:
            loop = asyncio.get_running_loop()
            asked = loop.run_in_executor(self._threads, _look_up, host)
            self._under_way[host] = asked
            asked.add_done_callback(lambda done: self._answered(host, done))
        return await asyncio.shield(asked)

    def _answered(self, host: str, done: asyncio.Future[list[str]]) -> None:
        self._under_way.pop(host, None)
        if not done.cancelled():
            done.exception()  # mark as retrieved: all callers may have gone away

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unresolvable("its host is unknown") from None
    return [str(address[0]) for *_, address in found]
