"""Map usage records and dead letters to PostgreSQL rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg

from entitlements.adapters.letter_headers import headers_of, headers_text
from entitlements.app.inbox.store import DeadLetter, LetterState, Reason
from entitlements.core.model import Report, UseRecord
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
        told.reported_at,
        told.consumed_at,
        record.recorded_at,
    )


def record_rows(records: Iterable[UseRecord]) -> list[tuple[Any, ...]]:
    """Return the rows sorted by key, so that concurrent transactions do not deadlock."""
    return [record_values(one) for one in sorted(records, key=lambda one: one.report.key)]


def use_record(row: asyncpg.Record) -> UseRecord:
    return UseRecord(
        id=str(row["id"]),
        report=Report(
            user_id=row["user_id"],
            event_id=row["event_id"],
            event_type=row["event_type"],
            source_service=row["source_service"],
            org_id=row["org_id"],
            metric=row["resource_type"],
            units=row["units"],
            service_name=row["service_name"],
            processing_id=row["processing_id"],
            batch_id=row["batch_id"],
            hold_id=_text(row["hold_id"]),
            trace_id=row["trace_id"],
            reported_at=row["reported_at"],
            consumed_at=row["consumed_at"],
        ),
        result=UseResult(row["outcome"]),
        operation_id=_text(row["operation_id"]),
        credits=row["credits"],
        owed=row["owed"],
        reason=row["reason"],
        correlation_id=row["correlation_id"],
        recorded_at=row["recorded_at"],
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def letter_values(letter: DeadLetter) -> tuple[Any, ...]:
    return (
        letter.id,
        letter.topic,
        letter.partition,
        letter.offset,
        letter.key,
        letter.value,
        headers_text(letter.headers),
        letter.reason,
        letter.detail,
        letter.died_at,
    )


def letter(row: asyncpg.Record) -> DeadLetter:
    return DeadLetter(
        id=str(row["id"]),
        topic=row["topic"],
        partition=row["partition"],
        offset=row["position"],
        key=row["key"],
        value=row["value"],
        headers=headers_of(row["headers"]),
        reason=Reason(row["reason"]),
        detail=row["detail"],
        died_at=row["died_at"],
        state=LetterState(row["state"]),
        closed_at=row["closed_at"],
    )
