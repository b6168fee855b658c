"""Bodies of the outbox: waiting and parked events, and relays."""

from datetime import datetime

from msgspec import Struct

from entitlements.contracts.http.fields import OptionalReason, PageLimit, SubjectType


class OutboxRelay(Struct, frozen=True, gc=False, kw_only=True):
    """A relay and the outbox buckets that it leases.

    ``relay`` is null for buckets that no relay publishes now. ``sink`` is the external sink of the
    buckets, or null if they have none.
    """

    relay: str | None
    sink: str | None
    buckets: int
    expires_at: datetime | None


class OutboxResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Waiting and parked events, each counted up to 10,000, and the relays."""

    waiting: int
    oldest_at: datetime | None
    parked: int
    relays: list[OutboxRelay]
    correlation_id: str


class ParkedQuery(Struct, frozen=True, kw_only=True):
    limit: PageLimit = 100
    cursor: str | None = None


class ParkedItem(Struct, frozen=True, gc=False, kw_only=True):
    """A parked event. ``attempts`` counts those of the relay that parked it.

    ``reason`` is the error of the sink.
    """

    event_id: str
    event_type: str
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    seq: int
    reason: str
    attempts: int
    created_at: datetime
    parked_at: datetime


class ParkedResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Parked events, the earliest parked first. ``next_cursor`` is null on the last page."""

    events: list[ParkedItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class OutboxRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class OutboxChanged(Struct, frozen=True, gc=False, kw_only=True):
    """``changed`` is the number of changed events or outbox buckets."""

    success: bool
    changed: int
    correlation_id: str
    replayed: bool = False
