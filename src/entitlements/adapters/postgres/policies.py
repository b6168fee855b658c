"""The policy's versions on PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import datetime

from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit
from entitlements.app.ports import Activation, Locked, PolicyVersion
from entitlements.core.model import AuditEntry

ACTIVATION_PATIENCE_S = 20
"""Longer than the server lets a batch stay idle in a transaction."""
ACTIVATION_PAUSE_S = 0.1


class PostgresPolicies:
    """Implements `PolicyVersions`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def activate(self, version: str, content: str, audit: AuditEntry) -> Activation:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ACTIVATION_PATIENCE_S
        while True:
            try:
                return await self._activate(version, content, audit)
            except Locked:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(ACTIVATION_PAUSE_S)

    async def _activate(self, version: str, content: str, audit: AuditEntry) -> Activation:
        async with self._db.transaction() as db:
            await db.execute(SQL["lock_policies"])
            is_new = await db.fetchval(SQL["policy_content"], version) is None
            if is_new:
                await db.execute(SQL["retire_policies"])
                now = self._db.now()
                await db.execute(SQL["activate_policy"], version, content, audit.actor, now)
                await write_audit(db, audit)
            return Activation(await db.fetchval(SQL["active_policy"]), is_new)

    async def active(self) -> str | None:
        row = await self._db.one("active_policy")
        return row["version"] if row else None

    async def allowances(self) -> frozenset[str]:
        return frozenset(row["metric"] for row in await self._db.all("allowance_metrics"))

    async def content(self, version: str) -> str | None:
        row = await self._db.one("policy_content", version)
        return row["content"] if row else None

    async def versions(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        return [
            PolicyVersion(**row) for row in await self._db.all("policies", prefix, before, limit)
        ]
