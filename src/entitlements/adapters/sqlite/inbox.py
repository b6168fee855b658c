"""The inbox port on SQLite: usage records and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from entitlements.adapters import listing
from entitlements.adapters.letter_headers import headers_of, headers_text
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
from entitlements.core.model import AuditEntry, Report, UseRecord
from entitlements.core.outcomes import UseResult


def record_values(record: UseRecord) -> tuple[Any, ...]:
    """Return the values of its columns, in order."""
    told = record.report
    return (
        record.id,
        told.user_id,
        told.event_id,
        told.event_type,
        told.source_service,
        told.org_id,
        told.metric,
        told.units,
        told.service_name,
        told.processing_id,
        told.batch_id,
        told.hold_id,
        record.result,
        record.operation_id,
        record.credits,
        record.owed,
        record.reason,
        record.correlation_id,
        told.trace_id,
        rows.to_us_or_none(told.reported_at),
        rows.to_us_or_none(told.consumed_at),
        rows.to_us(record.recorded_at),
    )


def use_record(row: rows.Row) -> UseRecord:
    return UseRecord(
        id=row[0],
        report=Report(
            user_id=row[1],
            event_id=row[2],
            event_type=row[3],
            source_service=row[4],
            org_id=row[5],
            metric=row[6],
            units=row[7],
            service_name=row[8],
            processing_id=row[9],
            batch_id=row[10],
            hold_id=row[11],
            trace_id=row[18],
            reported_at=rows.from_us_or_none(row[19]),
            consumed_at=rows.from_us_or_none(row[20]),
        ),
        result=UseResult(row[12]),
        operation_id=row[13],
        credits=row[14],
        owed=row[15],
        reason=row[16],
        correlation_id=row[17],
        recorded_at=rows.from_us(row[21]),
    )


def add_conflict(db: apsw.Connection, record: UseRecord) -> None:
    db.execute(SQL["add_conflict"], record_values(record))


def use_records(db: apsw.Connection, query: RecordsQuery) -> Page[UseRecord, str]:
    return records.listed(db, listing.records(query, rows.to_us)).page(use_record)


def add_dead_letters(db: apsw.Connection, letters: Sequence[DeadLetter]) -> None:
    db.executemany(
        SQL["add_dead_letters"],
        [
            (
                one.id,
                one.topic,
                one.partition,
                one.offset,
                one.key,
                one.value,
                headers_text(one.headers),
                one.reason,
                one.detail,
                rows.to_us(one.died_at),
            )
            for one in letters
        ],
    )


def dead_letter(db: apsw.Connection, letter_id: str) -> DeadLetter | None:
    row = db.execute(SQL["dead_letter"], (letter_id,)).fetchone()
    return _letter(row) if row else None


def dead_letters(db: apsw.Connection, query: LettersQuery) -> Page[DeadLetter, str]:
    return records.listed(db, listing.dead_letters(query)).page(_letter)


def _letter(row: rows.Row) -> DeadLetter:
    return DeadLetter(
        id=row[0],
        topic=row[1],
        partition=row[2],
        offset=row[3],
        key=row[4],
        value=row[5],
        headers=headers_of(row[6]),
        reason=Reason(row[7]),
        detail=row[8],
        died_at=rows.from_us(row[9]),
        state=LetterState(row[10]),
        closed_at=rows.from_us_or_none(row[11]),
    )


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
    (row,) = db.execute(SQL["open_dead_letters"]).fetchall()
    found: rows.Row = row
    return int(found[0])
