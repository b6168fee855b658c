"""Map the ledger's values to PostgreSQL rows and arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import asyncpg

from entitlements.adapters import columns as names
from entitlements.adapters.decoding import delivered
from entitlements.adapters.letter_headers import headers_of, headers_text
from entitlements.adapters.mapping import Mapper, Stored, json_text, placed
from entitlements.app.inbox.store import DeadLetter, Headers
from entitlements.app.lifecycle.store import WaitingCall
from entitlements.app.outbox.store import Event, ParkedEvent, bucket_of
from entitlements.app.ports import (
    ApiKey,
    ImportedOperation,
    LimitEvent,
    LimitExceeded,
    LimitNear,
    OutboxRow,
)
from entitlements.app.webhooks.store import Delivery, Endpoint
from entitlements.core.model import (
    AuditEntry,
    ConsumptionRecord,
    Debt,
    Grant,
    GrantDetails,
    Hold,
    JobKey,
    Member,
    Operation,
    Receipt,
    StoredGrant,
    StoredJob,
    Wallet,
    WalletKey,
)
from entitlements.core.subscription import LifecycleCall, Subscription

_STORED: Final = {
    Headers: Stored(headers_of, headers_text),
    tuple[str, ...]: Stored(tuple, list),
}
_MAPPER: Final = Mapper(_STORED)
_IDS: Final = Mapper(
    _STORED,
    (
        "id",
        "reverses",
        "hold_id",
        "group_id",
        "operation_id",
        "endpoint_id",
        "event_id",
        "grant_id",
    ),
)
"""For rows whose ids are not selected as text."""

LOADED_RECEIPT: Final = len(("version", "allowances"))
LOADED_GRANT: Final = LOADED_RECEIPT + len(names.RECEIPT)
LOADED_HOLD: Final = LOADED_GRANT + len(names.GRANT)
LOADED_MEMBER: Final = LOADED_HOLD + len(names.HOLD)
"""The first columns of the parts of a `load` row."""
DUE_GRANT: Final = len(names.WALLET)
DUE_HOLD: Final = DUE_GRANT + len(names.GRANT_STATE)
"""The first columns of the parts of a `read_books` row."""

wallet = _MAPPER.decoder(Wallet, placed(names.WALLET))
_wallet_values = _MAPPER.encoder(Wallet, names.WALLET_MOVING)
grant = _MAPPER.decoder(Grant, placed(names.GRANT), of_wallet=True)
loaded_grant = _MAPPER.decoder(Grant, placed(names.GRANT, LOADED_GRANT), of_wallet=True)
due_grant = _MAPPER.decoder(
    Grant, placed(names.WALLET) | placed(names.GRANT_STATE, DUE_GRANT), of_wallet=True
)
stored_grant = _IDS.decoder(StoredGrant, placed(names.STORED_GRANT), of_wallet=True)
_grant_values = _MAPPER.encoder(Grant, names.GRANT)
_details_values = _MAPPER.encoder(GrantDetails, names.GRANT_DETAILS)
operation = _IDS.decoder(Operation, placed(names.OPERATION))
repayment = _IDS.decoder(Operation, placed(("n", *names.OPERATION, "reverses_seq")))
operation_values = _IDS.encoder(Operation, names.OPERATION)
_event_values = _MAPPER.encoder(OutboxRow, names.EVENT[1:])
hold = _IDS.decoder(Hold, placed(names.HOLD), of_wallet=True)
loaded_hold = _IDS.decoder(Hold, placed(names.HOLD, LOADED_HOLD), of_wallet=True)
due_hold = _IDS.decoder(Hold, placed(names.HOLD, DUE_HOLD), of_wallet=True)
member = _MAPPER.decoder(Member, placed(names.MEMBER))
loaded_member = _MAPPER.decoder(Member, placed(names.MEMBER, LOADED_MEMBER))
_member_values = _MAPPER.encoder(Member, names.MEMBER)
debt = _MAPPER.decoder(Debt, placed(names.DEBT))
_debt_values = _MAPPER.encoder(Debt, names.DEBT)
subscription = _IDS.decoder(Subscription, placed(names.SUBSCRIPTION))
subscription_values = _MAPPER.encoder(Subscription, names.SUBSCRIPTION)
lifecycle_call_values = _MAPPER.encoder(LifecycleCall, names.LIFECYCLE_CALL)
waiting_call = _IDS.decoder(WaitingCall, placed(names.WAITING_CALL))
receipt = _MAPPER.decoder(Receipt, placed(names.RECEIPT))
loaded_receipt = _MAPPER.decoder(Receipt, placed(names.RECEIPT, LOADED_RECEIPT))
receipt_values = _MAPPER.encoder(Receipt, names.RECEIPT)
job = _MAPPER.decoder(StoredJob, placed(names.JOB))
_job_values = _MAPPER.encoder(StoredJob, names.JOB)
use_record = _IDS.decoder(ConsumptionRecord, placed(names.RECORD))
record_values = _IDS.encoder(ConsumptionRecord, names.RECORD)
imported_operation = _MAPPER.decoder(ImportedOperation, placed(names.IMPORTED_OPERATION))
imported_values = _MAPPER.encoder(ImportedOperation, names.IMPORTED_OPERATION)
letter = _IDS.decoder(DeadLetter, placed(names.LETTER))
letter_values = _IDS.encoder(DeadLetter, names.LETTER[:-2])
audit_entry = _IDS.decoder(AuditEntry, placed(names.AUDIT))
audit_values = _IDS.encoder(AuditEntry, names.AUDIT)
api_key_values = _MAPPER.encoder(ApiKey, names.API_KEY[:6])
limit_event = _MAPPER.decoder(LimitEvent, placed(names.LIMIT_EVENT))
limit_exceeded_values = _MAPPER.encoder(LimitExceeded, names.LIMIT_EXCEEDED)
limit_near_values = _MAPPER.encoder(LimitNear, names.LIMIT_NEAR)
event = _MAPPER.decoder(Event, placed(names.WAITING))
parked = _MAPPER.decoder(ParkedEvent, placed(names.PARKED))
endpoint = _MAPPER.decoder(Endpoint, placed(names.ENDPOINT))
endpoint_values = _MAPPER.encoder(Endpoint, names.ENDPOINT[:-2])
new_endpoint_values = _MAPPER.encoder(Endpoint, (*names.ENDPOINT[:6], *names.ENDPOINT[-2:]))
delivery = delivered(_IDS.decoder(Delivery, placed(names.DELIVERY)))


def columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Transpose rows into one array per column."""
    if not rows:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*rows, strict=True)]


def key_of(row: asyncpg.Record) -> WalletKey:
    return WalletKey(row["subject_type"], row["subject_id"], row["credit_type"])


def hold_columns(
    created: Iterable[Hold], changed: Sequence[tuple[Hold, Hold]]
) -> tuple[str, str, list[str], list[int]]:
    """Return the arguments of `write_changed` for holds."""
    return (
        json_text(list(created)),
        json_text([hold for hold, _ in changed]),
        [loaded.status for _, loaded in changed],
        [loaded.held for _, loaded in changed],
    )


def new_debt_columns(opened: Iterable[Debt]) -> list[list[Any]]:
    return columns(list(map(_debt_values, opened)), 8)


def new_member_columns(joined: Iterable[Member]) -> list[list[Any]]:
    return columns(list(map(_member_values, joined)), len(names.MEMBER))


def member_columns(changed: Iterable[tuple[Member, Member]]) -> list[list[Any]]:
    """Return the members, each with the values that its row must still have."""
    values = [
        (*_member_values(now), was.month, was.drawn, was.left_at, was.monthly_cap)
        for now, was in changed
    ]
    return columns(values, len(names.MEMBER) + 4)


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


def wallet_columns(changed: Iterable[tuple[Wallet, int]]) -> list[list[Any]]:
    return columns([(*_wallet_values(wallet), loaded) for wallet, loaded in changed], 10)


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
                g.used,
            )
            for g, loaded in changed
        ],
        15,
    )


def new_grant_columns(created: Iterable[tuple[Grant, GrantDetails]]) -> list[list[Any]]:
    return columns(
        [
            (*_grant_values(grant), grant.is_live, grant.due_at, *_details_values(details))
            for grant, details in created
        ],
        len(names.GRANT) + 2 + len(names.GRANT_DETAILS),
    )


def grant_totals_columns(changed: Iterable[Wallet]) -> list[list[Any]]:
    rows = [(*w.key, w.balance_at_grant, w.unlimited, w.promised) for w in changed]
    return columns(rows, 6)


def event_values(event: OutboxRow) -> tuple[Any, ...]:
    return (bucket_of(event.wallet.subject_id), *_event_values(event))


def receipt_columns(receipts: Iterable[Receipt]) -> list[list[Any]]:
    """Return the columns, sorted so that batches with the same new keys do not deadlock."""
    ordered = sorted(receipts, key=lambda r: (r.client, r.key))
    return columns([receipt_values(receipt) for receipt in ordered], 6)


def job_keys(jobs: Iterable[JobKey]) -> list[list[Any]]:
    return columns([(_job_digest(job), *job) for job in jobs], 6)


def job_columns(jobs: Iterable[StoredJob]) -> list[list[Any]]:
    """Return the columns, sorted as in `receipt_columns`."""
    return columns(sorted((_job_digest(job.key), *_job_values(job)) for job in jobs), 8)


def _job_digest(job: JobKey) -> bytes:
    """Return the key of a job's row, computed as in the migration that added it: an index row is
    too small for five long ids. The separator is a control character, which no id contains.
    """
    return sha256("\x1f".join(job).encode()).digest()
