"""Calls users' lifecycle handlers after changes of subscriptions, each until it succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final, NoReturn

from entitlements.app.lifecycle.store import RETRY_MAX_S, LifecycleCalls, WaitingCall
from entitlements.app.ports import Transient
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import every

log = EventLog(__name__)

AT_ONCE: Final = 8
POLL_S: Final = 1.0
CALL_MAX_S: Final = 240
LEASE_S: Final = 300
"""Longer than a call can take; after it another process can repeat the call."""
RETRY_FIRST_S: Final = 5
RETRY_FACTOR: Final = 3
ERROR_MAX: Final = 500


class HandlerCaller:
    """Makes due calls. Several can run, in one process or many.

    A call whose handler raises or takes longer than `CALL_MAX_S` is repeated after increasing
    delays; later calls of its subscription wait for it. A process makes only calls of handlers that
    it knows.
    """

    def __init__(
        self,
        store: LifecycleCalls,
        call: Callable[[WaitingCall], Awaitable[None]],
        known: Callable[[], Collection[str]],
    ) -> None:
        self._store = store
        self._call = call
        self._known = known
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> NoReturn:
        """Make calls until cancelled."""
        try:
            await every(POLL_S, self.catch_up, log, "lifecycle")
        finally:
            for attempt in self._under_way:
                attempt.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def catch_up(self) -> None:
        """Make calls until none is due. A long one delays no others while fewer than `AT_ONCE` are
        under way.
        """
        while await self._begin() or self._under_way:
            done, self._under_way = await asyncio.wait(
                self._under_way, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                attempt.result()

    async def _begin(self) -> bool:
        """Begin due calls; return whether there were some."""
        handlers, free = self._known(), AT_ONCE - len(self._under_way)
        if not handlers or not free:
            return False
        claimed = await self._store.claim(handlers, free, lease_s=LEASE_S)
        self._under_way |= {asyncio.create_task(self._attempt(call)) for call in claimed}
        return bool(claimed)

    async def _attempt(self, call: WaitingCall) -> None:
        try:
            async with asyncio.timeout(CALL_MAX_S):
                await self._call(call)
        except BaseException as error:
            if _stops(error):
                with suppress(Transient):  # another process need not wait for the lease
                    await self._store.failed(call, "the process was stopped", retry_in_s=0)
                raise
            log.exception(
                "lifecycle.handler_failed",
                handler=call.handler,
                change=call.change,
                subscription=call.subscription_id,
                attempt=call.attempts,
            )
            text = f"{type(error).__name__}: {error}"[:ERROR_MAX]
            await self._store.failed(call, text, retry_in_s=retry_in_s(call.attempts))
        else:
            await self._store.made(call)


def _stops(error: BaseException) -> bool:
    """Return whether the process stops. A handler whose own task was cancelled raises the same."""
    if isinstance(error, asyncio.CancelledError):
        attempt = asyncio.current_task()
        return attempt is None or attempt.cancelling() > 0
    return not isinstance(error, Exception)


def retry_in_s(attempt: int) -> int:
    """Return the delay after an attempt: 5 seconds, then three times as long each time, up to an
    hour.
    """
    wait_s = backoff_s(attempt, first_s=RETRY_FIRST_S, most_s=RETRY_MAX_S, factor=RETRY_FACTOR)
    return round(wait_s)
