"""Rate limits on SQLite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import apsw

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.ports import (
    LIMIT_EVENTS_KEPT,
    LIMITER_LEASE_MAX_S,
    LimitExceeded,
    LimitNear,
    PastUse,
)
from entitlements.core.model import NEVER
from entitlements.core.windows import WindowKey


class SqliteLimits:
    """Implements `LimitStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        bound = (json.dumps(list(metrics)), window_s, rows.to_us(since), rows.to_us(until))
        return await self._db.recount(
            lambda db: [rows.past_use(row) for row in db.execute(SQL["past_uses"], bound)]
        )

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        now = self._db.clock()
        until = rows.to_us(now + timedelta(seconds=lease_s))
        latest = rows.to_us(now + timedelta(seconds=LIMITER_LEASE_MAX_S))

        def announce(db: apsw.Connection) -> int:
            db.execute(SQL["announce_limiter"], (name, until))
            db.execute(SQL["limiters_gone"], (rows.to_us(now), latest))
            ((others,),) = db.execute(SQL["other_limiters"], (name,))
            return int(others)

        return await self._db.write(announce, durably=False)

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        def add(db: apsw.Connection) -> None:
            db.executemany(SQL["add_limit_exceeded"], map(rows.limit_exceeded_values, events))

        await self._db.write(add)

    async def add_limit_near(self, events: Sequence[LimitNear]) -> dict[WindowKey, datetime]:
        def add(db: apsw.Connection) -> dict[WindowKey, datetime]:
            db.executemany(SQL["add_limit_near"], map(rows.limit_near_values, events))
            return {window: again_at(db, window) for window in {event.window for event in events}}

        def again_at(db: apsw.Connection, window: WindowKey) -> datetime:
            values = (*window.subject, window.metric, window.window_s)
            ((found,),) = db.execute(SQL["near_again_at"], values)
            return rows.from_us(found)

        return await self._db.write(add)

    async def purge(self, limit: int) -> None:
        until = rows.to_us(self._db.clock() - LIMIT_EVENTS_KEPT)

        def purge(db: apsw.Connection) -> None:
            db.execute(SQL["purge_limit_exceeded"], (until, limit))
            db.execute(SQL["purge_limit_near"], (until, limit))

        await self._db.write(purge)
