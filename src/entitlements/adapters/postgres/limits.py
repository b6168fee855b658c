"""Rate limits on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import LIMITER_LEASE_MAX_S, LimitExceeded, LimitNear, PastUse
from entitlements.core.model import NEVER


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
        await self._add("add_limit_exceeded", map(rows.limit_exceeded_values, events))

    async def add_limit_near(self, events: Sequence[LimitNear]) -> None:
        await self._add("add_limit_near", map(rows.limit_near_values, events))

    async def _add(self, statement: str, found: Iterable[tuple[Any, ...]]) -> None:
        """Write the first row of each key; sorted, so that two processes do not deadlock."""
        by_key: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for row in found:
            by_key.setdefault(row[:4], row)
        ordered = [by_key[key] for key in sorted(by_key)]
        async with self._db.connection() as db:
            await db.execute(SQL[statement], *rows.columns(ordered, 9))

    async def purge(self, limit: int) -> None:
        async with self._db.connection() as db:
            await db.execute(SQL["purge_limit_exceeded"], self._db.now(), limit)
            await db.execute(SQL["purge_limit_near"], self._db.now(), limit)
