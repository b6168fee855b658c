"""Map ledger operations to the events that announce them."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from entitlements.app.ports import LimitExceeded, LimitNear, OutboxRow
from entitlements.contracts.events import (
    CreditBalanceChangedV1,
    CreditShortfallRecordedV1,
    CreditThresholdCrossedV1,
    Envelope,
    EventData,
    GrantEventV1,
    RateLimitExceededV1,
    RateLimitNearV1,
    SubjectRef,
    SubscriptionActivatedV1,
    SubscriptionCanceledV1,
    SubscriptionChangedV1,
    UsageAuthorizedV1,
    UsageRecordedV1,
)
from entitlements.core.ledger.book import Announced, Changes
from entitlements.core.model import Operation
from entitlements.core.reasons import EntitlementType, OperationKind, OperationStatus
from entitlements.core.subscription import SubscriptionChange, SubscriptionStatus
from entitlements.core.windows import Cause, LimitQuery, WarnLevel, WindowKey

_encode = msgspec.json.Encoder().encode

BALANCE_REASONS = {
    OperationKind.GRANT: "grant",
    OperationKind.ACTIVATION: "grant",
    OperationKind.EXPIRY: "expiry",
    OperationKind.RENEWAL: "renewal",
    OperationKind.REVOCATION: "revocation",
    OperationKind.REVERSAL: "reversal",
    OperationKind.SETTLEMENT: "settlement",
    OperationKind.ADJUSTMENT: "manual_adjustment",
}
"""The reason of a balance change. For a consumption it is the metric, unless it settles a hold."""

GRANT_EVENTS = {
    OperationKind.GRANT: "created",
    OperationKind.REVOCATION: "revoked",
    OperationKind.EXPIRY: "expired",
    OperationKind.RENEWAL: "renewed",
}


class Announcer:
    """Creates outbox rows under one topic prefix and service name."""

    def __init__(self, *, prefix: str, source: str, new_id: Callable[[], str]) -> None:
        self._prefix = f"{prefix}.entitlements."
        self._source = source
        self._new_id = new_id

    def rows(self, changes: Changes) -> list[OutboxRow]:
        """Return the events of all operations, in the order of the operations."""
        expiries = {hold.id: hold.expires_at for hold in changes.new_holds}
        types = {grant.id: grant.entitlement_type for grant, _ in changes.new_grants}
        types |= {grant.id: grant.entitlement_type for grant, _ in changes.grants}
        rows: list[OutboxRow] = []
        for operation in changes.operations:
            metadata = _metadata(operation.user_id, operation.org_id, operation.traceparent)
            events = [*_events(operation, expiries, types)]
            if announced := changes.announced.get(operation.id):
                events += _of_subscription(operation, announced)
            rows += [
                self._row(operation, n, topic, data, metadata)
                for n, (topic, data) in enumerate(events)
            ]
        return rows

    def limit_exceeded(
        self, query: LimitQuery, minute: int, now: datetime, cause: Cause
    ) -> LimitExceeded:
        """Return the event of a limit that denied ``query``; ``minute`` counts from 1970."""
        subject, metric, window_s = query.window
        data = RateLimitExceededV1(
            subject=SubjectRef(subject.type, subject.id),
            metric=metric,
            limit=query.limit,
            window_seconds=window_s,
            correlation_id=cause.correlation_id,
        )
        event = self._of_limit("rate_limit.exceeded.v1", now, cause, data)
        return LimitExceeded(subject=subject, metric=metric, minute=minute, **event)

    def limit_near(self, window: WindowKey, used: int, warn: WarnLevel, now: datetime) -> LimitNear:
        """Return the event of a window whose units reached the level."""
        subject, metric, window_s = window
        data = RateLimitNearV1(
            subject=SubjectRef(subject.type, subject.id),
            metric=metric,
            limit=warn.limit,
            used=used,
            window_seconds=window_s,
            correlation_id=warn.cause.correlation_id,
        )
        event = self._of_limit("rate_limit.near.v1", now, warn.cause, data)
        return LimitNear(subject=subject, metric=metric, window_s=window_s, **event)

    def _row(
        self, operation: Operation, n: int, topic: str, data: EventData, metadata: dict[str, str]
    ) -> OutboxRow:
        envelope = self._envelope(
            topic, operation.created_at, operation.correlation_id, data, metadata
        )
        return OutboxRow(
            operation.wallet,
            operation.seq,
            n,
            envelope.event_id,
            envelope.event_type,
            operation.wallet.subject_id,
            _encode(envelope).decode(),
            operation.created_at,
            operation.traceparent,
        )

    def _of_limit(
        self, topic: str, now: datetime, cause: Cause, data: RateLimitExceededV1 | RateLimitNearV1
    ) -> dict[str, Any]:
        """Return the fields of a `LimitEvent`."""
        metadata = _metadata(cause.user_id, cause.org_id, cause.traceparent)
        envelope = self._envelope(topic, now, cause.correlation_id, data, metadata)
        return {
            "event_id": envelope.event_id,
            "event_type": envelope.event_type,
            "key": data.subject.id,
            "payload": _encode(envelope).decode(),
            "created_at": now,
        }

    def _envelope(
        self,
        topic: str,
        at: datetime,
        correlation_id: str,
        data: EventData,
        metadata: dict[str, str],
    ) -> Envelope[EventData]:
        return Envelope(
            event_id=self._new_id(),
            event_type=self._prefix + topic,
            event_timestamp=_instant(at),
            source_service=self._source,
            correlation_id=correlation_uuid(correlation_id),
            data=data,
            metadata=metadata,
        )


def _metadata(user_id: str | None, org_id: str | None, traceparent: str | None) -> dict[str, str]:
    """Return the user and org of the request, not the payer, and the trace context, if known."""
    metadata: dict[str, str] = {}
    if user_id is not None:
        metadata["user_id"] = user_id
    if org_id is not None:
        metadata["org_id"] = org_id
    if traceparent is not None:
        metadata["traceparent"] = traceparent
    return metadata


_UUID_DIGITS = 32


@functools.lru_cache(maxsize=4096)
def correlation_uuid(text: str) -> str:
    """Return the text if it is a UUID, else its uuid5 in the OID namespace."""
    if len(text) >= _UUID_DIGITS:
        with suppress(ValueError):
            return str(uuid.UUID(text))
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


@functools.lru_cache(maxsize=16)
def _instant(at: datetime) -> str:
    """Format the time of an operation, cached: the operations of a batch share it."""
    return at.isoformat().replace("+00:00", "Z")


def _events(
    operation: Operation, expiries: Mapping[str, datetime], types: Mapping[str, EntitlementType]
) -> Iterator[tuple[str, EventData]]:
    subject = SubjectRef(operation.wallet.subject_type, operation.wallet.subject_id)
    if operation.is_part:
        pass  # the first operation of the group announces the usage
    elif operation.kind is OperationKind.CONSUME:
        if operation.status is OperationStatus.COMPLETED:
            at = _instant(operation.created_at)
            yield (
                "usage.recorded.v1",
                UsageRecordedV1(
                    subject=subject,
                    metric=_metric(operation),
                    amount=_units(operation),
                    period_start=at,
                    period_end=at,
                    correlation_id=operation.correlation_id,
                ),
            )
        elif operation.owed or operation.is_unpriced:
            yield (
                "credit.shortfall.recorded.v1",
                CreditShortfallRecordedV1(
                    subject=subject,
                    metric=_metric(operation),
                    amount=_units(operation),
                    owed=operation.owed or None,
                    operation_id=operation.reverses or operation.id,
                    correlation_id=operation.correlation_id,
                ),
            )
    elif operation.kind is OperationKind.HOLD and operation.hold_id is not None:
        yield (
            "usage.authorized.v1",
            UsageAuthorizedV1(
                subject=subject,
                metric=_metric(operation),
                amount=_units(operation),
                authorization_id=operation.hold_id,
                expires_at=_instant(expiries[operation.hold_id]),
                correlation_id=operation.correlation_id,
            ),
        )
    if operation.delta and not operation.wallet.is_of_allowances:
        yield "credit.balance.changed.v1", _balance_changed(operation, subject)
    for threshold, direction in operation.crossings:
        yield (
            "credit.threshold.crossed.v1",
            CreditThresholdCrossedV1(
                subject=subject,
                credit_type=operation.wallet.credit_type,
                threshold=threshold,
                balance=operation.balance_after,
                direction=direction,
                correlation_id=operation.correlation_id,
            ),
        )
    grant_event = GRANT_EVENTS.get(operation.kind)
    if operation.kind is OperationKind.ADJUSTMENT and operation.delta > 0:
        grant_event = "created"
    if grant_event is not None and operation.draws:
        yield f"grant.{grant_event}.v1", _grant_event(operation, subject, types)


def _metric(operation: Operation) -> str:
    """Return the metric, or the credit type if the operation has none."""
    return operation.metric if operation.metric is not None else operation.wallet.credit_type


def _units(operation: Operation) -> int:
    if operation.metric is not None:
        return operation.quantity
    return operation.amount


def _balance_changed(operation: Operation, subject: SubjectRef) -> CreditBalanceChangedV1:
    return CreditBalanceChangedV1(
        subject=subject,
        delta=operation.delta,
        new_balance=operation.balance_after,
        reason=_balance_reason(operation),
        correlation_id=operation.correlation_id,
        credit_type=operation.wallet.credit_type,
        operation_id=operation.id,
        seq=operation.seq,
    )


def _balance_reason(operation: Operation) -> str:
    if operation.kind is OperationKind.CONSUME and operation.hold_id is not None:
        return "settlement"
    return BALANCE_REASONS.get(operation.kind) or operation.metric or operation.kind


def _grant_event(
    operation: Operation, subject: SubjectRef, types: Mapping[str, EntitlementType]
) -> GrantEventV1:
    grant_id = operation.draws[0].grant_id
    return GrantEventV1(
        subject=subject,
        grant_id=grant_id,
        entitlement_type=types[grant_id],
        quantity=operation.amount,
        reason=operation.reason,
        at=_instant(operation.effective_at),
        correlation_id=operation.correlation_id,
    )


def _of_subscription(operation: Operation, announced: Announced) -> Iterator[tuple[str, EventData]]:
    """Yield the event of a change that has taken effect."""
    subject = SubjectRef(operation.wallet.subject_type, operation.wallet.subject_id)
    changed, old_plan_id = announced
    at = _instant(operation.effective_at)
    match operation.reason:
        case SubscriptionChange.ACTIVATED:
            yield (
                "subscription.activated.v1",
                SubscriptionActivatedV1(
                    subject=subject,
                    subscription_id=changed.subscription_id,
                    plan_id=changed.plan_id,
                    activated_at=at,
                    correlation_id=operation.correlation_id,
                ),
            )
        case SubscriptionChange.CHANGED | SubscriptionChange.PAST_DUE:
            is_late = changed.status is SubscriptionStatus.PAST_DUE
            yield (
                "subscription.changed.v1",
                SubscriptionChangedV1(
                    subject=subject,
                    subscription_id=changed.subscription_id,
                    plan_id=changed.plan_id,
                    old_plan_id=old_plan_id,
                    new_plan_id=changed.plan_id,
                    status="past_due" if is_late else "active",
                    changed_at=at,
                    correlation_id=operation.correlation_id,
                ),
            )
        case SubscriptionChange.CANCELLED | SubscriptionChange.EXPIRED:
            has_expired = operation.reason == SubscriptionChange.EXPIRED
            yield (
                "subscription.canceled.v1",
                SubscriptionCanceledV1(
                    subject=subject,
                    subscription_id=changed.subscription_id,
                    plan_id=changed.plan_id,
                    reason="expired" if has_expired else "cancelled",
                    canceled_at=at,
                    correlation_id=operation.correlation_id,
                ),
            )
        case _:
            pass  # a cancellation that has not taken effect
