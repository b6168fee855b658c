"""Receipts and audit entries on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from entitlements.adapters import listing
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit, write_receipt
from entitlements.app.paging import Page
from entitlements.app.ports import AuditQuery, Cursor
from entitlements.core.model import AuditEntry, Receipt


class PostgresActs:
    """Implements `Acts`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def receipt(self, client: str, key: str) -> Receipt | None:
        row = await self._db.one("receipt", client, key)
        return rows.receipt(row) if row else None

    async def receipts(self, client: str, keys: Sequence[str]) -> list[Receipt]:
        return [rows.receipt(row) for row in await self._db.all("receipts", client, list(keys))]

    async def add_receipt(self, receipt: Receipt) -> None:
        async with self._db.connection() as db:
            await write_receipt(db, receipt)

    async def add_audit(self, entry: AuditEntry) -> None:
        async with self._db.connection() as db:
            await write_audit(db, entry)

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        found = await self._db.listed(lambda: listing.audit(query, lambda at: at))
        end = found.next
        return Page(
            rows=[rows.audit_entry(row) for row in found.rows],
            next=Cursor(end[0], str(end[1])) if end else None,
        )

    async def purge(self, limit: int) -> int:
        async with self._db.connection() as db:
            status = await db.execute(SQL["purge_receipts"], self._db.now(), limit)
        return int(status.rpartition(" ")[2])
