"""Subscriptions to plans of the policy, by every interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlements import EntitlementService, api
from entitlements.contracts import errors, http
from tests.surfaces.scene import Clock
from tests.waiting import until_next_id

PLANS = """
costs: {call: {cost: 1, credit_type: ai_tokens}}
free_plan: free
plans:
  free:
    grants:
      - entitlement_type: credit_grant
        credit_type: ai_tokens
        quantity: 10
        consumption_type: renewable
  pro:
    grants:
      - {entitlement_type: feature_unlock, feature: export}
      - {entitlement_type: tier_access, tier_id: pro}
      - entitlement_type: credit_grant
        credit_type: ai_tokens
        quantity: 500
        consumption_type: renewable
      - entitlement_type: usage_allowance
        metric: upload
        quantity: 20
        consumption_type: renewable
        reset_day: 1
  team:
    grants:
      - {entitlement_type: feature_unlock, feature: export}
      - entitlement_type: credit_grant
        credit_type: ai_tokens
        quantity: 2000
        consumption_type: renewable
    period: year
  grace:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: grace_period(days=14)
  reader:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: read_only
  keeper:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: keep_data
  basic:
    grants:
      - entitlement_type: credit_grant
        credit_type: ai_tokens
        quantity: 100
        consumption_type: renewable
    lifecycle: freemium
"""


async def subscribed(face: api.Entitlements, plan: str = "pro") -> http.SubscriptionResponse:
    await face.apply_policy(PLANS)
    return await face.activate_subscription(plan_id=plan, subscription_id="sub_1", user_id="ada")


async def tokens(face: api.Entitlements) -> int | None:
    found = await face.check_access("credit_grant", user_id="ada", credit_type="ai_tokens")
    return found.total_available_quantity


async def has(face: api.Entitlements, kind: str, **fields: Any) -> bool:
    return (await face.check_access(kind, user_id="ada", **fields)).has_access  # type: ignore[arg-type]


async def use(face: api.Entitlements, quantity: int) -> None:
    await face.spend(quantity, "credit_grant", user_id="ada", credit_type="ai_tokens")


async def test_a_subscription_grants_what_its_plan_says(
    face: api.Entitlements, clock: Clock
) -> None:
    made = await subscribed(face)
    summary = await face.summary(subject_id="ada")
    granted = await face.entitlements(reference_id="sub_1")

    assert (made.status, made.plan_id, made.created) == ("active", "pro", True)
    assert made.current_period_end == datetime(2026, 4, 1, 8, tzinfo=UTC)
    assert (made.cancels_at, made.ended_at, made.lifecycle) == (None, None, "default")
    assert {one.id for one in granted.entitlements} == set(made.granted) == set(made.grants)
    assert {one.entitlement_type for one in granted.entitlements} == {
        "subscription",
        "feature_unlock",
        "tier_access",
        "credit_grant",
        "usage_allowance",
    }
    assert {one.grant_reason for one in granted.entitlements} == {"subscription"}
    assert (summary.tier, summary.features) == ("pro", ["export"])
    assert summary.has_active_subscription
    assert summary.total_credits_available == {"ai_tokens": 500}
    assert summary.allowances["upload"].available == 20
    shown = await face.subscription("sub_1")
    assert (shown.subject_type, shown.subject_id, shown.user_id) == ("user", "ada", "ada")
    clock.advance(days=32)
    assert await tokens(face) == 500, "grants renew by their own periods"
    assert (await face.subscription("sub_1")).status == "active", "it ends only by a request"


async def test_a_canceled_subscription_leaves_nothing(face: api.Entitlements) -> None:
    made = await subscribed(face)
    await use(face, 100)
    ended = await face.cancel_subscription("sub_1", reason="asked")
    summary = await face.summary(subject_id="ada")
    again = await face.cancel_subscription("sub_1")

    assert (ended.status, ended.ended_at, ended.grants) == ("canceled", made.activated_at, [])
    assert set(ended.revoked) == set(made.granted)
    assert summary.active_entitlements == 0
    assert not summary.has_active_subscription
    assert summary.total_credits_available == {"ai_tokens": 0}
    assert (await face.entitlement(made.grants[0])).revoke_reason == "asked"
    assert (again.status, again.operation_id, again.revoked) == ("canceled", None, [])


async def test_a_repeat_with_the_same_key_gets_the_first_answer(face: api.Entitlements) -> None:
    await face.apply_policy(PLANS)
    asked: dict[str, Any] = {
        "plan_id": "pro", "subscription_id": "sub_1", "user_id": "ada", "key": "k",
    }  # fmt: skip
    first = await face.activate_subscription(**asked)
    second = await face.activate_subscription(**asked)
    ended = await face.cancel_subscription("sub_1", key="c")
    ended_again = await face.cancel_subscription("sub_1", key="c")
    with pytest.raises(errors.KeyReused):
        await face.activate_subscription(**asked | {"plan_id": "team"})

    assert (second.replayed, second.operation_id) == (True, first.operation_id)
    assert (second.granted, second.status) == (first.granted, "active")
    assert (ended_again.replayed, ended_again.revoked) == (True, ended.revoked)
    assert (await face.entitlements(reference_id="sub_1")).count == 5


async def test_an_open_subscription_begins_its_next_period(
    face: api.Entitlements, clock: Clock
) -> None:
    await subscribed(face)
    late = await face.mark_subscription_past_due("sub_1", reason="invoice 17")
    assert await tokens(face) == 500, "nothing changes while it is past due"
    clock.advance(days=3)
    paid = await face.activate_subscription(plan_id="pro", subscription_id="sub_1", user_id="ada")
    until = datetime(2027, 1, 1, tzinfo=UTC)
    longer = await face.activate_subscription(
        plan_id="pro", subscription_id="sub_1", user_id="ada", current_period_end=until
    )

    assert (late.status, late.current_period_end) == (
        "past_due",
        datetime(2026, 4, 1, 8, tzinfo=UTC),
    )
    assert (paid.status, paid.created, paid.granted) == ("active", False, [])
    assert paid.current_period_end == datetime(2026, 5, 1, 8, tzinfo=UTC)
    assert paid.activated_at == late.activated_at
    assert longer.current_period_end == until
    assert await tokens(face) == 500


async def test_a_subscription_that_is_not_paid_expires(face: api.Entitlements) -> None:
    await subscribed(face)
    await face.mark_subscription_past_due("sub_1")
    ended = await face.expire_subscription("sub_1")

    assert ended.status == "expired"
    assert await tokens(face) == 0
    with pytest.raises(errors.Conflict) as refused:
        await face.mark_subscription_past_due("sub_1")
    assert refused.value.code == "subscription_ended"


async def test_a_subscription_begins_again_after_its_end(face: api.Entitlements) -> None:
    first = await subscribed(face)
    await face.cancel_subscription("sub_1")
    again = await face.activate_subscription(plan_id="team", subscription_id="sub_1", user_id="ada")

    assert (again.status, again.created, again.ended_at) == ("active", True, None)
    assert set(again.granted).isdisjoint(first.granted)
    assert await tokens(face) == 2000
    assert again.current_period_end == datetime(2027, 3, 1, 8, tzinfo=UTC)


async def test_a_change_carries_over_what_was_used(face: api.Entitlements, clock: Clock) -> None:
    made = await subscribed(face)
    clock.advance(days=5)
    await use(face, 300)
    up = await face.change_subscription("sub_1", plan_id="team")
    seen = [await tokens(face)]
    await use(face, 900)
    down = await face.change_subscription("sub_1", plan_id="pro")
    seen.append(await tokens(face))
    await face.change_subscription("sub_1", plan_id="team")
    seen.append(await tokens(face))
    clock.advance(days=26)
    seen.append(await tokens(face))

    assert (await face.summary(subject_id="ada")).total_credits_used == {"ai_tokens": 1200}
    assert up.plan_id == "team"
    assert set(up.revoked) == set(made.granted[1:]), "the subscription's own grant stays"
    assert up.current_period_end == made.current_period_end
    assert seen == [1700, 0, 800, 2000]
    assert down.granted != made.granted
    new = [await face.entitlement(one) for one in up.granted]
    assert [one.granted_at for one in new] == [
        made.activated_at + timedelta(days=5),
        made.activated_at,
    ], "the credits have the period of those that they replace"
    assert (await face.summary(subject_id="ada")).has_active_subscription


async def test_held_units_count_as_used_in_a_change(face: api.Entitlements) -> None:
    await subscribed(face)
    hold = await face.take_hold(user_id="ada", requirements={"call": 200})
    await face.change_subscription("sub_1", plan_id="team")
    changed = await tokens(face)
    await face.settle(hold.hold_id, requirements={"call": 150})

    assert changed == 1800
    assert await tokens(face) == 1800, "what was held of the old plan is not given again"


async def test_a_cancellation_at_the_end_of_the_period_is_exact(
    face: api.Entitlements, clock: Clock
) -> None:
    made = await subscribed(face)
    asked = await face.cancel_subscription("sub_1", at="period_end")
    again = await face.cancel_subscription("sub_1", at="period_end")
    clock.now = made.current_period_end - timedelta(microseconds=1)
    before = [await has(face, "feature_unlock", feature="export"), await tokens(face)]
    listed_before = await face.subscriptions(status="active")
    clock.advance(microseconds=1)
    at_end = [await has(face, "feature_unlock", feature="export"), await tokens(face)]
    shown = await face.subscription("sub_1")
    listed = await face.subscriptions(status="canceled", subject_type="user", subject_id="ada")

    assert (asked.status, asked.cancels_at) == ("active", made.current_period_end)
    assert (asked.revoked, again.operation_id) == ([], None)
    assert before == [True, 500]
    assert listed_before.count == 1
    assert at_end == [False, 0], "nothing is renewed at the instant of the end"
    assert (shown.status, shown.ended_at) == ("canceled", made.current_period_end)
    assert [one.subscription_id for one in listed.subscriptions] == ["sub_1"]
    with pytest.raises(errors.Conflict):
        await face.change_subscription("sub_1", plan_id="team")


@pytest.mark.parametrize("by", ["activate", "change"])
async def test_a_cancellation_is_withdrawn_before_it_takes_effect(
    face: api.Entitlements, clock: Clock, by: str
) -> None:
    made = await subscribed(face, "grace")
    await face.cancel_subscription("sub_1", at="period_end")
    if by == "activate":
        kept = await face.activate_subscription(
            plan_id="grace", subscription_id="sub_1", user_id="ada"
        )
    else:
        kept = await face.change_subscription("sub_1", plan_id="grace")
    clock.now = made.current_period_end

    assert (kept.cancels_at, len(kept.revoked)) == (None, 1 if by == "activate" else 2)
    assert await has(face, "feature_unlock", feature="export")
    assert await has(face, "subscription", subscription_id="sub_1")
    assert not await has(face, "temporary_access")


AFTERWARDS = {
    "grace": (14, {}),
    "reader": (30, {"mode": "read_only"}),
    "keeper": (None, {"mode": "data_only"}),
}


@pytest.mark.parametrize("plan", AFTERWARDS)
@pytest.mark.parametrize("at", ["now", "period_end"])
async def test_the_lifecycle_says_what_the_end_leaves(
    face: api.Entitlements, clock: Clock, plan: str, at: http.CancelAt
) -> None:
    days, metadata = AFTERWARDS[plan]
    made = await subscribed(face, plan)
    ended = await face.cancel_subscription("sub_1", at=at)
    if at == "period_end":
        assert not await has(face, "temporary_access")
        clock.now = made.current_period_end
    began = clock.now
    access = await face.check_access("temporary_access", user_id="ada")
    (left,) = ended.granted
    given = await face.entitlement(left)

    assert access.has_access
    assert access.limitations == metadata
    assert access.expires_at == (None if days is None else began + timedelta(days=days))
    assert (given.grant_reason, given.reference_id) == ("subscription_cancelled", "sub_1")
    assert not await has(face, "feature_unlock", feature="export")
    assert not (await face.summary(subject_id="ada")).has_active_subscription
    again = await face.activate_subscription(plan_id=plan, subscription_id="sub_2", user_id="ada")
    assert again.revoked == [left], "a new subscription ends what the old one has left"
    assert not await has(face, "temporary_access")


@pytest.mark.parametrize("at", ["now", "period_end"])
async def test_freemium_leaves_the_free_plan(
    face: api.Entitlements, clock: Clock, at: http.CancelAt
) -> None:
    made = await subscribed(face, "basic")
    await face.cancel_subscription("sub_1", at=at)
    if at == "period_end":
        assert await tokens(face) == 100
        clock.now = made.current_period_end
    free = await tokens(face)
    await use(face, 4)
    clock.advance(days=31)
    renewed = await tokens(face)
    await face.activate_subscription(plan_id="pro", subscription_id="sub_2", user_id="ada")

    assert (free, renewed) == (10, 10)
    assert await tokens(face) == 500
    assert (await face.summary(subject_id="ada")).has_active_subscription


async def test_the_free_plan_is_no_active_subscription(face: api.Entitlements) -> None:
    await subscribed(face, "free")

    assert not (await face.summary(subject_id="ada")).has_active_subscription
    assert await has(face, "subscription", subscription_id="sub_1")


async def test_a_subscription_keeps_the_plan_of_its_policy_version(
    face: api.Entitlements,
) -> None:
    made = await subscribed(face, "grace")
    edited = PLANS.replace("lifecycle: grace_period(days=14)", "lifecycle: default")
    await face.apply_policy(edited)
    kept = await face.subscription("sub_1")
    ended = await face.cancel_subscription("sub_1")

    assert (kept.policy_version, kept.lifecycle) == (made.policy_version, "grace_period(days=14)")
    assert len(ended.granted) == 1


async def test_revoking_its_own_grant_ends_a_subscription(face: api.Entitlements) -> None:
    await subscribed(face)
    revoked = await face.revoke_reference("sub_1", reason="refund")

    assert revoked.count == 5
    assert (await face.subscription("sub_1")).status == "canceled"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a plan that the policy does not have": ({"plan_id": "gold"}, "plan_id"),
    "an empty plan": ({"plan_id": ""}, "plan_id"),
    "a period that is over": (
        {"current_period_end": datetime(2026, 3, 1, 8, tzinfo=UTC)},
        "current_period_end",
    ),
    "an empty subscription": ({"subscription_id": ""}, "subscription_id"),
    "no subject": ({"user_id": None}, "user_id"),
    "two subjects": ({"subject_type": "org", "subject_id": "s"}, "user_id"),
    "half a subject": ({"user_id": None, "subject_id": "s"}, "subject_type"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_invalid_request_changes_nothing(face: api.Entitlements, name: str) -> None:
    changed, field = REFUSED[name]
    await face.apply_policy(PLANS)
    asked: dict[str, Any] = {"plan_id": "pro", "subscription_id": "sub_1", "user_id": "ada"}
    with pytest.raises(errors.InvalidRequest) as refused:
        await face.activate_subscription(**asked | changed)

    assert refused.value.errors[0].field == field
    assert (await face.subscriptions()).count == 0
    assert (await face.operations()).count == 0


async def test_conflicts_and_unknown_subscriptions_are_refused(face: api.Entitlements) -> None:
    await subscribed(face)
    with pytest.raises(errors.Conflict) as another_plan:
        await face.activate_subscription(plan_id="team", subscription_id="sub_1", user_id="ada")
    with pytest.raises(errors.Conflict) as another_subject:
        await face.activate_subscription(plan_id="pro", subscription_id="sub_1", user_id="eve")
    with pytest.raises(errors.InvalidRequest) as unknown_plan:
        await face.change_subscription("sub_1", plan_id="gold")
    with pytest.raises(errors.NotFound):
        await face.cancel_subscription("sub_2")
    with pytest.raises(errors.NotFound):
        await face.subscription("sub_2")

    assert another_plan.value.code == another_subject.value.code == "subscription_exists"
    assert unknown_plan.value.code == "unknown_plan"
    assert await tokens(face) == 500


async def test_subscriptions_are_listed_by_subject_plan_and_status(
    face: api.Entitlements,
) -> None:
    await face.apply_policy(PLANS)
    for number, plan in enumerate(["pro", "team", "pro"]):
        await until_next_id()
        await face.activate_subscription(
            plan_id=plan, subscription_id=f"s{number}", subject_type="org", subject_id=f"o{number}"
        )
    await face.cancel_subscription("s2")
    pages, cursor = [], None
    while True:
        page = await face.subscriptions(limit=2, cursor=cursor)
        pages.append([one.subscription_id for one in page.subscriptions])
        cursor = page.next_cursor
        if cursor is None:
            break

    async def named(**filters: Any) -> list[str]:
        found = await face.subscriptions(**filters)
        return [one.subscription_id for one in found.subscriptions]

    assert pages == [["s2", "s1"], ["s0"]]
    assert await named(plan_id="pro") == ["s2", "s0"]
    assert await named(status="canceled") == ["s2"]
    assert await named(plan_id="pro", status="active") == ["s0"]
    assert await named(subject_type="org", subject_id="o1") == ["s1"]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("default", (False, None, None)),
        ("freemium", (False, None, 10)),
        ("grace_period", (True, 14, None)),
        ("grace_period(days=3)", (True, 3, None)),
        ("read_only", (True, 30, None)),
        ("keep_data", (True, None, None)),
    ],
)
async def test_a_handler_named_as_a_rule_ends_a_subscription_by_it(
    face: api.Entitlements, clock: Clock, rule: str, left: tuple[bool, int | None, int | None]
) -> None:
    has_access, days, free_tokens = left
    made = await subscribed(face, "pro")
    service = EntitlementService(face, lifecycle_handler_name=rule)
    revoked = await service.lifecycle_handler.handle_subscription_cancelled("sub_1")
    access = await face.check_access("temporary_access", user_id="ada")

    assert {one.id for one in revoked} == set(made.grants)
    assert {one.status for one in revoked} == {"revoked"}
    assert access.has_access is has_access
    ends = None if days is None else clock.now + timedelta(days=days)
    assert access.expires_at == ends
    assert await tokens(face) == (free_tokens or 0)


async def test_a_handler_named_as_a_rule_expires_a_subscription(face: api.Entitlements) -> None:
    await subscribed(face, "grace")
    service = EntitlementService(face, lifecycle_handler_name="keep_data")
    await service.lifecycle_handler.handle_subscription_expired("sub_1")
    found = await face.check_access("temporary_access", user_id="ada")

    assert (await face.subscription("sub_1")).status == "expired"
    assert found.limitations == {"mode": "data_only"}
    with pytest.raises(errors.NotFound):
        await service.lifecycle_handler.handle_subscription_cancelled("sub_2")


@pytest.mark.parametrize("rule", ["grace", "freemium(days=3)", "grace_period(days=9999)"])
async def test_an_unknown_lifecycle_is_refused(face: api.Entitlements, rule: str) -> None:
    await subscribed(face)
    with pytest.raises(errors.InvalidRequest) as refused:
        await face.cancel_subscription("sub_1", lifecycle=rule)

    assert [one.field for one in refused.value.errors] == ["lifecycle"]
    assert (await face.subscription("sub_1")).status == "active"


async def test_freemium_needs_a_free_plan(face: api.Entitlements) -> None:
    await subscribed(face)
    await face.apply_policy(PLANS.replace("free_plan: free\n", "").replace("freemium", "default"))
    with pytest.raises(errors.Refused) as refused:
        await face.cancel_subscription("sub_1", lifecycle="freemium")

    assert "free_plan" in str(refused.value)
    assert (await face.subscription("sub_1")).status == "active"


async def test_a_later_request_replaces_the_lifecycle_of_a_cancellation(
    face: api.Entitlements, clock: Clock
) -> None:
    made = await subscribed(face, "grace")
    first = await face.cancel_subscription("sub_1", at="period_end")
    second = await face.cancel_subscription("sub_1", at="period_end", lifecycle="keep_data")
    clock.now = made.current_period_end
    access = await face.check_access("temporary_access", user_id="ada")

    assert second.revoked == first.granted
    assert access.limitations == {"mode": "data_only"}
    assert [one.grant_id for one in access.sources] == second.granted


async def test_a_withdrawn_cancellation_leaves_the_lifecycle_of_the_plan(
    face: api.Entitlements,
) -> None:
    await subscribed(face, "grace")
    await face.cancel_subscription("sub_1", at="period_end", lifecycle="keep_data")
    kept = await face.activate_subscription(plan_id="grace", subscription_id="sub_1", user_id="ada")
    await face.cancel_subscription("sub_1")
    access = await face.check_access("temporary_access", user_id="ada")

    assert kept.lifecycle == "grace_period(days=14)"
    assert access.limitations == {}
