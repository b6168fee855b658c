"""Calls of lifecycle handlers on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.lifecycle.store import RETRY_MAX_S, WaitingCall


class PostgresLifecycleCalls:
    """Implements `LifecycleCalls`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(
        self, handlers: Collection[str], limit: int, *, lease_s: int
    ) -> list[WaitingCall]:
        values = (self._db.now(), list(handlers), limit, lease_s, max(lease_s, RETRY_MAX_S))
        async with self._db.connection() as db:
            found = await db.fetch(SQL["claim_lifecycle_calls"], *values)
        return [rows.waiting_call(row) for row in found]

    async def made(self, call: WaitingCall) -> None:
        await self._execute("made_lifecycle_call", *call.attempt)

    async def failed(self, call: WaitingCall, error: str, *, retry_in_s: int) -> None:
        values = (*call.attempt, error, retry_in_s, self._db.now())
        await self._execute("failed_lifecycle_call", *values)

    async def waiting(self, limit: int) -> list[WaitingCall]:
        return [rows.waiting_call(row) for row in await self._db.all("lifecycle_calls", limit)]

    async def _execute(self, name: str, *values: Any) -> None:
        async with self._db.connection() as db:
            await db.execute(SQL[name], *values)
