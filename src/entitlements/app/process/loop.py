"""Background loops: work that is repeated until its process stops, whatever fails in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

from entitlements.app.ports import StoreUnavailable, Transient
from entitlements.app.process.log import EventLog

T = TypeVar("T")


async def every(
    pause_s: float,
    work: Callable[[], Awaitable[object]],
    log: EventLog,
    name: str,
    *,
    first_s: float | None = None,
) -> NoReturn:
    """Await ``work`` again and again, with a pause before each round.

    An error only postpones the work to the next round. It is logged as ``<name>.postponed`` if it
    is transient, else as ``<name>.failed``; while it repeats, once. The store itself logs that it
    is unavailable. ``first_s`` is the first pause.
    """
    known, postponed, failed = "", f"{name}.postponed", f"{name}.failed"
    await asyncio.sleep(pause_s if first_s is None else first_s)
    while True:
        try:
            await work()
            known = ""
        except StoreUnavailable:
            known = ""
        except Transient as error:
            if known != (known := repr(error)):
                log.warning(postponed, reason=str(error))
        except Exception as error:
            if known != (known := repr(error)):
                log.exception(failed, reason=str(error))
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def background(*loops: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run the loops until the block ends."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def retry_until_done(
    work: Callable[[], Awaitable[T]],
    *,
    on: type[Exception],
    pause_s: float,
    log: EventLog,
    event: str,
    patience_s: float | None = None,
) -> T:
    """Await ``work`` until it succeeds, for at most ``patience_s``, and return its result.

    Errors of type ``on`` are retried; each is logged once while it repeats.
    """
    loop = asyncio.get_running_loop()
    give_up_at = None if patience_s is None else loop.time() + patience_s
    known = ""
    while True:
        try:
            return await work()
        except on as error:
            if give_up_at is not None and loop.time() > give_up_at:
                raise
            if known != (known := str(error)):
                log.warning(event, reason=known)
        await asyncio.sleep(pause_s)
