"""Concurrent commands on subscriptions, in one process and in two on the same database."""

from __future__ import annotations

from typing import Any

import pytest

from entitlements.core import commands as c
from entitlements.core.outcomes import Consumed, Refusal, Subscribed
from entitlements.core.reasons import RefusalCode
from entitlements.core.subscription import SubscriptionStatus
from entitlements.ids import uuid7
from tests.concurrency.scene import balance, consume, engines, grant, submit_all, user

POLICY = """
costs: {credit: 1, token: {cost: 1, credit_type: tokens}}
free_plan: free
plans:
  free:
    grants: [{entitlement_type: credit_grant, quantity: 10, consumption_type: renewable}]
  small:
    grants:
      - {entitlement_type: credit_grant, quantity: 50, consumption_type: renewable}
      - {entitlement_type: credit_grant, credit_type: tokens, quantity: 20}
    lifecycle: freemium
  large:
    grants: [{entitlement_type: credit_grant, quantity: 90, consumption_type: renewable}]
    lifecycle: freemium
"""
processes = pytest.mark.parametrize("number", [1, 2], ids=["one engine", "two engines"])


def command(kind: type[c.OfSubscription], name: str = "ada", **fields: Any) -> Any:
    """Return a command on the subscription ``s`` of a user."""
    origin = grant(user(name), 1).origin
    return kind(id=uuid7(), origin=origin, wallet=user(name), subscription_id="s", **fields)


def done(outcomes: list[Any]) -> list[Subscribed]:
    """Return the outcomes that changed something."""
    found = (one for one in outcomes if isinstance(one, Subscribed))
    return [one for one in found if one.operation_id is not None]


@processes
async def test_of_activations_by_several_subjects_one_succeeds(any_url: str, number: int) -> None:
    names = ["ada", "bo", "cy", "dee"]
    async with engines(any_url, number, policy=POLICY) as running:
        activations = [command(c.Activate, name, plan_id="small") for name in names]
        outcomes = await submit_all(running, activations)
        balances = [await balance(running[0], user(name)) for name in names]

    refused = [one for one in outcomes if isinstance(one, Refusal)]
    assert len(done(list(outcomes))) == 1
    assert {one.code for one in refused} == {RefusalCode.SUBSCRIPTION_EXISTS}
    assert sorted(balances) == [0, 0, 0, 50]


@processes
async def test_concurrent_activations_grant_once(any_url: str, number: int) -> None:
    async with engines(any_url, number, policy=POLICY) as running:
        activations = [command(c.Activate, plan_id="small") for _ in range(8)]
        outcomes = done(list(await submit_all(running, activations)))

        assert [one.created for one in outcomes].count(True) == 1
        assert await balance(running[0], user("ada")) == 50


@processes
async def test_of_concurrent_cancellations_one_leaves_the_free_plan(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number, policy=POLICY) as running:
        await submit_all(running, [command(c.Activate, plan_id="small")])
        ends = [command(kind) for kind in (c.CancelSubscription, c.ExpireSubscription) * 4]
        outcomes = done(list(await submit_all(running, ends)))

        assert len(outcomes) == 1
        assert await balance(running[0], user("ada")) == 10


@processes
async def test_changes_while_credits_are_used_give_nothing_twice(any_url: str, number: int) -> None:
    """Each consumption and each change is decided on the state that the others left."""
    async with engines(any_url, number, policy=POLICY) as running:
        await submit_all(running, [command(c.Activate, plan_id="small")])
        commands: list[Any] = []
        for plan_id in ("large", "small", "large", "small", "large"):
            commands += [consume("ada", 4), command(c.ChangePlan, plan_id=plan_id)]
            commands += [consume("ada", 4, metric="token"), consume("ada", 4)]
        outcomes = await submit_all(running, commands)
        left = await balance(running[0], user("ada"))
        found = await running[0].store.reads.subscription("s")

    assert found is not None
    charged = [
        one.credits
        for one, asked in zip(outcomes, commands, strict=True)
        if isinstance(one, Consumed) and isinstance(asked, c.Consume) and asked.metric == "credit"
    ]
    given = {"small": 50, "large": 90}[found.plan_id]
    assert charged == [4] * 10
    assert left == given - sum(charged)
    assert found.status is SubscriptionStatus.ACTIVE
