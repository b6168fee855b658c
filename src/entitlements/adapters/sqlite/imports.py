"""The history of an older service on SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from entitlements.adapters import listing
from entitlements.adapters.mapping import json_text
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.paging import Page
from entitlements.app.ports import Cursor, ImportedOperation, ImportedOperationsQuery


class SqliteImports:
    """Implements `ImportedHistory`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, operations: Sequence[ImportedOperation]) -> int:
        def add(db: apsw.Connection) -> int:
            before = db.total_changes()
            db.executemany(SQL["add_imported_operations"], map(rows.imported_values, operations))
            return db.total_changes() - before

        return await self._db.write(add)

    async def known(self, operations: Sequence[ImportedOperation]) -> int:
        keys = json_text([(*one.subject, one.id) for one in operations])
        ((known,),) = await self._db.many("known_imported_operations", keys)
        return int(known)

    async def operations(self, query: ImportedOperationsQuery) -> Page[ImportedOperation, Cursor]:
        found = await self._db.listed(lambda: listing.imported_operations(query, rows.to_us))
        end = found.next
        return Page(
            rows=[rows.imported_operation(row) for row in found.rows],
            next=Cursor(rows.from_us(end[0]), end[1]) if end else None,
        )
