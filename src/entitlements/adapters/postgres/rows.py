"""Map the ledger's values to PostgreSQL rows and arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import asyncpg
import msgspec

from entitlements.adapters.decoding import UNDECODABLE, unreadable
from entitlements.app.outbox.store import bucket_of
from entitlements.app.ports import LimitExceeded, OutboxRow
from entitlements.core.model import (
    AuditEntry,
    Billed,
    Closing,
    Debt,
    Draw,
    Grant,
    GrantDetails,
    GrantReason,
    Hold,
    HoldStatus,
    JobKey,
    JobRecord,
    Operation,
    OperationKind,
    OperationStatus,
    Receipt,
    Subject,
    Wallet,
    WalletKey,
)
from entitlements.core.outcomes import StoredOutcome
from entitlements.core.policy import Cost

_encode = msgspec.json.Encoder().encode
decode_outcome = msgspec.json.Decoder(StoredOutcome).decode
_decode_draws = msgspec.json.Decoder(tuple[Draw, ...]).decode
_decode_units = msgspec.json.Decoder(dict[str, int]).decode
_decode_costs = msgspec.json.Decoder(dict[str, Cost]).decode
_decode_billed = msgspec.json.Decoder(dict[str, Billed]).decode
_decode_closing = msgspec.json.Decoder(Closing).decode
_NO_DRAWS = "[]"


def encode_outcome(outcome: StoredOutcome) -> str:
    return _encode(outcome).decode()


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Transpose rows into one array per column."""
    if not rows:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*rows, strict=True)]


def key_of(row: asyncpg.Record) -> WalletKey:
    return WalletKey(row["subject_type"], row["subject_id"], row["credit_type"])


def wallet(row: asyncpg.Record) -> Wallet:
    """Decode a row that begins with the columns of `lock_wallets`."""
    return Wallet(
        key=WalletKey(row[0], row[1], row[2]),
        balance=row[3],
        held=row[4],
        overdraft=row[5],
        version=row[6],
        next_due_at=row[7],
        updated_at=row[8],
        balance_at_grant=row[9],
    )


def grant(row: asyncpg.Record, at: int = 0) -> Grant:
    """Decode the grant, whose columns begin at ``at`` with its wallet's key."""
    return _grant(WalletKey(row[at], row[at + 1], row[at + 2]), row, at + 3)


def due_grant(key: WalletKey, row: asyncpg.Record) -> Grant:
    """Decode the grant in the second part of a `read_books` row."""
    return _grant(key, row, 10)


def _grant(key: WalletKey, row: asyncpg.Record, at: int) -> Grant:
    try:
        return Grant(
            wallet=key,
            id=row[at],
            quantity=row[at + 1],
            remaining=row[at + 2],
            held=row[at + 3],
            priority=row[at + 4],
            granted_at=row[at + 5],
            expires_at=row[at + 6],
            reason=GrantReason(row[at + 7]),
            started=row[at + 8],
            ended_at=row[at + 9],
            end_reason=row[at + 10],
        )
    except UNDECODABLE as error:
        raise unreadable(key) from error


def _id(value: object) -> str | None:
    return None if value is None else str(value)


def operation(row: asyncpg.Record) -> Operation:
    return Operation(
        id=str(row["id"]),
        seq=row["seq"],
        kind=OperationKind(row["kind"]),
        wallet=key_of(row),
        user_id=row["user_id"],
        org_id=row["org_id"],
        metric=row["metric"],
        quantity=row["quantity"],
        amount=row["amount"],
        delta=row["delta"],
        balance_after=row["balance_after"],
        owed=row["owed"],
        draws=_decode_draws(row["draws"]),
        batch_id=row["batch_id"],
        consumed_from=row["consumed_from"],
        correlation_id=row["correlation_id"],
        status=OperationStatus(row["operation_status"]),
        reason=row["reason"],
        policy_version=row["policy_version"],
        actor=row["actor"],
        client=row["client"],
        reverses=_id(row["reverses"]),
        hold_id=_id(row["hold_id"]),
        counted=row["counted"],
        created_at=row["created_at"],
        effective_at=row["effective_at"],
        overdraft_after=row["overdraft_after"],
    )


def hold(row: asyncpg.Record, at: int = 0) -> Hold:
    """Decode the hold, whose columns begin at ``at`` in the order of `columns.HOLD`."""
    requirements, closing = row[at + 6], row[at + 15]
    try:
        return Hold(
            wallet=WalletKey(row[at], row[at + 1], row[at + 2]),
            id=str(row[at + 3]),
            user_id=row[at + 4],
            org_id=row[at + 5],
            requirements=None if requirements is None else _decode_units(requirements),
            taken=row[at + 7],
            held=row[at + 8],
            charged=row[at + 9],
            returned=row[at + 10],
            backing=_decode_draws(row[at + 11]),
            status=HoldStatus(row[at + 12]),
            expires_at=row[at + 13],
            settled=_decode_units(row[at + 14]),
            closing=None if closing is None else _decode_closing(closing),
            correlation_id=row[at + 16],
            policy_version=row[at + 17],
            actor=row[at + 18],
            client=row[at + 19],
            created_at=row[at + 20],
            closed_at=row[at + 21],
            costs=_decode_costs(row[at + 22]),
            billed=_decode_billed(row[at + 23]),
        )
    except UNDECODABLE as error:
        raise unreadable(WalletKey(row[at], row[at + 1], row[at + 2])) from error


def hold_columns(
    created: Iterable[Hold], changed: Sequence[tuple[Hold, Hold]]
) -> tuple[str, str, list[str], list[int]]:
    """Return the arguments of `write_changed` for holds."""
    return (
        _text(list(created)),
        _text([hold for hold, _ in changed]),
        [loaded.status for _, loaded in changed],
        [loaded.held for _, loaded in changed],
    )


def _text(value: object) -> str:
    return _encode(value).decode()


def debt(row: asyncpg.Record) -> Debt:
    return Debt(
        wallet=key_of(row),
        operation_id=row["operation_id"],
        owed=row["owed"],
        metric=row["metric"],
        created_at=row["created_at"],
        closed_by=row["closed_by"],
    )


def new_debt_columns(opened: Iterable[Debt]) -> list[list[Any]]:
    return columns(
        [(*d.wallet, d.operation_id, d.owed, d.metric, d.created_at, d.closed_by) for d in opened],
        8,
    )


def debt_columns(changed: Iterable[tuple[Debt, Debt]]) -> list[list[Any]]:
    return columns(
        [
            (
                *d.wallet,
                d.operation_id,
                d.owed,
                d.closed_by,
                loaded.wallet.credit_type,
                loaded.owed,
            )
            for d, loaded in changed
        ],
        8,
    )


def audit(row: asyncpg.Record) -> AuditEntry:
    subject_type = row["subject_type"]
    return AuditEntry(
        id=str(row["id"]),
        at=row["at"],
        actor=row["actor"],
        client=row["client"],
        action=row["action"],
        subject=Subject(subject_type, row["subject_id"]) if subject_type else None,
        reason=row["reason"],
        detail=msgspec.json.decode(row["detail"]),
        correlation_id=row["correlation_id"],
    )


def audit_arguments(entry: AuditEntry) -> tuple[Any, ...]:
    subject = entry.subject
    return (
        entry.id,
        entry.at,
        entry.actor,
        entry.client,
        entry.action,
        subject.type if subject else None,
        subject.id if subject else None,
        entry.reason,
        _encode(entry.detail).decode(),
        entry.correlation_id,
    )


def wallet_columns(changed: Iterable[tuple[Wallet, int]]) -> list[list[Any]]:
    return columns(
        [
            (*w.key, w.balance, w.held, w.overdraft, w.version, w.next_due_at, w.updated_at, loaded)
            for w, loaded in changed
        ],
        10,
    )


def grant_columns(changed: Iterable[tuple[Grant, Grant]]) -> list[list[Any]]:
    return columns(
        [
            (
                *g.wallet,
                g.id,
                g.remaining,
                g.held,
                g.started,
                g.ended_at,
                g.end_reason,
                g.is_live,
                g.due_at,
                loaded.remaining,
                loaded.is_live,
                loaded.held,
            )
            for g, loaded in changed
        ],
        14,
    )


def new_grant_columns(created: Iterable[tuple[Grant, GrantDetails]]) -> list[list[Any]]:
    return columns(
        [
            (
                *g.wallet,
                g.id,
                g.quantity,
                g.remaining,
                g.held,
                g.priority,
                g.granted_at,
                g.expires_at,
                g.reason,
                g.started,
                g.ended_at,
                g.end_reason,
                g.is_live,
                g.due_at,
                d.granted_by,
                d.reference_id,
                d.cost_microcents,
                d.notes,
                d.metadata,
            )
            for g, d in created
        ],
        21,
    )


def operation_records(operations: Iterable[Operation]) -> list[tuple[Any, ...]]:
    return [
        (
            *o.wallet,
            o.seq,
            o.id,
            o.kind,
            o.user_id,
            o.org_id,
            o.metric,
            o.quantity,
            o.amount,
            o.delta,
            o.balance_after,
            o.owed,
            _encode(o.draws).decode() if o.draws else _NO_DRAWS,
            o.batch_id,
            o.consumed_from,
            o.correlation_id,
            o.status,
            o.reason,
            o.policy_version,
            o.actor,
            o.client,
            o.reverses,
            o.hold_id,
            o.counted,
            o.created_at,
            o.effective_at,
            o.overdraft_after,
        )
        for o in operations
    ]


def outbox_records(rows: Iterable[OutboxRow]) -> list[tuple[Any, ...]]:
    return [
        (
            bucket_of(r.wallet.subject_id),
            *r.wallet,
            r.seq,
            r.n,
            r.event_id,
            r.event_type,
            r.key,
            r.payload,
            r.created_at,
            r.traceparent,
        )
        for r in rows
    ]


def receipt(row: asyncpg.Record, at: int) -> Receipt:
    """Decode the receipt, whose columns begin at ``at``."""
    return Receipt(
        client=row[at],
        key=row[at + 1],
        fingerprint=row[at + 2],
        outcome=decode_outcome(row[at + 3]),
        created_at=row[at + 4],
        expires_at=row[at + 5],
    )


def receipt_values(r: Receipt) -> tuple[Any, ...]:
    return (r.client, r.key, r.fingerprint, encode_outcome(r.outcome), r.created_at, r.expires_at)


def receipt_columns(receipts: Iterable[Receipt]) -> list[list[Any]]:
    """Return the columns, sorted so that batches with the same new keys do not deadlock."""
    ordered = sorted(receipts, key=lambda r: (r.client, r.key))
    return columns([receipt_values(receipt) for receipt in ordered], 6)


def job_keys(jobs: Iterable[JobKey]) -> list[list[Any]]:
    return columns([(_job_digest(job), *job) for job in jobs], 6)


def job_columns(jobs: Iterable[JobRecord]) -> list[list[Any]]:
    """Return the columns, sorted as in `receipt_columns`."""
    values = [
        (_job_digest(job.key), *job.key, job.units, encode_outcome(job.outcome)) for job in jobs
    ]
    return columns(sorted(values), 8)


def _job_digest(job: JobKey) -> bytes:
    """Return the key of a job's row, computed as in the migration that added it: an index row is
    too small for five long ids. The separator is a control character, which no id contains.
    """
    return sha256("\x1f".join(job).encode()).digest()


def limit_exceeded_row(event: LimitExceeded) -> tuple[Any, ...]:
    return (
        *event.subject,
        event.metric,
        event.minute,
        event.event_id,
        event.event_type,
        event.key,
        event.payload,
        event.created_at,
    )
