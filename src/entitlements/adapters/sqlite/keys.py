"""API keys on SQLite."""

from __future__ import annotations

from datetime import datetime

import apsw

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.writing import write_audit
from entitlements.app.ports import ApiKey
from entitlements.core.model import AuditEntry


class SqliteKeys:
    """Implements `ApiKeys`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, secret_sha256: str) -> ApiKey | None:
        row = await self._db.one("api_key", secret_sha256)
        return rows.api_key(row) if row else None

    async def all(self) -> list[ApiKey]:
        return [rows.api_key(row) for row in await self._db.many("api_keys")]

    async def add(self, key: ApiKey, audit: AuditEntry) -> None:
        def add(db: apsw.Connection) -> None:
            db.execute(SQL["add_api_key"], rows.api_key_values(key))
            write_audit(db, audit)

        await self._db.write(add)

    async def revoke(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        def revoke(db: apsw.Connection) -> bool:
            db.execute(SQL["revoke_api_key"], (key_id, rows.to_us(at)))
            if db.changes() == 0:
                return False
            write_audit(db, audit)
            return True

        return await self._db.write(revoke)

    async def touch(self, used_at: dict[str, datetime]) -> None:
        used = [(key_id, rows.to_us(at)) for key_id, at in used_at.items()]

        def touch(db: apsw.Connection) -> None:
            db.executemany(SQL["touch_api_keys"], used)

        await self._db.write(touch)
