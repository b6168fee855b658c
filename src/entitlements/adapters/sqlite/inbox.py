"""The inbox port on SQLite: usage records and dead letters."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from entitlements.adapters import listing
from entitlements.adapters.sqlite import records, rows
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.inbox.store import (
    DeadLetter,
    LettersQuery,
    LetterState,
    Reason,
    RecordsQuery,
)
from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry, UseRecord


def add_conflict(db: apsw.Connection, record: UseRecord) -> None:
    db.execute(SQL["add_conflict"], rows.record_values(record))


def use_records(db: apsw.Connection, query: RecordsQuery) -> Page[UseRecord, str]:
    return records.listed(db, listing.records(query, rows.to_us)).page(rows.use_record)


def add_dead_letters(db: apsw.Connection, letters: Sequence[DeadLetter]) -> None:
    db.executemany(SQL["add_dead_letters"], map(rows.letter_values, letters))


def dead_letter(db: apsw.Connection, letter_id: str) -> DeadLetter | None:
    row = db.execute(SQL["dead_letter"], (letter_id,)).fetchone()
    return rows.letter(row) if row else None


def dead_letters(db: apsw.Connection, query: LettersQuery) -> Page[DeadLetter, str]:
    return records.listed(db, listing.dead_letters(query)).page(rows.letter)


def close_dead_letter(
    db: apsw.Connection, letter_id: str, state: LetterState, at_us: int, entry: AuditEntry
) -> bool:
    db.execute(SQL["close_dead_letter"], (letter_id, state, at_us))
    if db.changes() == 0:
        return False
    db.execute(SQL["write_audit"], rows.audit_values(entry))
    return True


def note_replay(db: apsw.Connection, letter_id: str, reason: Reason, detail: str) -> None:
    db.execute(SQL["note_replay"], (letter_id, reason, detail))


def open_dead_letters(db: apsw.Connection) -> int:
    ((found,),) = db.execute(SQL["open_dead_letters"])
    return int(found)
