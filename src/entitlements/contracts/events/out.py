"""Outbound events."""

from typing import Literal

from msgspec import Struct

from entitlements.contracts.events.fields import SubjectRef, Units, Written


class CreditBalanceChangedV1(Struct, frozen=True, gc=False, kw_only=True):
    """A wallet's balance changed by ``delta``; ``seq`` orders the wallet's events."""

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
    amount: Units
    period_start: Written
    period_end: Written
    correlation_id: str


class UsageAuthorizedV1(Struct, frozen=True, gc=False, kw_only=True):
    """Credits were set aside for ``amount`` units of a metric; ``authorization_id`` is the hold."""

    subject: SubjectRef
    metric: str
    amount: Units
    authorization_id: str
    expires_at: Written | None = None
    correlation_id: str


class CreditShortfallRecordedV1(Struct, frozen=True, gc=False, kw_only=True):
    """Finished work that no payer covered; ``owed`` is its price in credits, null without a price.

    Work that gets a price later and is not covered is published again with the same operation.
    """

    subject: SubjectRef
    metric: str
    amount: Units
    owed: Units | None
    operation_id: str
    correlation_id: str


class CreditThresholdCrossedV1(Struct, frozen=True, gc=False, kw_only=True):
    """A wallet's balance fell ``below`` a threshold, or reached or passed it again (``above``)."""

    subject: SubjectRef
    credit_type: str
    threshold: int
    balance: int
    direction: Literal["below", "above"]
    correlation_id: str


class GrantEventV1(Struct, frozen=True, gc=False, kw_only=True):
    """A grant was created, revoked or renewed, or it expired; ``quantity`` is in credits."""

    subject: SubjectRef
    grant_id: str
    entitlement_type: str
    quantity: Units
    reason: str | None
    at: Written
    correlation_id: str


class RateLimitExceededV1(Struct, frozen=True, gc=False, kw_only=True):
    """A rate limit denied a request of the subject; sent at most once a minute per metric."""

    subject: SubjectRef
    metric: str
    limit: Units
    window_seconds: int
    correlation_id: str


class RateLimitNearV1(Struct, frozen=True, gc=False, kw_only=True):
    """A subject has used the part of a rate limit that the policy warns of; sent at most once in
    the time of a window.
    """

    subject: SubjectRef
    metric: str
    limit: Units
    used: int
    window_seconds: int
    correlation_id: str


class SubscriptionActivatedV1(Struct, frozen=True, gc=False, kw_only=True):
    """A subject has a plan from ``activated_at`` on, or its next period began then."""

    subject: SubjectRef
    subscription_id: str
    plan_id: str
    activated_at: Written
    correlation_id: str


class SubscriptionChangedV1(Struct, frozen=True, gc=False, kw_only=True):
    """A subject has changed to another plan, or its subscription is past due; then the plans are
    equal. ``plan_id`` equals ``new_plan_id``.
    """

    subject: SubjectRef
    subscription_id: str
    plan_id: str
    old_plan_id: str | None = None
    new_plan_id: str
    status: Literal["active", "past_due"]
    changed_at: Written
    correlation_id: str


class SubscriptionCanceledV1(Struct, frozen=True, gc=False, kw_only=True):
    """A subject no longer has the plan from ``canceled_at`` on."""

    subject: SubjectRef
    subscription_id: str
    plan_id: str
    reason: Literal["cancelled", "expired"]
    canceled_at: Written
    correlation_id: str


EventData = (
    CreditBalanceChangedV1
    | UsageRecordedV1
    | UsageAuthorizedV1
    | CreditShortfallRecordedV1
    | CreditThresholdCrossedV1
    | GrantEventV1
    | RateLimitExceededV1
    | RateLimitNearV1
    | SubscriptionActivatedV1
    | SubscriptionChangedV1
    | SubscriptionCanceledV1
)
