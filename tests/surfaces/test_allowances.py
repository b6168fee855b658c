"""Allowances pay for work before credits, by every interface."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from entitlements import Entitlements, api
from entitlements.contracts import errors, http
from tests.surfaces.scene import Clock
from tests.waiting import until

METRIC = "ai_feedback_generation"
"""It costs 5 credits by the default policy."""


async def allow(face: api.Entitlements, units: int, **fields: Any) -> http.GrantResponse:
    subject = {} if "subject_id" in fields else {"user_id": "ada"}
    given: dict[str, Any] = {"grant_reason": "subscription", "metric": METRIC} | subject | fields
    return await face.grant(entitlement_type="usage_allowance", quantity=units, **given)


async def credit(face: api.Entitlements, credits: int) -> None:
    await face.adjust(credits, subject_type="user", subject_id="ada", reason="a pack")


async def work(face: api.Entitlements, units: int, **fields: Any) -> http.ConsumeResponse:
    return await face.consume(user_id="ada", metric=METRIC, amount=units, **fields)


async def test_an_allowance_pays_before_credits_and_only_the_rest_is_priced(
    face: api.Entitlements,
) -> None:
    await credit(face, 50)
    given = await allow(face, 4)
    paid = await work(face, 3)
    mixed = await work(face, 3)
    plain = await work(face, 1)

    assert (paid.credits, paid.consumed_from, paid.new_balance) == (0, "none", 50)
    assert paid.allowance_units == 3
    assert (mixed.credits, mixed.consumed_from, mixed.allowance_units) == (10, "user", 1)
    assert (plain.credits, plain.new_balance) == (5, 35)
    assert plain.allowance_units is UNSET
    shown = await face.entitlement(given.id)
    assert (shown.quantity_used, shown.remaining, shown.status) == (4, 0, "exhausted")


async def test_a_check_says_what_an_allowance_would_pay(face: api.Entitlements) -> None:
    await credit(face, 12)
    await allow(face, 4)
    covered = await face.check(user_id="ada", metric=METRIC, amount=4)
    rest = await face.check(user_id="ada", metric=METRIC, amount=6)
    every = await face.check_all({METRIC: 5, "cj_comparison": 2}, user_id="ada")
    short = await face.check_all({METRIC: 7}, user_id="ada")

    assert (covered.allowed, covered.required_credits, covered.available_credits) == (True, 0, 0)
    assert (covered.source, covered.allowance_units) == (None, 4)
    assert (rest.allowed, rest.required_credits, rest.source) == (True, 10, "user")
    assert every.required_credits == 7
    assert {name: one.required for name, one in every.per_metric.items()} == {
        METRIC: 5,
        "cj_comparison": 2,
    }
    assert every.per_metric[METRIC].allowance_units == 4
    assert (short.allowed, short.required_credits, short.missing_credits) == (False, 15, 3)
    assert short.per_metric[METRIC].allowance_units == 4


async def test_an_explanation_shows_the_allowance_and_its_draws(
    face: api.Entitlements, clock: Clock
) -> None:
    await credit(face, 12)
    given = await allow(face, 4, metadata={"reset_interval": "day"}, consumption_type="renewable")
    found = await face.check(user_id="ada", metric=METRIC, amount=6, explain=True)
    denied = await face.check(user_id="ada", metric=METRIC, amount=7, explain=True)
    await work(face, 4)
    later = await face.check(user_id="ada", metric=METRIC, amount=4, explain=True)

    assert found.explain
    gates = [(one.gate, one.verdict) for one in found.explain.gates if one.gate == "allowance"]
    assert gates == [("allowance", "pass")]
    inputs = next(one.inputs for one in found.explain.gates if one.gate == "allowance")
    assert inputs == {"units": 6, "available": {"user:ada": 4}, "covered": 4}
    assert (given.id, 4) in [(one.grant_id, one.quantity) for one in found.explain.draws]
    assert {one.credit_type for one in found.explain.wallets} == {"credits"}
    assert denied.explain
    assert denied.explain.binding
    assert (denied.explain.binding.gate, denied.explain.passes_at) == ("payer", None)
    assert later.explain
    assert (later.allowed, later.required_credits) == (False, 20)
    assert later.explain.passes_at == given.granted_at.replace(day=given.granted_at.day + 1)


async def test_a_hold_sets_units_aside_and_a_settlement_uses_them(face: api.Entitlements) -> None:
    await credit(face, 12)
    await allow(face, 4)
    held = await face.take_hold({METRIC: 5}, user_id="ada")
    with pytest.raises(errors.InsufficientCredits):
        await face.take_hold({METRIC: 2}, user_id="ada")
    shown = await face.hold(held.hold_id)
    settled = await face.settle(held.hold_id, {METRIC: 3})

    assert (held.credits, held.source, held.allowance_units) == (5, "user", {METRIC: 4})
    assert shown.allowances
    assert (shown.allowances[METRIC].taken, shown.by_credit_type["credits"].taken) == (4, 5)
    assert (settled.charged, settled.returned, settled.held) == (0, 5, 0)
    assert settled.allowances
    assert settled.allowances[METRIC] == http.AllowanceNumbersItem(charged=3, returned=1, held=0)
    assert (await face.balance("ada")).user_available == 12


async def test_a_reversal_gives_back_units_and_credits(face: api.Entitlements) -> None:
    await credit(face, 12)
    given = await allow(face, 4)
    paid = await work(face, 6)
    assert paid.operation_id
    listed = await face.operations(group_id=paid.operation_id)
    back = await face.reverse(paid.operation_id, reason="wrong essay")
    with pytest.raises(errors.Conflict):
        await face.reverse(paid.operation_id, reason="wrong essay")

    assert {(one.credit_type, one.quantity, one.amount) for one in listed.operations} == {
        ("credits", 6, 10),
        (f"units:{METRIC}", 0, 4),
    }
    assert (back.credits, back.allowance_units, back.new_balance) == (10, 4, 12)
    assert (await face.entitlement(given.id)).remaining == 4


async def test_a_repeat_with_the_same_key_is_the_first_response(face: api.Entitlements) -> None:
    given = await allow(face, 4)
    first = await work(face, 3, key="k")
    again = await work(face, 3, key="k")

    assert again.replayed
    assert (again.operation_id, again.allowance_units) == (first.operation_id, 3)
    assert (await face.entitlement(given.id)).remaining == 1


async def test_the_first_allowance_of_a_metric_is_used_by_other_processes_at_once(
    tmp_path: Any,
) -> None:
    url = f"sqlite:///{tmp_path}/e.db"
    async with Entitlements.open(url) as one, Entitlements.open(url) as other:
        await credit(other, 50)
        await work(other, 1)
        await allow(one, 4)
        paid = await work(other, 3, key="k")

        assert (paid.credits, paid.allowance_units) == (0, 3)

        async def is_seen() -> bool:
            return (await other.check(user_id="ada", metric=METRIC)).required_credits == 0

        await until(is_seen)


async def test_a_process_knows_allowances_from_its_start(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/e.db"
    async with Entitlements.open(url) as before:
        await allow(before, 4)
    async with Entitlements.open(url) as after:
        found = await after.check(user_id="ada", metric=METRIC, amount=4)

    assert (found.allowed, found.required_credits) == (True, 0)
