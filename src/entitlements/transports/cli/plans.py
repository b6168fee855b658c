"""Commands on plans of the policy: list, show, migrate."""

from typing import Annotated, Any

from cyclopts import Parameter

from entitlements.app.operations import plans as requests
from entitlements.contracts import http
from entitlements.core.plans import Plan
from entitlements.core.policy_diff import terms_text
from entitlements.transports.cli.asking import Actor, asking
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    say,
    show_json,
    show_table,
)
from entitlements.transports.cli.subscriptions import PlanName

COLUMNS = ("subject", "subscription", "gains", "loses")


async def list_plans(*, program: Injected, database: Database = None, json: AsJson = False) -> None:
    """List the plans of the active policy."""
    async with asking(program, database, "", http.SUBSCRIPTIONS) as request:
        policy = request.engine.policies.active
    if json:
        show_json([_public(name, plan) for name, plan in policy.plans.items()])
        return
    rows = [
        (name, len(plan.grants), plan.period, plan.lifecycle, name == policy.free_plan or None)
        for name, plan in policy.plans.items()
    ]
    columns = ("plan", "grants", "period", "lifecycle", "free")
    show_table(columns, rows, empty="the policy has no plans")


async def show(
    plan: PlanName, *, program: Injected, database: Database = None, json: AsJson = False
) -> None:
    """Show what a plan of the active policy grants."""
    async with asking(program, database, "", http.SUBSCRIPTIONS) as request:
        found = request.engine.policies.active.plans.get(plan)
    if found is None:
        raise Failed(f"the policy has no plan {plan}")
    if json:
        show_json(_public(plan, found))
        return
    say(f"{plan}: period {found.period}, lifecycle {found.lifecycle}")
    for terms in found.grants:
        say(f"  {terms_text(terms)}")


async def migrate(
    plan: PlanName,
    *,
    actor: Actor,
    program: Injected,
    dry_run: Annotated[bool, Parameter(negative="", help="Only show what would change.")] = False,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Move open subscriptions to their plan in the active policy; repeatable.

    Subscriptions that are canceling keep their plan until they end.
    """
    moved = 0
    found: list[requests.Migration] = []
    async with asking(program, database, actor, http.CHANGE_PLAN) as request:
        async for batch in requests.outdated(request, plan):
            found += batch
            if not dry_run:
                moved += await requests.migrate(request, batch)
    if json:
        changes = [
            {
                "subscription_id": one.subscription.subscription_id,
                "subject_type": one.subscription.subject_type,
                "subject_id": one.subscription.subject_id,
                "gains": one.gains,
                "loses": one.loses,
            }
            for one in found
        ]
        show_json({"plan": plan, "dry_run": dry_run, "moved": moved, "changes": changes})
        return
    show_table(COLUMNS, map(_row, found), empty=f"every subscription to {plan} has its plan")
    if not dry_run and found:
        say(f"{moved} subscriptions moved")


def _public(name: str, plan: Plan) -> dict[str, Any]:
    return {
        "plan_id": name,
        "grants": list(plan.grants),
        "period": plan.period,
        "lifecycle": str(plan.lifecycle),
    }


def _row(one: requests.Migration) -> tuple[Any, ...]:
    holder = f"{one.subscription.subject_type}:{one.subscription.subject_id}"
    loses = "unknown" if one.loses is None else "; ".join(one.loses) or None
    return (holder, one.subscription.subscription_id, "; ".join(one.gains) or None, loses)
