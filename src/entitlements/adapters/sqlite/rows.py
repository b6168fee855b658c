"""Map values to SQLite rows and back. Times are stored as microseconds since 1970 UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from entitlements.adapters.decoding import UNDECODABLE, unreadable
from entitlements.app.outbox.store import bucket_of
from entitlements.app.ports import ApiKey, LimitExceeded, OutboxRow, PastUse
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

Row = Sequence[Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_REASONS = {reason.value: reason for reason in GrantReason}
_encode = msgspec.json.Encoder().encode
_decode_outcome = msgspec.json.Decoder(StoredOutcome).decode
_decode_draws = msgspec.json.Decoder(tuple[Draw, ...]).decode
_decode_units = msgspec.json.Decoder(dict[str, int]).decode
_decode_costs = msgspec.json.Decoder(dict[str, Cost]).decode
_decode_billed = msgspec.json.Decoder(dict[str, Billed]).decode
_decode_closing = msgspec.json.Decoder(Closing).decode
_decode_detail = msgspec.json.Decoder(dict[str, Any]).decode


def to_us(at: datetime) -> int:
    """Return the microseconds since 1970 of an aware time."""
    since = at - _EPOCH
    return since.days * _DAY_US + since.seconds * 1_000_000 + since.microseconds


def to_us_or_none(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def from_us_or_none(us: int | None) -> datetime | None:
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def json_text(value: object) -> str:
    return _encode(value).decode()


def wallet(key: WalletKey, row: Row) -> Wallet:
    balance, held, overdraft, version, next_due_at, updated_at, balance_at_grant = row
    return Wallet(
        key=key,
        balance=balance,
        held=held,
        overdraft=overdraft,
        version=version,
        next_due_at=from_us_or_none(next_due_at),
        updated_at=from_us(updated_at),
        balance_at_grant=balance_at_grant,
    )


def wallet_values(wallet: Wallet) -> tuple[Any, ...]:
    """Return the values of its columns, the key last."""
    return (
        wallet.balance,
        wallet.held,
        wallet.overdraft,
        wallet.version,
        to_us_or_none(wallet.next_due_at),
        to_us(wallet.updated_at),
        *wallet.key,
    )


def grant(row: Row) -> Grant:
    try:
        return Grant(
            wallet=WalletKey(row[0], row[1], row[2]),
            id=row[3],
            quantity=row[4],
            remaining=row[5],
            held=row[6],
            priority=row[7],
            granted_at=from_us(row[8]),
            expires_at=from_us_or_none(row[9]),
            reason=_REASONS[row[10]],
            started=row[11] == 1,
            ended_at=from_us_or_none(row[12]),
            end_reason=row[13],
        )
    except UNDECODABLE as error:
        raise unreadable(WalletKey(row[0], row[1], row[2])) from error


def new_grant_values(grant: Grant, details: GrantDetails, now: int) -> tuple[Any, ...]:
    return (
        *grant.wallet,
        grant.id,
        grant.quantity,
        grant.remaining,
        grant.held,
        grant.priority,
        to_us(grant.granted_at),
        to_us_or_none(grant.expires_at),
        grant.reason,
        grant.started,
        to_us_or_none(grant.ended_at),
        grant.end_reason,
        grant.is_live,
        to_us_or_none(grant.due_at),
        details.granted_by,
        details.reference_id,
        details.cost_microcents,
        details.notes,
        details.metadata,
        now,
    )


def grant_values(grant: Grant, loaded: Grant) -> tuple[Any, ...]:
    """Return the grant's mutable columns, its key, and the values its guard expects."""
    return (
        grant.remaining,
        grant.held,
        grant.started,
        to_us_or_none(grant.ended_at),
        grant.end_reason,
        grant.is_live,
        to_us_or_none(grant.due_at),
        *grant.wallet,
        grant.id,
        loaded.remaining,
        loaded.held,
        loaded.started,
        to_us_or_none(loaded.ended_at),
    )


def operation(row: Row) -> Operation:
    return Operation(
        wallet=WalletKey(row[0], row[1], row[2]),
        seq=row[3],
        id=row[4],
        kind=OperationKind(row[5]),
        user_id=row[6],
        org_id=row[7],
        metric=row[8],
        quantity=row[9],
        amount=row[10],
        delta=row[11],
        balance_after=row[12],
        owed=row[13],
        draws=_decode_draws(row[14]),
        batch_id=row[15],
        consumed_from=row[16],
        correlation_id=row[17],
        status=OperationStatus(row[18]),
        reason=row[19],
        policy_version=row[20],
        actor=row[21],
        client=row[22],
        reverses=row[23],
        hold_id=row[24],
        counted=row[25],
        created_at=from_us(row[26]),
        effective_at=from_us(row[27]),
        overdraft_after=row[28],
    )


def operation_values(operation: Operation) -> tuple[Any, ...]:
    created_at = to_us(operation.created_at)
    immediate = operation.effective_at is operation.created_at
    return (
        *operation.wallet,
        operation.seq,
        operation.id,
        operation.kind,
        operation.user_id,
        operation.org_id,
        operation.metric,
        operation.quantity,
        operation.amount,
        operation.delta,
        operation.balance_after,
        operation.owed,
        json_text(operation.draws),
        operation.batch_id,
        operation.consumed_from,
        operation.correlation_id,
        operation.status,
        operation.reason,
        operation.policy_version,
        operation.actor,
        operation.client,
        operation.reverses,
        operation.hold_id,
        operation.counted,
        created_at,
        created_at if immediate else to_us(operation.effective_at),
        operation.overdraft_after,
    )


def event_values(event: OutboxRow) -> tuple[Any, ...]:
    return (
        bucket_of(event.wallet.subject_id),
        *event.wallet,
        event.seq,
        event.n,
        event.event_id,
        event.event_type,
        event.key,
        event.payload,
        to_us(event.created_at),
        event.traceparent,
    )


def receipt(row: Row) -> Receipt:
    return Receipt(
        client=row[0],
        key=row[1],
        fingerprint=row[2],
        outcome=_decode_outcome(row[3]),
        created_at=from_us(row[4]),
        expires_at=from_us(row[5]),
    )


def receipt_values(receipt: Receipt) -> tuple[Any, ...]:
    return (
        receipt.client,
        receipt.key,
        receipt.fingerprint,
        json_text(receipt.outcome),
        to_us(receipt.created_at),
        to_us(receipt.expires_at),
    )


def job(key: JobKey, row: Row) -> JobRecord:
    return JobRecord(key=key, units=row[0], outcome=_decode_outcome(row[1]))


def job_values(job: JobRecord) -> tuple[Any, ...]:
    return (*job.key, job.units, json_text(job.outcome))


def debt(row: Row) -> Debt:
    return Debt(
        wallet=WalletKey(row[0], row[1], row[2]),
        operation_id=row[3],
        owed=row[4],
        metric=row[5],
        created_at=from_us(row[6]),
        closed_by=row[7],
    )


def new_debt_values(debt: Debt) -> tuple[Any, ...]:
    return (
        *debt.wallet,
        debt.operation_id,
        debt.owed,
        debt.metric,
        to_us(debt.created_at),
        debt.closed_by,
    )


def debt_values(debt: Debt, loaded: Debt) -> tuple[Any, ...]:
    return (
        debt.wallet.credit_type,
        debt.owed,
        debt.closed_by,
        *loaded.wallet,
        debt.operation_id,
        loaded.owed,
    )


def hold(row: Row) -> Hold:
    try:
        return Hold(
            wallet=WalletKey(row[0], row[1], row[2]),
            id=row[3],
            user_id=row[4],
            org_id=row[5],
            requirements=None if row[6] is None else _decode_units(row[6]),
            taken=row[7],
            held=row[8],
            charged=row[9],
            returned=row[10],
            backing=_decode_draws(row[11]),
            status=HoldStatus(row[12]),
            expires_at=from_us(row[13]),
            settled=_decode_units(row[14]),
            closing=None if row[15] is None else _decode_closing(row[15]),
            correlation_id=row[16],
            policy_version=row[17],
            actor=row[18],
            client=row[19],
            created_at=from_us(row[20]),
            closed_at=from_us_or_none(row[21]),
            costs=_decode_costs(row[22]),
            billed=_decode_billed(row[23]),
        )
    except UNDECODABLE as error:
        raise unreadable(WalletKey(row[0], row[1], row[2])) from error


def new_hold_values(hold: Hold) -> tuple[Any, ...]:
    return (
        *hold.wallet,
        hold.id,
        hold.user_id,
        hold.org_id,
        None if hold.requirements is None else json_text(hold.requirements),
        hold.taken,
        *_changing(hold)[:-2],
        hold.correlation_id,
        hold.policy_version,
        hold.actor,
        hold.client,
        to_us(hold.created_at),
        to_us_or_none(hold.closed_at),
        json_text(hold.costs),
        json_text(hold.billed),
    )


def hold_values(hold: Hold, loaded: Hold) -> tuple[Any, ...]:
    """Return the hold's mutable columns, its key, and the values its guard expects."""
    return (*_changing(hold), *hold.wallet, hold.id, loaded.status, loaded.held)


def _changing(hold: Hold) -> tuple[Any, ...]:
    return (
        hold.held,
        hold.charged,
        hold.returned,
        json_text(hold.backing),
        hold.status,
        to_us(hold.expires_at),
        json_text(hold.settled),
        None if hold.closing is None else json_text(hold.closing),
        to_us_or_none(hold.closed_at),
        json_text(hold.billed),
    )


def api_key(row: Row) -> ApiKey:
    return ApiKey(
        id=row[0],
        name=row[1],
        role=row[2],
        prefix=row[3],
        secret_sha256=row[4],
        created_at=from_us(row[5]),
        revoked_at=from_us_or_none(row[6]),
        last_used_at=from_us_or_none(row[7]),
    )


def api_key_values(key: ApiKey) -> tuple[Any, ...]:
    return (
        key.id,
        key.name,
        key.role,
        key.prefix,
        key.secret_sha256,
        to_us(key.created_at),
    )


def audit_entry(row: Row) -> AuditEntry:
    return AuditEntry(
        id=row[0],
        at=from_us(row[1]),
        actor=row[2],
        client=row[3],
        action=row[4],
        subject=None if row[5] is None else Subject(row[5], row[6]),
        reason=row[7],
        detail=_decode_detail(row[8]),
        correlation_id=row[9],
    )


def audit_values(entry: AuditEntry) -> tuple[Any, ...]:
    subject_type, subject_id = entry.subject or (None, None)
    return (
        entry.id,
        to_us(entry.at),
        entry.actor,
        entry.client,
        entry.action,
        subject_type,
        subject_id,
        entry.reason,
        json_text(entry.detail),
        entry.correlation_id,
    )


def limit_exceeded_values(event: LimitExceeded) -> Row:
    return (
        *event.subject,
        event.metric,
        event.minute,
        event.event_id,
        event.event_type,
        event.key,
        event.payload,
        to_us(event.created_at),
    )


def past_use(row: Row) -> PastUse:
    user_id, org_id, metric, number, units, of_user, of_org = row
    return PastUse(user_id, org_id, metric, number, units, bool(of_user), bool(of_org))
