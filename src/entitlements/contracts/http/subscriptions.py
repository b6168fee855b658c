"""Bodies of subscriptions."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from entitlements.contracts.http.fields import (
    AwareTime,
    IdFilter,
    Name,
    OptionalReason,
    PageLimit,
    SubjectId,
    SubjectType,
    Text255,
    TextFilter,
    one_of,
)
from entitlements.contracts.verbs import Verb

SubscriptionState = Annotated[str, one_of("active", "past_due", "canceled", "expired")]
SubscriptionFilter = Literal["active", "past_due", "canceled", "expired", "all"]
HandledChange = Annotated[str, one_of("activated", "changed", "past_due", "cancelled", "expired")]
CancelAt = Literal["now", "period_end"]


class SubscriptionRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A subscription of ``user_id``, or of ``subject_type`` and ``subject_id``.

    If it is open already, its next period begins: it is then neither past due nor canceling.
    Without ``current_period_end`` the period has the length that the plan says.
    """

    user_id: SubjectId | None = None
    subject_type: SubjectType | None = None
    subject_id: SubjectId | None = None
    plan_id: Name
    subscription_id: SubjectId
    current_period_end: AwareTime | None = None
    correlation_id: Text255 | None = None


class ChangePlanRequest(Struct, frozen=True, gc=False, kw_only=True):
    plan_id: Name
    reason: OptionalReason | None = None


class CancelSubscriptionRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A cancellation, now or at the end of the current period.

    ``lifecycle``, such as ``grace_period(days=14)``, replaces that of the plan.
    """

    at: Annotated[CancelAt, Meta(description="When the subscription ends.")] = "now"
    lifecycle: Text255 | None = None
    reason: OptionalReason | None = None


class PastDueRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class ExpireSubscriptionRequest(Struct, frozen=True, gc=False, kw_only=True):
    """The end of a subscription that was not paid. ``lifecycle`` is as for a cancellation."""

    lifecycle: Text255 | None = None
    reason: OptionalReason | None = None


class SubscriptionItem(Struct, frozen=True, gc=False, kw_only=True):
    """A subscription as of now.

    ``policy_version`` is the version whose plan it has. ``cancels_at`` is when a cancellation at
    the end of the period takes effect, and ``ended_at`` when it ended. ``grants`` are the ids of
    the grants that it gives, the first of the type subscription.
    """

    subscription_id: str
    subject_type: SubjectType
    subject_id: str
    user_id: str | None
    plan_id: str
    policy_version: str
    lifecycle: str
    status: SubscriptionState
    activated_at: datetime
    current_period_end: datetime
    cancels_at: datetime | None
    ended_at: datetime | None
    grants: list[str]


class SubscriptionResponse(SubscriptionItem, frozen=True, gc=False, kw_only=True):
    """The subscription after the request; ``created``: it has begun.

    ``granted`` and ``revoked`` are the ids of grants that the request created and revoked.
    ``operation_id`` is null if the subscription was in this state already.
    """

    created: bool
    granted: list[str]
    revoked: list[str]
    operation_id: str | None
    correlation_id: str
    replayed: bool


class SubscriptionsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of subscriptions, newest first; omitted filters match everything."""

    subject_type: SubjectType | None = None
    subject_id: IdFilter | None = None
    plan_id: TextFilter | None = None
    status: SubscriptionFilter = "all"
    limit: PageLimit = 100
    cursor: str | None = None


class SubscriptionsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Subscriptions, the newest activation first. ``next_cursor`` is null on the last page."""

    subscriptions: list[SubscriptionItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class LifecycleCallsQuery(Struct, frozen=True, kw_only=True):
    """The listing of calls of lifecycle handlers that are still to be made."""

    limit: PageLimit = 100


class LifecycleCallItem(Struct, frozen=True, gc=False, kw_only=True):
    """A call of a lifecycle handler that is still to be made, after a change of a subscription."""

    subscription_id: str
    subject_type: SubjectType
    subject_id: str
    plan_id: str
    handler: str
    change: HandledChange
    at: datetime
    operation_id: str
    attempts: int
    next_at: datetime
    last_error: str | None


class LifecycleCallsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Calls of lifecycle handlers that are still to be made, the oldest first."""

    calls: list[LifecycleCallItem]
    count: int
    correlation_id: str


ACTIVATE: Final = Verb(
    "activate_subscription",
    "POST",
    "/v1/admin/subscriptions",
    SubscriptionRequest,
    SubscriptionResponse,
    answers_with=(200, 201),
)
SUBSCRIPTIONS: Final = Verb(
    "list_subscriptions", "GET", ACTIVATE.path, SubscriptionsQuery, SubscriptionsResponse
)
SUBSCRIPTION: Final = Verb(
    "show_subscription", "GET", f"{ACTIVATE.path}/{{subscription_id}}", None, SubscriptionItem
)
LIFECYCLE_CALLS: Final = Verb(
    "list_lifecycle_calls",
    "GET",
    "/v1/admin/lifecycle-calls",
    LifecycleCallsQuery,
    LifecycleCallsResponse,
)
CHANGE_PLAN: Final = Verb(
    "change_subscription",
    "POST",
    f"{SUBSCRIPTION.path}/change",
    ChangePlanRequest,
    SubscriptionResponse,
)
CANCEL_SUBSCRIPTION: Final = Verb(
    "cancel_subscription",
    "POST",
    f"{SUBSCRIPTION.path}/cancel",
    CancelSubscriptionRequest,
    SubscriptionResponse,
)
PAST_DUE: Final = Verb(
    "mark_subscription_past_due",
    "POST",
    f"{SUBSCRIPTION.path}/past-due",
    PastDueRequest,
    SubscriptionResponse,
)
EXPIRE_SUBSCRIPTION: Final = Verb(
    "expire_subscription",
    "POST",
    f"{SUBSCRIPTION.path}/expire",
    ExpireSubscriptionRequest,
    SubscriptionResponse,
)
