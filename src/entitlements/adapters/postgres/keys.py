"""API keys on PostgreSQL."""

from __future__ import annotations

from datetime import datetime

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit
from entitlements.app.ports import ApiKey
from entitlements.core.model import AuditEntry
from entitlements.ids import is_uuid


class PostgresKeys:
    """Implements `ApiKeys`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, secret_sha256: str) -> ApiKey | None:
        row = await self._db.read(
            lambda db: db.fetchrow(SQL["api_key"], secret_sha256), within_s=self._db.check_s
        )
        return ApiKey(**row) if row else None

    async def all(self) -> list[ApiKey]:
        return [ApiKey(**row) for row in await self._db.all("api_keys")]

    async def add(self, key: ApiKey, audit: AuditEntry) -> None:
        async with self._db.transaction() as db:
            await db.execute(SQL["add_api_key"], *rows.api_key_values(key))
            await write_audit(db, audit)

    async def revoke(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        if not is_uuid(key_id):
            return False
        async with self._db.transaction() as db:
            status = await db.execute(SQL["revoke_api_key"], key_id, at)
            if status != "UPDATE 1":
                return False
            await write_audit(db, audit)
            return True

    async def touch(self, used_at: dict[str, datetime]) -> None:
        async with self._db.connection() as db:
            arrays = rows.columns(sorted(used_at.items()), 2)
            await db.execute(SQL["touch_api_keys"], *arrays)
