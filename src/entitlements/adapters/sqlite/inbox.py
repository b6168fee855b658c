"""The inbox on SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import apsw

from entitlements.adapters import listing
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.writing import write_audit, write_receipt
from entitlements.app.inbox.store import DeadLetter, LettersQuery, LetterState, Reason, RecordsQuery
from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry, ConsumptionRecord, Receipt


class SqliteInbox:
    """Implements `Inbox`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def use_records(self, query: RecordsQuery) -> Page[ConsumptionRecord, str]:
        found = await self._db.listed(lambda: listing.records(query, rows.to_us))
        return found.page(rows.use_record)

    async def add_conflict(self, record: ConsumptionRecord) -> None:
        def add(db: apsw.Connection) -> None:
            db.execute(SQL["add_conflict"], rows.record_values(record))

        await self._db.write(add)

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        def add(db: apsw.Connection) -> None:
            db.executemany(SQL["add_dead_letters"], map(rows.letter_values, letters))

        await self._db.write(add)

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        row = await self._db.one("dead_letter", letter_id)
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
        def close(db: apsw.Connection) -> bool:
            db.execute(SQL["close_dead_letter"], (letter_id, state, rows.to_us(at)))
            if db.changes() == 0:
                return False
            write_audit(db, audit)
            write_receipt(db, receipt)
            return True

        return await self._db.write(close)

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        def note(db: apsw.Connection) -> None:
            db.execute(SQL["note_replay"], (letter_id, reason, detail))

        await self._db.write(note)

    async def open_dead_letters(self) -> int:
        ((letters,),) = await self._db.many("open_dead_letters")
        return int(letters)
