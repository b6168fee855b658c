"""Receipts and audit entries on SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from entitlements.adapters import listing
from entitlements.adapters.mapping import json_text
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.writing import write_audit, write_receipt
from entitlements.app.paging import Page
from entitlements.app.ports import AuditQuery, Cursor
from entitlements.core.model import AuditEntry, Receipt


class SqliteActs:
    """Implements `Acts`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def receipt(self, client: str, key: str) -> Receipt | None:
        row = await self._db.one("receipt", client, key)
        return rows.receipt(row) if row else None

    async def receipts(self, client: str, keys: Sequence[str]) -> list[Receipt]:
        found = await self._db.many("receipts", client, json_text(keys))
        return [rows.receipt(row) for row in found]

    async def add_receipt(self, receipt: Receipt) -> None:
        await self._db.write(lambda db: write_receipt(db, receipt))

    async def add_audit(self, entry: AuditEntry) -> None:
        await self._db.write(lambda db: write_audit(db, entry))

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        found = await self._db.listed(lambda: listing.audit(query, rows.to_us))
        end = found.next
        return Page(
            rows=[rows.audit_entry(row) for row in found.rows],
            next=Cursor(rows.from_us(end[0]), end[1]) if end else None,
        )

    async def purge(self, limit: int) -> int:
        def purge(db: apsw.Connection) -> int:
            db.execute(SQL["purge_receipts"], (self._db.now(), limit))
            return db.changes()

        return await self._db.write(purge)
