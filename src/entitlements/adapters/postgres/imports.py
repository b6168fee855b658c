"""The history of an older service on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from entitlements.adapters import columns, listing
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.paging import Page
from entitlements.app.ports import Cursor, ImportedOperation, ImportedOperationsQuery


class PostgresImports:
    """Implements `ImportedHistory`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, operations: Sequence[ImportedOperation]) -> int:
        # In the order of the key, so that two imports of the same rows do not deadlock.
        values = sorted(map(rows.imported_values, operations), key=lambda row: row[:3])
        arrays = rows.columns(values, len(columns.IMPORTED_OPERATION))
        async with self._db.connection() as db:
            status = await db.execute(SQL["add_imported_operations"], *arrays)
        return int(status.rpartition(" ")[2])

    async def known(self, operations: Sequence[ImportedOperation]) -> int:
        keys = rows.columns([(*one.subject, one.id) for one in operations], 3)
        (row,) = await self._db.all("known_imported_operations", *keys)
        return int(row["known"])

    async def operations(self, query: ImportedOperationsQuery) -> Page[ImportedOperation, Cursor]:
        found = await self._db.listed(lambda: listing.imported_operations(query, lambda at: at))
        return Page(
            rows=[rows.imported_operation(row) for row in found.rows],
            next=Cursor(*found.next) if found.next else None,
        )
