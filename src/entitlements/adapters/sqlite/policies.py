"""The policy's versions on SQLite."""

from __future__ import annotations

from datetime import datetime

import apsw

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.writing import write_audit
from entitlements.app.ports import Activation, PolicyVersion
from entitlements.core.model import AuditEntry


class SqlitePolicies:
    """Implements `PolicyVersions`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def activate(self, version: str, content: str, audit: AuditEntry) -> Activation:
        def activate(db: apsw.Connection) -> Activation:
            is_new = db.execute(SQL["policy_content"], (version,)).fetchone() is None
            if is_new:
                db.execute(SQL["retire_policies"])
                values = (version, content, audit.actor, self._db.now())
                db.execute(SQL["activate_policy"], values)
                write_audit(db, audit)
            ((active,),) = db.execute(SQL["active_policy"])
            return Activation(active, is_new)

        return await self._db.write(activate)

    async def active(self) -> str | None:
        row = await self._db.one("active_policy")
        return row[0] if row else None

    async def allowances(self) -> frozenset[str]:
        return frozenset(metric for (metric,) in await self._db.all("allowance_metrics"))

    async def content(self, version: str) -> str | None:
        row = await self._db.one("policy_content", version)
        return row[0] if row else None

    async def versions(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        found = await self._db.many("policies", prefix, rows.to_us_or_none(before), limit)
        return [rows.policy_version(row) for row in found]
