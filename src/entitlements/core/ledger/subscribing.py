"""The record of subscriptions: each change is an operation in the subject's wallet of credits."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from entitlements.core.commands import Command
from entitlements.core.ledger.book import Announced, Changes, Draft
from entitlements.core.ledger.posting import post
from entitlements.core.model import Grant, Operation, WalletKey
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import EntitlementType, OperationKind
from entitlements.core.subscription import (
    HANDLED,
    LifecycleCall,
    Subscription,
    SubscriptionChange,
    SubscriptionStatus,
    as_ended,
)


def record(
    draft: Draft,
    command: Command,
    subscription: Subscription,
    change: SubscriptionChange,
    *,
    operation_id: str,
    old_plan_id: str | None = None,
    effective_at: datetime | None = None,
) -> Operation:
    """Write the subscription's new state, and the operation that announces it."""
    operation = post(
        draft,
        command,
        WalletKey(*subscription.subject, DEFAULT_CREDIT_TYPE),
        OperationKind.SUBSCRIPTION,
        operation_id=operation_id,
        reason=change,
        effective_at=effective_at,
    )
    written = put(draft, subscription)
    draft.announced[operation.id] = Announced(written, old_plan_id or subscription.plan_id)
    return operation


def put(draft: Draft, subscription: Subscription) -> Subscription:
    """Write the subscription's new state, and return it with its version."""
    known = draft.subscription(subscription.subscription_id)
    version = 0 if known is None else known.version
    written = replace(subscription, version=version + 1)
    draft.subscriptions[subscription.subscription_id] = written
    return written


def calls(changes: Changes) -> list[LifecycleCall]:
    """Return the calls of handlers that the changes require."""
    if not changes.announced:
        return []
    return [
        _call(operation, *changes.announced[operation.id])
        for operation in changes.operations
        if operation.id in changes.announced
        and operation.reason in HANDLED
        and changes.announced[operation.id].subscription.lifecycle.handler is not None
    ]


def _call(operation: Operation, changed: Subscription, old_plan_id: str) -> LifecycleCall:
    return LifecycleCall(
        subscription_id=changed.subscription_id,
        version=changed.version,
        handler=changed.lifecycle.handler or "",
        change=SubscriptionChange(operation.reason or ""),
        subject_type=changed.subject_type,
        subject_id=changed.subject_id,
        plan_id=changed.plan_id,
        old_plan_id=old_plan_id,
        at=operation.effective_at,
        operation_id=operation.id,
        correlation_id=operation.correlation_id,
        created_at=operation.created_at,
    )


def end_with_grant(draft: Draft, command: Command, grant: Grant, at: datetime) -> None:
    """Cancel the open subscription whose own grant has just ended, if it is one's."""
    if grant.entitlement_type is not EntitlementType.SUBSCRIPTION:
        return
    for subscription in draft.subscriptions_of(grant.wallet):
        if subscription.grant_id == grant.id and subscription.is_open:
            record(
                draft,
                command,
                as_ended(subscription, at, SubscriptionStatus.CANCELED),
                SubscriptionChange.CANCELLED,
                operation_id=draft.book.new_id(),
                effective_at=at,
            )
