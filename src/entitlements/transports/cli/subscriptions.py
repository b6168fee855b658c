"""Commands on subscriptions: activate, change, cancel, past due, expire, list, show."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from entitlements.app.operations import subscriptions as requests
from entitlements.app.ports import SubscriptionsQuery
from entitlements.app.process.clock import utc_now
from entitlements.contracts import http
from entitlements.core.subscription import SubscriptionStatus
from entitlements.transports.cli.asking import Actor, Key, Reason, asking, text_filter
from entitlements.transports.cli.ledger import Injected, SubjectName, aware, subject_of
from entitlements.transports.cli.listings import listed
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    LongLimit,
    say,
    show_json,
    show_table,
    shown_time,
)

SubscriptionId = Annotated[str, Parameter(help="The id of the subscription.")]
PlanName = Annotated[str, Parameter(help="A plan of the active policy.")]
CALL_COLUMNS: Final = (
    "handler", "change", "subscription", "at", "attempts", "next attempt", "last error",
)  # fmt: skip
COLUMNS: Final = ("status", "subject", "plan", "period ends", "cancels", "ended", "subscription")


async def activate(
    subject: SubjectName,
    plan: PlanName,
    subscription: SubscriptionId,
    *,
    actor: Actor,
    program: Injected,
    period_end: datetime | None = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Begin a subscription to a plan, or the next period of an open one.

    Parameters
    ----------
    period_end
        The end of the paid period; default: as the plan says. UTC unless it has a time zone.
    """
    holder = subject_of(subject)
    fields = {
        "subject_type": holder.type,
        "subject_id": holder.id,
        "plan_id": plan,
        "subscription_id": subscription,
        "current_period_end": aware(period_end),
    }
    async with asking(program, database, actor, http.ACTIVATE, key) as request:
        body = request.converted(http.SubscriptionRequest, fields)
        answer = await requests.activate(request, body)
    _show_answer(answer, as_json=json)


async def change(
    subscription: SubscriptionId,
    plan: PlanName,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Replace the plan; units used in the current period count as used."""
    async with asking(program, database, actor, http.CHANGE_PLAN, key) as request:
        request.params = {"subscription_id": subscription}
        body = request.converted(http.ChangePlanRequest, {"plan_id": plan, "reason": reason})
        answer = await requests.change(request, body)
    _show_answer(answer, as_json=json)


async def cancel(
    subscription: SubscriptionId,
    *,
    actor: Actor,
    program: Injected,
    at: http.CancelAt = "now",
    lifecycle: str | None = None,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Cancel a subscription, now or at the end of its period.

    Parameters
    ----------
    at
        When it ends.
    lifecycle
        The lifecycle rule of the end, such as "grace_period(days=14)"; default: as the plan says.
    """
    async with asking(program, database, actor, http.CANCEL_SUBSCRIPTION, key) as request:
        request.params = {"subscription_id": subscription}
        fields = {"at": at, "lifecycle": lifecycle, "reason": reason}
        body = request.converted(http.CancelSubscriptionRequest, fields)
        answer = await requests.cancel(request, body)
    _show_answer(answer, as_json=json)


async def past_due(
    subscription: SubscriptionId,
    *,
    actor: Actor,
    program: Injected,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Record that a payment is late; the grants stay until the subscription ends."""
    async with asking(program, database, actor, http.PAST_DUE, key) as request:
        request.params = {"subscription_id": subscription}
        body = request.converted(http.PastDueRequest, {"reason": reason})
        answer = await requests.mark_past_due(request, body)
    _show_answer(answer, as_json=json)


async def expire(
    subscription: SubscriptionId,
    *,
    actor: Actor,
    program: Injected,
    lifecycle: str | None = None,
    reason: Reason = None,
    key: Key = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """End a subscription that was not paid.

    Parameters
    ----------
    lifecycle
        The lifecycle rule of the end, such as "grace_period(days=14)"; default: as the plan says.
    """
    async with asking(program, database, actor, http.EXPIRE_SUBSCRIPTION, key) as request:
        request.params = {"subscription_id": subscription}
        fields = {"lifecycle": lifecycle, "reason": reason}
        body = request.converted(http.ExpireSubscriptionRequest, fields)
        answer = await requests.expire(request, body)
    _show_answer(answer, as_json=json)


async def show(
    subscription: SubscriptionId,
    *,
    program: Injected,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Show a subscription as it is now."""
    async with asking(program, database, "", http.SUBSCRIPTION) as request:
        request.params = {"subscription_id": subscription}
        answer = await requests.show(request, None)
    if json:
        show_json(answer)
        return
    for name, value in msgspec.to_builtins(answer, builtin_types=(datetime,)).items():
        if isinstance(value, list):
            say(f"{name}: {', '.join(value) or 'none'}")
        elif value is not None:
            say(f"{name}: {shown_time(value) if isinstance(value, datetime) else value}")


async def list_subscriptions(
    *,
    program: Injected,
    subject: Annotated[str | None, Parameter(help="org:ID or user:ID")] = None,
    plan: str | None = None,
    status: http.SubscriptionFilter = "all",
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List subscriptions, newest first; omitted filters match all.

    Parameters
    ----------
    plan
        Their plan.
    status
        Their status now.
    """
    holder = subject_of(subject) if subject is not None else None
    query = SubscriptionsQuery(
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        plan_id=text_filter("--plan", plan),
        status=None if status == "all" else SubscriptionStatus(status),
        now=utc_now(),
        limit=limit,
    )
    async with asking(program, database, "", http.SUBSCRIPTIONS) as request:
        found = await listed(request.engine.store.reads.subscriptions, query)
    shown = [requests.item(one.at(query.now)) for one in found]
    if json:
        show_json(shown)
    else:
        show_table(COLUMNS, map(_row, shown), empty="no subscriptions")


async def list_calls(
    *,
    program: Injected,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List calls of lifecycle handlers that are still to be made, the oldest first.

    A call is repeated until its handler succeeds, in a process that has the handler.
    """
    async with asking(program, database, "", http.LIFECYCLE_CALLS) as request:
        found = await request.engine.store.lifecycle.waiting(limit)
    shown = [requests.call_item(one) for one in found]
    if json:
        show_json(shown)
        return
    lines = (
        (one.handler, one.change, one.subscription_id, one.at, one.attempts, one.next_at,
         one.last_error)
        for one in shown
    )  # fmt: skip
    show_table(CALL_COLUMNS, lines, empty="no call is waiting")


def _show_answer(answer: http.SubscriptionResponse, *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    until = f", cancels {shown_time(answer.cancels_at)}" if answer.cancels_at else ""
    if answer.ended_at:
        until = f" since {shown_time(answer.ended_at)}"
    done = f"{len(answer.granted)} granted, {len(answer.revoked)} revoked"
    again = " (replayed)" if answer.replayed else ""
    holder = f"{answer.subject_type}:{answer.subject_id}"
    say(
        f"{answer.subscription_id} of {holder} to {answer.plan_id} is {answer.status}{until};"
        f" {done}{again}"
    )


def _row(one: http.SubscriptionItem) -> tuple[Any, ...]:
    return (
        one.status,
        f"{one.subject_type}:{one.subject_id}",
        one.plan_id,
        one.current_period_end,
        one.cancels_at,
        one.ended_at,
        one.subscription_id,
    )
