"""Calls of lifecycle handlers on SQLite."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from entitlements.adapters.mapping import json_text
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.lifecycle.store import RETRY_MAX_S, WaitingCall

US: Final = 1_000_000


class SqliteLifecycleCalls:
    """Implements `LifecycleCalls`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(
        self, handlers: Collection[str], limit: int, *, lease_s: int
    ) -> list[WaitingCall]:
        if not await self._db.one("any_lifecycle_call"):
            return []  # without a transaction, which would keep others from writing
        names = json_text(sorted(handlers))
        values = (self._db.now(), names, limit, lease_s * US, max(lease_s, RETRY_MAX_S) * US)
        found = await self._run("claim_lifecycle_calls", *values)
        return [rows.waiting_call(row) for row in found]

    async def made(self, call: WaitingCall) -> None:
        await self._run("made_lifecycle_call", *call.attempt)

    async def failed(self, call: WaitingCall, error: str, *, retry_in_s: int) -> None:
        values = (*call.attempt, error, retry_in_s * US, self._db.now())
        await self._run("failed_lifecycle_call", *values)

    async def waiting(self, limit: int) -> list[WaitingCall]:
        return [rows.waiting_call(row) for row in await self._db.all("lifecycle_calls", limit)]

    async def _run(self, name: str, *values: Any) -> list[Any]:
        return await self._db.write(lambda db: db.execute(SQL[name], values).fetchall())
