"""Bodies of consumed events: consumption records, dead letters and the consumer."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from entitlements.contracts.http.fields import (
    AwareTime,
    IdFilter,
    OptionalReason,
    PageLimit,
    Reason,
    TextFilter,
)

UseOutcome = Literal["charged", "free", "failed", "duplicate", "conflict", "settled"]


class ConsumptionRecordsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive."""

    user_id: IdFilter | None = None
    org_id: IdFilter | None = None
    resource_type: TextFilter | None = None
    outcome: UseOutcome | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class ConsumptionRecordItem(Struct, frozen=True, gc=False, kw_only=True):
    """The result of one usage report.

    For a duplicate or conflict, ``operation_id`` is the operation that it repeats. ``event_type``
    is ``request`` if a request repeated a job.
    """

    id: str
    event_id: str
    event_type: str
    source_service: str
    user_id: str | None
    org_id: str | None
    resource_type: str
    units: int
    service_name: str | None
    processing_id: str | None
    batch_id: str | None
    hold_id: str | None
    outcome: UseOutcome
    operation_id: str | None
    credits: int
    owed: int
    reason: str | None
    correlation_id: str
    trace_id: str | None
    reported_at: datetime | None
    consumed_at: datetime | None
    recorded_at: datetime


class ConsumptionRecordsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Consumption records, newest first. ``next_cursor`` is null on the last page."""

    records: list[ConsumptionRecordItem]
    count: int
    next_cursor: str | None
    correlation_id: str


DeadLetterState = Literal["open", "replayed", "dropped"]
DeadLetterReason = Literal["malformed", "unpriceable", "failed"]


class DeadLettersFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything, except ``state``."""

    state: Literal["open", "replayed", "dropped", "all"] = "open"
    topic: TextFilter | None = None
    reason: DeadLetterReason | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class DeadLetterItem(Struct, frozen=True, gc=False, kw_only=True):
    """An event that could not be processed, with its topic, partition and offset."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: DeadLetterReason
    detail: str
    died_at: datetime
    state: DeadLetterState
    closed_at: datetime | None


class DeadLettersResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Dead letters, newest first. ``next_cursor`` is null on the last page."""

    dead_letters: list[DeadLetterItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class HeaderItem(Struct, frozen=True, gc=False, kw_only=True):
    name: str
    value: bytes | None


class DeadLetterResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The original event; bytes are base64. ``text`` is the value as text, or null."""

    dead_letter: DeadLetterItem
    key: bytes | None
    value: bytes | None
    text: str | None
    headers: list[HeaderItem]
    correlation_id: str


class ReplayRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class ReplayResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``success`` false: the event still cannot be processed; ``result`` and ``detail`` say why."""

    success: bool
    dead_letter_id: str
    state: DeadLetterState
    result: str
    detail: str | None
    operation_id: str | None
    correlation_id: str
    replayed: bool = False


class DropRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: Reason


class DropResponse(Struct, frozen=True, gc=False, kw_only=True):
    success: bool
    dead_letter_id: str
    state: DeadLetterState
    correlation_id: str
    replayed: bool = False


class ConsumedPartition(Struct, frozen=True, gc=False, kw_only=True):
    """``position`` is the next offset to read, ``lag`` the number of unread records.

    Each is null if the broker has not reported it.
    """

    topic: str
    partition: int
    position: int | None
    lag: int | None


class ConsumerResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The consumer of the responding process; ``status`` is ``none`` if it has no consumer."""

    status: Literal["none", "running", "paused", "restarting", "stopped"]
    group: str | None
    problem: str | None
    restarts: int
    partitions: list[ConsumedPartition]
    correlation_id: str
