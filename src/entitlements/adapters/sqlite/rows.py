"""Map values to SQLite rows and back. Times are stored as microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from entitlements.adapters import columns
from entitlements.adapters.decoding import delivered
from entitlements.adapters.letter_headers import headers_of, headers_text
from entitlements.adapters.mapping import Mapper, Row, Stored, placed
from entitlements.app.inbox.store import DeadLetter, Headers
from entitlements.app.lifecycle.store import WaitingCall
from entitlements.app.outbox.store import Event, LeaseLine, ParkedEvent, bucket_of
from entitlements.app.ports import (
    ApiKey,
    Backlog,
    ImportedOperation,
    LimitEvent,
    LimitExceeded,
    LimitNear,
    OutboxRow,
    PastUse,
    PolicyVersion,
)
from entitlements.app.webhooks import store as webhooks
from entitlements.app.webhooks.store import Delivery, Endpoint
from entitlements.core.model import (
    AuditEntry,
    ConsumptionRecord,
    Debt,
    Grant,
    GrantDetails,
    Hold,
    Member,
    Operation,
    Receipt,
    StoredGrant,
    StoredJob,
    Wallet,
)
from entitlements.core.subscription import LifecycleCall, Subscription

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000


def to_us(at: datetime) -> int:
    """Return the microseconds since 1970 of an aware time."""
    since = at - _EPOCH
    return since.days * _DAY_US + since.seconds * 1_000_000 + since.microseconds


def to_us_or_none(at: datetime | None) -> int | None:
    return None if at is None else to_us(at)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


BEFORE_ALL: Final = (-(2**63), "")
"""A time and an id that sort before all rows."""
_MAPPER: Final = Mapper(
    {
        bool: Stored(bool),
        datetime: Stored(from_us, to_us),
        Headers: Stored(headers_of, headers_text),
    }
)

wallet = _MAPPER.decoder(Wallet, placed(columns.WALLET))
wallet_values = _MAPPER.encoder(Wallet, (*columns.WALLET_MOVING[3:], *columns.WALLET[:3]))
grant_totals = _MAPPER.encoder(Wallet, (*columns.WALLET[-3:], *columns.WALLET[:3]))
"""The key is last."""
grant = _MAPPER.decoder(Grant, placed(columns.GRANT), of_wallet=True)
stored_grant = _MAPPER.decoder(StoredGrant, placed(columns.STORED_GRANT), of_wallet=True)
_grant_values = _MAPPER.encoder(Grant, columns.GRANT)
_details_values = _MAPPER.encoder(GrantDetails, columns.GRANT_DETAILS)
operation = _MAPPER.decoder(Operation, placed(columns.OPERATION))
repayment = _MAPPER.decoder(Operation, placed((*columns.OPERATION, "reverses_seq")))
operation_values = _MAPPER.encoder(Operation, columns.OPERATION)
_event_values = _MAPPER.encoder(OutboxRow, columns.EVENT[1:])
receipt = _MAPPER.decoder(Receipt, placed(columns.RECEIPT))
receipt_values = _MAPPER.encoder(Receipt, columns.RECEIPT)
job = _MAPPER.decoder(StoredJob, placed(columns.JOB))
job_values = _MAPPER.encoder(StoredJob, columns.JOB)
debt = _MAPPER.decoder(Debt, placed(columns.DEBT))
new_debt_values = _MAPPER.encoder(Debt, columns.DEBT)
subscription = _MAPPER.decoder(Subscription, placed(columns.SUBSCRIPTION))
subscription_values = _MAPPER.encoder(Subscription, columns.SUBSCRIPTION)
lifecycle_call_values = _MAPPER.encoder(LifecycleCall, columns.LIFECYCLE_CALL)
waiting_call = _MAPPER.decoder(WaitingCall, placed(columns.WAITING_CALL))
hold = _MAPPER.decoder(Hold, placed(columns.HOLD), of_wallet=True)
member = _MAPPER.decoder(Member, placed(columns.MEMBER))
member_values = _MAPPER.encoder(Member, columns.MEMBER)
new_hold_values = _MAPPER.encoder(Hold, columns.HOLD)
_changing_values = _MAPPER.encoder(Hold, columns.HOLD_CHANGING)
use_record = _MAPPER.decoder(ConsumptionRecord, placed(columns.RECORD))
record_values = _MAPPER.encoder(ConsumptionRecord, columns.RECORD)
imported_operation = _MAPPER.decoder(ImportedOperation, placed(columns.IMPORTED_OPERATION))
imported_values = _MAPPER.encoder(ImportedOperation, columns.IMPORTED_OPERATION)
letter = _MAPPER.decoder(DeadLetter, placed(columns.LETTER))
letter_values = _MAPPER.encoder(DeadLetter, columns.LETTER[:-2])
audit_entry = _MAPPER.decoder(AuditEntry, placed(columns.AUDIT))
audit_values = _MAPPER.encoder(AuditEntry, columns.AUDIT)
api_key = _MAPPER.decoder(ApiKey, placed(columns.API_KEY))
api_key_values = _MAPPER.encoder(ApiKey, columns.API_KEY[:6])
policy_version = _MAPPER.decoder(PolicyVersion, placed(columns.POLICY_VERSION))
past_use = _MAPPER.decoder(PastUse, placed(columns.PAST_USE))
limit_event = _MAPPER.decoder(LimitEvent, placed(columns.LIMIT_EVENT))
limit_exceeded_values = _MAPPER.encoder(LimitExceeded, columns.LIMIT_EXCEEDED)
limit_near_values = _MAPPER.encoder(LimitNear, columns.LIMIT_NEAR)
event = _MAPPER.decoder(Event, placed(columns.WAITING))
lease = _MAPPER.decoder(LeaseLine, placed(columns.LEASE))
parked = _MAPPER.decoder(ParkedEvent, placed(columns.PARKED))
backlog = _MAPPER.decoder(Backlog, placed(columns.BACKLOG))
webhook_backlog = _MAPPER.decoder(webhooks.DeliveryBacklog, placed(columns.WEBHOOK_BACKLOG))
endpoint = _MAPPER.decoder(Endpoint, placed(columns.ENDPOINT))
endpoint_values = _MAPPER.encoder(Endpoint, columns.ENDPOINT[:-2])
new_endpoint_values = _MAPPER.encoder(Endpoint, (*columns.ENDPOINT[:6], *columns.ENDPOINT[-2:]))
delivery = delivered(_MAPPER.decoder(Delivery, placed(columns.DELIVERY)))


def new_grant_values(grant: Grant, details: GrantDetails, now: int) -> tuple[Any, ...]:
    live = (grant.is_live, to_us_or_none(grant.due_at))
    return (*_grant_values(grant), *live, *_details_values(details), now)


def grant_values(grant: Grant, loaded: Grant) -> tuple[Any, ...]:
    """Return the grant's mutable columns, its key, and the values its guard expects."""
    return (
        grant.remaining,
        grant.held,
        grant.used,
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


def renewal_values(grant: Grant) -> tuple[Any, ...]:
    moved = (to_us_or_none(grant.renews_at), grant.used_before, to_us_or_none(grant.expires_at))
    return (*moved, *grant.wallet, grant.id)


def event_values(event: OutboxRow) -> Row:
    return (bucket_of(event.wallet.subject_id), *_event_values(event))


def debt_values(debt: Debt, loaded: Debt) -> tuple[Any, ...]:
    return (
        debt.wallet.credit_type,
        debt.owed,
        debt.closed_by,
        *loaded.wallet,
        debt.operation_id,
        loaded.owed,
    )


def hold_values(hold: Hold, loaded: Hold) -> tuple[Any, ...]:
    """Return the hold's mutable columns, its key, and the values its guard expects."""
    return (*_changing_values(hold), *hold.wallet, hold.id, loaded.status, loaded.held)
