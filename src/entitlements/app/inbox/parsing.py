"""Parse records into commands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from entitlements.app.inbox.records import ConsumerRecord, DeadLettered
from entitlements.app.inbox.store import Reason
from entitlements.contracts import names
from entitlements.contracts.events.inbound import (
    ResourceConsumptionV1,
    UsageReportedV1,
    UserRegisteredV1,
)
from entitlements.contracts.events.topics import INBOUND, Topic
from entitlements.contracts.fields import traceparent
from entitlements.contracts.kinds import kept, normalised
from entitlements.contracts.reading import Malformed, Received, malformed, read
from entitlements.core.commands import IngestUsage, OpenAccount, Origin
from entitlements.core.model import Subject, UsageReport

ACTOR: Final = "consumer"
BATCH: Final = "batch"
RECEIPT_S: Final = 3_600
"""An account is opened once; its receipt only resolves a commit of unknown outcome."""
_TRACE_ID: Final = slice(3, 35)

ParsedCommand = IngestUsage | OpenAccount


class Parser:
    """Parses the records of all topics under a prefix."""

    def __init__(self, prefix: str, new_id: Callable[[], str]) -> None:
        self.topics: dict[str, Topic] = {topic.under(prefix): topic for topic in INBOUND}
        self.new_id = new_id

    def parse(self, record: ConsumerRecord) -> ParsedCommand | DeadLettered:
        """Return the command of the record, before its hold, if it names one, is looked up."""
        topic = self.topics.get(record.topic)
        if topic is None:
            return _malformed("unexpected topic")
        try:
            received = read(record.value, topic.data)
            return self._command(received, _span(record, received))
        except Malformed as error:
            return _malformed(error.reason)

    def _command(self, received: Received[Any], span: str | None) -> ParsedCommand:
        match received.data:
            case ResourceConsumptionV1() as data:
                return self._consumption(received, data, span)
            case UserRegisteredV1() as data:
                return self._registration(received, data, span)
            case UsageReportedV1() as data:
                return self._usage(received, data, span)
            case data:
                raise AssertionError(type(data))

    def _consumption(
        self, received: Received[Any], data: ResourceConsumptionV1, span: str | None
    ) -> IngestUsage:
        user_id, org_id = _identity(received, data)
        is_batch = data.entity_type == BATCH
        report = self._report(
            received,
            span,
            user_id=user_id,
            org_id=org_id,
            metric=data.resource_type,
            units=data.quantity,
            service_name=data.service_name,
            processing_id=data.processing_id,
            batch_id=kept("entity_id", names.optional_name, data.entity_id, malformed)
            if is_batch
            else None,
            hold_id=data.hold_id,
            reported_at=_utc(data.timestamp or received.event_timestamp),
            consumed_at=_utc(data.consumed_at),
        )
        return self._reporting(report, received, span)

    def _usage(
        self, received: Received[Any], data: UsageReportedV1, span: str | None
    ) -> IngestUsage:
        subject_id = str(data.subject.id)
        is_user = data.subject.type == "user"
        report = self._report(
            received,
            span,
            user_id=subject_id if is_user else "",
            org_id=None if is_user else subject_id,
            metric=data.metric,
            units=data.amount,
            reported_at=_utc(received.event_timestamp),
            consumed_at=_utc(data.period_end),
        )
        return self._reporting(report, received, span, data.correlation_id, is_charged=False)

    def _report(self, received: Received[Any], span: str | None, **told: Any) -> UsageReport:
        return UsageReport(
            event_id=received.event_id,
            event_type=received.event_type,
            source_service=received.source_service,
            trace_id=span[_TRACE_ID] if span is not None else None,
            **told,
        )

    def _reporting(
        self,
        report: UsageReport,
        received: Received[Any],
        span: str | None,
        correlation_id: str | None = None,
        *,
        is_charged: bool = True,
    ) -> IngestUsage:
        return IngestUsage(
            id=self.new_id(),
            origin=_origin(received, correlation_id, span, key=report.event_id),
            report=report,
            is_charged=is_charged,
        )

    def _registration(
        self, received: Received[Any], data: UserRegisteredV1, span: str | None
    ) -> OpenAccount:
        user_id, org_id = _identity(received, data)
        key = f"{received.event_id} {user_id}"
        return OpenAccount(
            id=self.new_id(),
            origin=_origin(received, data.correlation_id, span, key=key),
            subject=Subject("user", user_id),
            org_id=org_id,
            by_operator=False,
        )


def _span(record: ConsumerRecord, received: Received[Any]) -> str | None:
    """Return the trace context of the header, or of the metadata."""
    told = received.metadata.traceparent
    beside = told.encode() if isinstance(told, str) else None
    return traceparent(record.header("traceparent")) or traceparent(beside)


def _malformed(detail: str) -> DeadLettered:
    return DeadLettered(reason=Reason.MALFORMED, detail=detail)


def _origin(
    received: Received[Any], correlation_id: str | None, span: str | None, *, key: str
) -> Origin:
    """Return the origin; the correlation id is the given one, the envelope's or the event's id."""
    return Origin(
        actor=ACTOR,
        client=received.source_service,
        correlation_id=correlation_id or received.correlation_id,
        key=f"e:{key}",
        fingerprint="",
        lifetime_s=RECEIPT_S,
        traceparent=span,
    )


def _identity(
    received: Received[Any], data: ResourceConsumptionV1 | UserRegisteredV1
) -> tuple[str, str | None]:
    """Return user and org, of data or metadata. Raises Malformed if they disagree."""
    metadata = normalised(received.metadata, malformed, "metadata.")
    user_id = _same("user_id", data.user_id, metadata.user_id)
    if user_id is None:
        raise malformed("user_id", "is required, in data or in metadata")
    return user_id, _same("org_id", data.org_id, metadata.org_id)


def _same(field: str, in_data: str | int | None, in_metadata: str | int | None) -> str | None:
    if in_data is not None and in_metadata is not None and in_data != in_metadata:
        raise malformed(field, "data and metadata disagree")
    found = in_data if in_data is not None else in_metadata
    return None if found is None else str(found)


def _utc(at: datetime | None) -> datetime | None:
    """Return the time in UTC; a time without an offset is taken as UTC."""
    if at is None:
        return None
    try:
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except OverflowError:
        raise Malformed("timestamp out of range") from None
