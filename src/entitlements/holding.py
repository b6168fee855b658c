"""Holds around work of unknown cost: however the work ends, its usage is charged."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from entitlements.api import Entitlements
from entitlements.contracts.errors import EntitlementsError, Unavailable
from entitlements.contracts.http import HoldChangeResponse, HoldResponse

log: Final = logging.getLogger(__name__)
_ending: Final[set[asyncio.Task[Any]]] = set()
"""Tasks that end holds, also of callers that were cancelled."""


class Held:
    """A hold and the usage reported so far."""

    def __init__(self, taken: HoldResponse) -> None:
        self.taken = taken
        self.units: Counter[str] = Counter()
        self.credits = 0
        self.ended: HoldChangeResponse | None = None
        """The charged and returned credits, after the hold has ended."""

    def use(self, metric: str, units: int = 1) -> None:
        """Report ``units`` more units of a metric as used."""
        self.units[metric] += units

    def use_credits(self, credits: int) -> None:
        """Report credits as used, for a hold that was taken in credits."""
        self.credits += credits


@asynccontextmanager
async def holding(
    service: Entitlements,
    requirements: Mapping[str, int] | None = None,
    *,
    user_id: str | int,
    org_id: str | int | None = None,
    credits: int | None = None,
    credit_type: str | None = None,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
    correlation_id: str | None = None,
) -> AsyncIterator[Held]:
    """Take a hold; at the end settle the reported usage, or release the hold without usage.

    While the work runs, the hold is extended by ``ttl_s`` each time half of that has passed, for at
    most ``extend_for_s`` seconds; 0 turns this off. An exception or a cancellation ends the hold as
    success does; a cancellation does not wait for it. Raise as `Entitlements.take_hold` does.
    """
    taking = service.take_hold(
        requirements,
        user_id=user_id,
        org_id=org_id,
        credits=credits,
        credit_type=credit_type,
        ttl_s=ttl_s,
        correlation_id=correlation_id,
    )
    held = Held(await _taken(service, taking))
    extending = asyncio.create_task(_extend(service, held, ttl_s, extend_for_s))
    try:
        yield held
    except BaseException:
        try:
            held.ended = await _unless_cancelled(_end(service, held))
        except Exception:
            log.exception("a hold could not be ended; it lapses at %s", held.taken.expires_at)
        raise
    finally:
        extending.cancel()
    held.ended = await _unless_cancelled(_end(service, held))


async def _extend(service: Entitlements, held: Held, ttl_s: int, extend_for_s: int) -> None:
    """Extend the hold at half of its lifetime, until ``extend_for_s`` after it was taken."""
    loop = asyncio.get_running_loop()
    until, pause_s = loop.time() + extend_for_s, ttl_s / 2
    while True:
        await asyncio.sleep(pause_s)
        left_s = int(until - loop.time())
        if left_s <= ttl_s / 2:  # an extension would not move the expiry
            return
        try:
            await service.extend(held.taken.hold_id, ttl_s=min(ttl_s, left_s))
        except Unavailable as error:
            pause_s = ttl_s / 8
            log.warning("a hold could not be extended; retry in %s s: %s", pause_s, error)
        except EntitlementsError as error:
            log.warning("a hold cannot be extended any more: %s", error)
            return
        else:
            pause_s = ttl_s / 2


async def _taken(service: Entitlements, taking: Coroutine[Any, Any, HoldResponse]) -> HoldResponse:
    """Return the hold; if the caller is cancelled while taking it, release it."""
    task = asyncio.ensure_future(taking)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        _keep(asyncio.ensure_future(_give_back(service, task)))
        raise


async def _give_back(service: Entitlements, task: asyncio.Future[HoldResponse]) -> None:
    try:
        taken = await task
    except EntitlementsError:
        return  # no hold was taken, or its id is unknown and it lapses
    await service.release(taken.hold_id, reason="the caller went away")


async def _end(service: Entitlements, held: Held) -> HoldChangeResponse:
    hold_id = held.taken.hold_id
    if held.units:
        return await service.settle(hold_id, held.units)
    if held.credits:
        return await service.settle(
            hold_id, credits=held.credits, credit_type=held.taken.credit_type
        )
    return await service.release(hold_id, reason="nothing was used")


async def _unless_cancelled(work: Coroutine[Any, Any, HoldChangeResponse]) -> HoldChangeResponse:
    """Return the result of the work, which continues if the caller is cancelled."""
    task = asyncio.ensure_future(work)
    _keep(task)
    return await asyncio.shield(task)


def _keep(task: asyncio.Task[Any]) -> None:
    _ending.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Task[Any]) -> None:
    _ending.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a hold was not ended; it lapses by itself: %s", error)


async def holds_ended() -> None:
    """Wait until all pending holds have ended; call it before closing the service."""
    while _ending:
        await asyncio.wait(_ending)
