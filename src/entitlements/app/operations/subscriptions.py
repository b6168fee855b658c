"""Subscriptions: activate, change, cancel, past due, expire; show and list."""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import asdict

from entitlements.app.lifecycle.store import WaitingCall
from entitlements.app.operations.cursors import read_id
from entitlements.app.operations.grants import named_subject
from entitlements.app.operations.naming import origin
from entitlements.app.operations.request import Request, UseCases
from entitlements.app.ports import SubscriptionsQuery
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound, invalid
from entitlements.core.commands import (
    Activate,
    CancelSubscription,
    ChangePlan,
    ExpireSubscription,
    MarkPastDue,
    SubscriptionCommand,
)
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import Subscribed
from entitlements.core.plans import Lifecycle
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.subscription import Subscription, SubscriptionStatus
from entitlements.lifecycle import known_handlers, unknown_handler


async def activate(request: Request, body: http.SubscriptionRequest) -> http.SubscriptionResponse:
    """Begin a subscription, or the next period of an open one."""
    subject = named_subject(body)
    request.ids = (subject.id, None) if subject.type == "user" else (None, subject.id)
    command = Activate(
        id=request.engine.new_id(),
        origin=origin(request, subject),
        wallet=WalletKey(*subject, DEFAULT_CREDIT_TYPE),
        subscription_id=str(body.subscription_id),
        plan_id=body.plan_id,
        current_period_end=body.current_period_end,
    )
    return await _submitted(request, command)


async def change(request: Request, body: http.ChangePlanRequest) -> http.SubscriptionResponse:
    """Replace the plan of a subscription. Raises NotFound."""
    return await _changed(request, partial(ChangePlan, plan_id=body.plan_id, reason=body.reason))


async def cancel(
    request: Request, body: http.CancelSubscriptionRequest
) -> http.SubscriptionResponse:
    """End a subscription now or at the end of its period. Raises NotFound."""
    is_later, lifecycle = body.at == "period_end", _lifecycle(body.lifecycle)
    if is_later and lifecycle is not None and lifecycle.handler is not None:
        raise invalid("lifecycle", "can be a handler only with at: now, or in the plan")
    command = partial(
        CancelSubscription, at_period_end=is_later, lifecycle=lifecycle, reason=body.reason
    )
    return await _changed(request, command)


async def mark_past_due(request: Request, body: http.PastDueRequest) -> http.SubscriptionResponse:
    """Record that a payment is late. Raises NotFound."""
    return await _changed(request, partial(MarkPastDue, reason=body.reason))


async def expire(
    request: Request, body: http.ExpireSubscriptionRequest
) -> http.SubscriptionResponse:
    """End a subscription that was not paid. Raises NotFound."""
    lifecycle = _lifecycle(body.lifecycle)
    return await _changed(
        request, partial(ExpireSubscription, lifecycle=lifecycle, reason=body.reason)
    )


async def _changed(
    request: Request, command: Callable[..., SubscriptionCommand]
) -> http.SubscriptionResponse:
    """Submit the command for the subscription of the path."""
    found = await _stored(request)
    return await _submitted(
        request,
        command(
            id=request.engine.new_id(),
            origin=origin(request, (found.subscription_id,)),
            wallet=WalletKey(*found.subject, DEFAULT_CREDIT_TYPE),
            subscription_id=found.subscription_id,
        ),
    )


def _lifecycle(text: str | None) -> Lifecycle | None:
    """Return the rule that the text names. Raise InvalidRequest."""
    if text is None:
        return None
    try:
        found = Lifecycle.parse(text)
    except ValueError as error:
        raise invalid("lifecycle", str(error)) from None
    if found.handler and found.handler not in known_handlers():
        raise invalid("lifecycle", unknown_handler(found.handler))
    return found


async def lifecycle_calls(
    request: Request, wanted: http.LifecycleCallsQuery
) -> http.LifecycleCallsResponse:
    """List the calls of lifecycle handlers that are still to be made, the oldest first."""
    found = await request.engine.store.lifecycle.waiting(wanted.limit)
    return http.LifecycleCallsResponse(
        calls=[call_item(one) for one in found],
        count=len(found),
        correlation_id=request.correlation_id,
    )


def call_item(one: WaitingCall) -> http.LifecycleCallItem:
    return http.LifecycleCallItem(
        subscription_id=one.subscription_id,
        subject_type=one.subject_type,
        subject_id=one.subject_id,
        plan_id=one.plan_id,
        handler=one.handler,
        change=one.change.value,
        at=one.at,
        operation_id=one.operation_id,
        attempts=one.attempts,
        next_at=one.next_at,
        last_error=one.last_error,
    )


async def show(request: Request, _: None) -> http.SubscriptionItem:
    """Return the subscription as of now. Raises NotFound."""
    return item((await _stored(request)).at(request.engine.clock()))


async def subscriptions(
    request: Request, wanted: http.SubscriptionsQuery
) -> http.SubscriptionsResponse:
    query = SubscriptionsQuery(
        subject_type=wanted.subject_type,
        subject_id=wanted.subject_id,
        plan_id=wanted.plan_id,
        status=None if wanted.status == "all" else SubscriptionStatus(wanted.status),
        now=request.engine.clock(),
        limit=wanted.limit,
        after=read_id(wanted.cursor),
    )
    page = await request.engine.store.reads.subscriptions(query)
    return http.SubscriptionsResponse(
        subscriptions=[item(one.at(query.now)) for one in page.rows],
        count=len(page.rows),
        next_cursor=page.next,
        correlation_id=request.correlation_id,
    )


async def _stored(request: Request) -> Subscription:
    """Return the subscription of the path, and log its subject."""
    found = await request.engine.store.reads.subscription(request.params["subscription_id"])
    if found is None:
        raise NotFound("not_found", "no such subscription")
    is_user = found.subject_type == "user"
    request.ids = (found.subject_id, None) if is_user else (None, found.subject_id)
    return found


async def _submitted(request: Request, command: SubscriptionCommand) -> http.SubscriptionResponse:
    outcome = await request.submitted(command, Subscribed)
    return http.SubscriptionResponse(
        **asdict(item(outcome.subscription)),
        created=outcome.created,
        granted=list(outcome.granted),
        revoked=list(outcome.revoked),
        operation_id=outcome.operation_id,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


def item(one: Subscription) -> http.SubscriptionItem:
    given = [*([one.own] if one.is_open else []), *one.given]
    return http.SubscriptionItem(
        subscription_id=one.subscription_id,
        subject_type=one.subject_type,
        subject_id=one.subject_id,
        user_id=one.subject_id if one.subject_type == "user" else None,
        plan_id=one.plan_id,
        policy_version=one.policy_version,
        lifecycle=str(one.lifecycle),
        status=one.status.value,
        activated_at=one.activated_at,
        current_period_end=one.current_period_end,
        cancels_at=one.cancels_at,
        ended_at=one.ended_at,
        grants=[grant.grant_id for grant in given],
    )


USE_CASES: Final[UseCases] = {
    http.ACTIVATE: activate,
    http.CHANGE_PLAN: change,
    http.CANCEL_SUBSCRIPTION: cancel,
    http.PAST_DUE: mark_past_due,
    http.EXPIRE_SUBSCRIPTION: expire,
    http.SUBSCRIPTION: show,
    http.SUBSCRIPTIONS: subscriptions,
    http.LIFECYCLE_CALLS: lifecycle_calls,
}
