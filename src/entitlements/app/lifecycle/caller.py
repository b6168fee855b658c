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

    async def run(self) -> NoReturn:
        """Make calls until cancelled."""
        await every(POLL_S, self.catch_up, log, "lifecycle")

    async def catch_up(self) -> None:
        """Make calls until none is due."""
        while await self.round():
            pass

    async def round(self) -> int:
        """Make some of the due calls, each once; return how many."""
        handlers = self._known()
        if not handlers:
            return 0
        claimed = await self._store.claim(handlers, AT_ONCE, lease_s=LEASE_S)
        await asyncio.gather(*map(self._attempt, claimed))
        return len(claimed)

    async def _attempt(self, call: WaitingCall) -> None:
        try:
            async with asyncio.timeout(CALL_MAX_S):
                await self._call(call)
        except Exception as error:
            log.exception(
                "lifecycle.handler_failed",
                handler=call.handler,
                change=call.change,
                subscription=call.subscription_id,
                attempt=call.attempts,
            )
            text = f"{type(error).__name__}: {error}"[:ERROR_MAX]
            await self._store.failed(call, text, retry_in_s=retry_in_s(call.attempts))
        except BaseException:  # this process stops: another one need not wait for the lease
            with suppress(Transient):
                await self._store.failed(call, "the process was stopped", retry_in_s=0)
            raise
        else:
            await self._store.made(call)


def retry_in_s(attempt: int) -> int:
    """Return the delay after an attempt: 5 seconds, then three times as long each time, up to an
    hour.
    """
    wait_s = backoff_s(attempt, first_s=RETRY_FIRST_S, most_s=RETRY_MAX_S, factor=RETRY_FACTOR)
    return round(wait_s)
