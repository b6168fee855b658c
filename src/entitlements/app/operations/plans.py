"""The migration of subscriptions to their plan in the active policy."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from entitlements.app.operations.naming import item_origin
from entitlements.app.operations.request import Request
from entitlements.app.policy import active
from entitlements.app.policy.active import PolicyUnusable
from entitlements.app.ports import SubscriptionsQuery
from entitlements.contracts import http
from entitlements.contracts.errors import invalid
from entitlements.core.commands import ChangePlan
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import Subscribed
from entitlements.core.plans import Plan
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.policy_diff import terms_text
from entitlements.core.subscription import Subscription

BATCH: Final = 100
"""How many subscriptions are read, and moved, at a time."""


class Migration(Struct, frozen=True, kw_only=True):
    """A subscription whose plan differs from the active one, and the effect of its migration.

    ``gains`` and ``loses`` are grants in the notation of the policy. None: the plan that it has is
    in a version that this program cannot read.
    """

    subscription: Subscription
    gains: list[str]
    loses: list[str] | None


async def outdated(request: Request, plan_id: str) -> AsyncIterator[list[Migration]]:
    """Yield the open subscriptions whose plan differs from that of the active policy, newest first.

    Those that are canceling are left out: they keep their plan until they end. Raise InvalidRequest
    if the active policy does not have the plan.
    """
    plan = request.engine.policies.active.plans.get(plan_id)
    if plan is None:
        raise invalid("plan_id", "the policy has no such plan")
    known: dict[str, Plan | None] = {request.engine.policies.active.version: plan}
    query = SubscriptionsQuery(plan_id=plan_id, now=request.engine.clock(), limit=BATCH)
    while True:
        page = await request.engine.store.reads.subscriptions(query)
        found: list[Migration] = []
        for one in page.rows:
            if not one.is_open or one.cancels_at is not None:
                continue
            if one.policy_version not in known:
                known[one.policy_version] = await _plan_in(request, one.policy_version, plan_id)
            kept = known[one.policy_version]
            if kept != plan:
                found.append(_migration(one, kept, plan))
        if found:
            yield found
        if page.next is None:
            return
        query = replace(query, after=page.next)


async def migrate(request: Request, found: Sequence[Migration]) -> int:
    """Move the subscriptions to the active version of their plan, and return how many moved.

    A repeat moves the others. Raise Refused for the first that is refused.
    """
    outcomes = await asyncio.gather(*(_move(request, one.subscription) for one in found))
    return sum(outcome.operation_id is not None for outcome in outcomes)


async def _move(request: Request, one: Subscription) -> Subscribed:
    body = http.ChangePlanRequest(plan_id=one.plan_id)
    command = ChangePlan(
        id=request.engine.new_id(),
        origin=item_origin(request, (), body, path=request.path, key=None),
        wallet=WalletKey(*one.subject, DEFAULT_CREDIT_TYPE),
        subscription_id=one.subscription_id,
        plan_id=one.plan_id,
        is_migration=True,
        reason="plan migrate",
    )
    return await request.submitted(command, Subscribed)


async def _plan_in(request: Request, version: str, plan_id: str) -> Plan | None:
    """Return the plan of a version; None if this program cannot read the version."""
    try:
        rules = await active.rules(request.engine.store.policies, version)
    except PolicyUnusable:
        return None
    return rules.plans.get(plan_id)


def _migration(one: Subscription, kept: Plan | None, plan: Plan) -> Migration:
    new = [terms_text(terms) for terms in plan.grants]
    if kept is None:
        return Migration(subscription=one, gains=new, loses=None)
    old = [terms_text(terms) for terms in kept.grants]
    return Migration(
        subscription=one,
        gains=[text for text in new if text not in old],
        loses=[text for text in old if text not in new],
    )
