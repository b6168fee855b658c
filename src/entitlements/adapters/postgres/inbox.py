"""The inbox on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from entitlements.adapters import listing
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit, write_receipt
from entitlements.app.inbox.store import DeadLetter, LettersQuery, LetterState, Reason, RecordsQuery
from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry, ConsumptionRecord, Receipt


class PostgresInbox:
    """Implements `Inbox`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def use_records(self, query: RecordsQuery) -> Page[ConsumptionRecord, str]:
        found = await self._db.listed(lambda: listing.records(query, lambda at: at))
        return found.page(rows.use_record)

    async def add_conflict(self, record: ConsumptionRecord) -> None:
        async with self._db.connection() as db:
            await db.execute(SQL["add_conflict"], *rows.record_values(record))

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        async with self._db.connection() as db:
            arrays = rows.columns([rows.letter_values(one) for one in letters], 10)
            await db.execute(SQL["add_dead_letters"], *arrays)

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        row = await self._db.named("dead_letter", letter_id)
        return rows.letter(row) if row else None

    async def dead_letters(self, query: LettersQuery) -> Page[DeadLetter, str]:
        found = await self._db.listed(lambda: listing.dead_letters(query))
        return found.page(rows.letter)

    async def close_dead_letter(
        self,
        letter_id: str,
        state: LetterState,
        at: datetime,
        audit: AuditEntry,
        receipt: Receipt | None = None,
    ) -> bool:
        async with self._db.transaction() as db:
            status = await db.execute(SQL["close_dead_letter"], letter_id, state, at)
            if status != "UPDATE 1":
                return False
            await write_audit(db, audit)
            await write_receipt(db, receipt)
            return True

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        async with self._db.connection() as db:
            await db.execute(SQL["note_replay"], letter_id, reason, detail)

    async def open_dead_letters(self) -> int:
        (row,) = await self._db.all("open_dead_letters")
        return int(row["letters"])
