"""What is announced: the envelope and the data of each event, as other systems read them."""

from __future__ import annotations

from msgspec import Struct


class SubjectRef(Struct, frozen=True, gc=False):
    type: str
    id: str


class CreditBalanceChangedV1(Struct, frozen=True, gc=False, kw_only=True):
    """A wallet's balance moved by ``delta``; ``seq`` orders the wallet's events."""

    subject: SubjectRef
    delta: int
    new_balance: int
    reason: str
    correlation_id: str
    credit_type: str
    operation_id: str
    seq: int


class UsageRecordedV1(Struct, frozen=True, gc=False, kw_only=True):
    """``amount`` units of a metric were consumed."""

    subject: SubjectRef
    metric: str
    amount: int
    period_start: str
    period_end: str
    correlation_id: str


class UsageAuthorizedV1(Struct, frozen=True, gc=False, kw_only=True):
    """Credits were set aside for ``amount`` units of a metric; ``authorization_id`` is the hold."""

    subject: SubjectRef
    metric: str
    amount: int
    authorization_id: str
    expires_at: str | None = None
    correlation_id: str


class CreditShortfallRecordedV1(Struct, frozen=True, gc=False, kw_only=True):
    """Finished work that nobody could pay."""

    subject: SubjectRef
    metric: str
    amount: int
    owed: int
    operation_id: str
    correlation_id: str


class GrantEventV1(Struct, frozen=True, gc=False, kw_only=True):
    """A grant was created, revoked or has expired; ``quantity`` are the credits concerned."""

    subject: SubjectRef
    grant_id: str
    entitlement_type: str
    quantity: int
    reason: str | None
    at: str
    correlation_id: str


class RateLimitExceededV1(Struct, frozen=True, gc=False, kw_only=True):
    """A limit denied something to the subject; told at most once a minute for each metric."""

    subject: SubjectRef
    metric: str
    limit: int
    window_seconds: int
    correlation_id: str


EventData = (
    CreditBalanceChangedV1
    | UsageRecordedV1
    | UsageAuthorizedV1
    | CreditShortfallRecordedV1
    | GrantEventV1
    | RateLimitExceededV1
)


class Envelope(Struct, frozen=True, gc=False, kw_only=True):
    """Around every event; ``event_type`` is its topic, ``event_timestamp`` UTC with ``Z``."""

    event_id: str
    event_type: str
    event_timestamp: str
    source_service: str
    schema_version: int = 1
    correlation_id: str
    data_schema_uri: str | None = None
    data: EventData
    metadata: dict[str, str] = {}
