"""Waiting in tests: for a condition, for as long as a loaded machine may need."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final

import asyncpg

from entitlements.ids import uuid7

PATIENCE_S: Final = 120
"""Far more than any condition takes on an idle machine; a longer wait is a hang.

Tests of promptness compare with an event that would never happen, or with this value, not with the
clock of a busy machine.
"""


async def until(holds: Callable[[], bool | Awaitable[bool]], *, every_s: float = 0.01) -> None:
    """Return when the condition holds. Raises TimeoutError after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            held = holds()
            if await held if isawaitable(held) else held:
                return
            await asyncio.sleep(every_s)


async def until_waited_for(db: asyncpg.Connection) -> None:
    """Return when another session of PostgreSQL waits for a lock of this one."""
    own = await db.fetchval("SELECT pg_backend_pid()")
    # Not pg_stat_activity, of which a transaction sees only its first state.
    waits = "SELECT FROM pg_locks WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid))"
    await until(lambda: db.fetchval(f"SELECT EXISTS ({waits})", own), every_s=0.002)


async def until_next_id() -> None:
    """Wait for the next millisecond: a later id sorts after all earlier ones only then."""
    last = _millisecond(uuid7())
    await until(lambda: _millisecond(uuid7()) > last, every_s=0.001)


def _millisecond(id_: str) -> str:
    return id_[: len("01890000-0000")]
