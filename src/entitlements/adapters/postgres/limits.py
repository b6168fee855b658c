"""Rate limits on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import LIMITER_LEASE_MAX_S, LimitExceeded, LimitNear, PastUse
from entitlements.core.model import NEVER, Subject
from entitlements.core.windows import WindowKey


class PostgresLimits:
    """Implements `LimitStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        found = await self._db.all("past_uses", list(metrics), window_s, since, until)
        return [PastUse(*row) for row in found]

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        now = self._db.now()
        async with self._db.transaction() as db:
            await db.execute(SQL["announce_limiter"], name, now, lease_s)
            await db.execute(SQL["limiters_gone"], now, LIMITER_LEASE_MAX_S)
            others: int = await db.fetchval(SQL["other_limiters"], name, now)
        return others

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        # Sorted, so that two processes that write the same rows do not deadlock.
        found = sorted(rows.limit_exceeded_values(event) for event in events)
        async with self._db.connection() as db:
            await db.execute(SQL["add_limit_exceeded"], *rows.columns(found, 9))

    async def add_limit_near(self, events: Sequence[LimitNear]) -> dict[WindowKey, datetime]:
        first = {event.window: event for event in reversed(events)}
        found = sorted(rows.limit_near_values(event) for event in first.values())
        columns = rows.columns(found, 9)
        async with self._db.connection() as db:
            await db.execute(SQL["add_limit_near"], *columns)
            # A later statement: it sees the events of others that the first one waited for.
            latest = await db.fetch(SQL["near_again_at"], *columns[:4])
        return {
            WindowKey(Subject(*subject), metric, window_s): again_at
            for *subject, metric, window_s, again_at in latest
        }

    async def purge(self, limit: int) -> None:
        async with self._db.connection() as db:
            await db.execute(SQL["purge_limit_exceeded"], self._db.now(), limit)
            await db.execute(SQL["purge_limit_near"], self._db.now(), limit)
