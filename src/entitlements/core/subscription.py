"""A subscription: the plan of a subject, and the grants that it gave."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from entitlements.core.plans import Lifecycle
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import SubjectType


class SubscriptionStatus(StrEnum):
    """The status of a subscription. A past due one keeps its grants until it ends."""

    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    EXPIRED = "expired"


class SubscriptionChange(StrEnum):
    """What happened to a subscription: the reason of its operation."""

    ACTIVATED = "activated"
    CHANGED = "changed"
    PAST_DUE = "past_due"
    CANCELING = "canceling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


HANDLED: Final = (
    SubscriptionChange.ACTIVATED,
    SubscriptionChange.CHANGED,
    SubscriptionChange.PAST_DUE,
    SubscriptionChange.CANCELLED,
    SubscriptionChange.EXPIRED,
)
"""The changes that handlers are called for: those that have taken effect."""


class GivenGrant(NamedTuple):
    """A grant of the subscription's subject, by the credit type of its wallet."""

    credit_type: str
    grant_id: str


class Subscription(Struct, frozen=True, gc=False, kw_only=True):
    """A subject's plan as of ``policy_version``.

    Its own grant, of the type subscription, ends with it. ``given`` are the grants of its plan.
    ``follow_up`` are those that its end gives; while it is canceling, they start at ``cancels_at``.
    ``replaced`` are grants of earlier plans in wallets where this plan has none: the next plan that
    has counts their use.
    """

    subscription_id: str
    subject_type: SubjectType
    subject_id: str
    plan_id: str
    policy_version: str
    lifecycle: Lifecycle
    status: SubscriptionStatus = SubscriptionStatus.ACTIVE
    activated_at: datetime
    current_period_end: datetime
    cancels_at: datetime | None = None
    ended_at: datetime | None = None
    grant_id: str
    given: tuple[GivenGrant, ...] = ()
    follow_up: tuple[GivenGrant, ...] = ()
    replaced: tuple[GivenGrant, ...] = ()
    version: int = 0

    @property
    def subject(self) -> tuple[SubjectType, str]:
        return (self.subject_type, self.subject_id)

    @property
    def own(self) -> GivenGrant:
        """Return its own grant, which is in its subject's wallet of credits."""
        return GivenGrant(DEFAULT_CREDIT_TYPE, self.grant_id)

    @property
    def is_open(self) -> bool:
        """Return whether it has not ended, according to its recorded state."""
        return self.ended_at is None

    def at(self, now: datetime) -> Subscription:
        """Return it as of ``now``, which can be later than a cancellation that is not recorded."""
        if not self.is_open or self.cancels_at is None or self.cancels_at > now:
            return self
        return as_ended(self, self.cancels_at, SubscriptionStatus.CANCELED)


class LifecycleCall(Struct, frozen=True, gc=False, kw_only=True):
    """A call of a handler that is still to be made, after a change of a subscription.

    ``version`` is that of the subscription after the change, and orders its calls.
    """

    subscription_id: str
    version: int
    handler: str
    change: SubscriptionChange
    subject_type: SubjectType
    subject_id: str
    plan_id: str
    old_plan_id: str
    at: datetime
    operation_id: str
    correlation_id: str
    created_at: datetime


def as_ended(subscription: Subscription, at: datetime, status: SubscriptionStatus) -> Subscription:
    """Return the subscription with this end; its plan's grants are no longer its own."""
    return replace(subscription, status=status, ended_at=at, given=(), replaced=())
