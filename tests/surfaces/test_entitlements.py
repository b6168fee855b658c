"""Grants of every type, access checks, consumption by type and summaries, by every interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlements import api
from entitlements.contracts import errors, http
from tests.surfaces.scene import Clock
from tests.waiting import until_next_id

PRESENT: dict[str, dict[str, Any]] = {
    "subscription": {"subscription_id": "sub_1"},
    "product_access": {"product_id": "42"},
    "feature_unlock": {"feature": "export"},
    "tier_access": {"tier_id": "pro"},
    "api_access": {},
    "temporary_access": {},
}
"""The types that cannot be consumed, each with its own field."""
CONSUMABLE: dict[str, dict[str, Any]] = {
    "credit_grant": {"credit_type": "ai_tokens"},
    "usage_allowance": {"metric": "cj_comparison"},
}


async def give(face: api.Entitlements, kind: str, **fields: Any) -> http.GrantResponse:
    subject = {} if "subject_id" in fields else {"user_id": "ada"}
    given: dict[str, Any] = {"grant_reason": "manual"} | subject | fields
    return await face.grant(entitlement_type=kind, **given)  # type: ignore[arg-type]


async def access(face: api.Entitlements, kind: str, **fields: Any) -> http.AccessResponse:
    return await face.check_access(kind, **({"user_id": "ada"} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PRESENT)
async def test_what_cannot_be_consumed_is_there_from_its_start_until_its_end(
    face: api.Entitlements, clock: Clock, kind: str
) -> None:
    starts, ends = clock.now + timedelta(seconds=10), clock.now + timedelta(seconds=20)
    given = await give(face, kind, granted_at=starts, expires_at=ends, **PRESENT[kind])
    seen = []
    for _ in range(4):
        found = await access(face, kind, **PRESENT[kind])
        shown = await face.entitlement(given.id)
        seen.append((found.has_access, found.total_available_quantity, shown.status))
        clock.advance(seconds=9 if len(seen) == 1 else 1 if len(seen) == 2 else 10)

    assert given.status == "scheduled"
    assert (given.quantity_granted, given.remaining, given.consumption_type) == (None, None, "none")
    assert seen == [
        (False, 0, "scheduled"),
        (False, 0, "scheduled"),
        (True, None, "active"),
        (False, 0, "expired"),
    ]


@pytest.mark.parametrize("kind", CONSUMABLE)
async def test_what_can_be_consumed_is_spent_in_burn_order(
    face: api.Entitlements, clock: Clock, kind: str
) -> None:
    late = await give(face, kind, quantity=5, **CONSUMABLE[kind])
    soon = await give(
        face, kind, quantity=3, expires_at=clock.now + timedelta(days=1), **CONSUMABLE[kind]
    )
    spent = await face.spend(4, kind, user_id="ada", **CONSUMABLE[kind])  # type: ignore[arg-type]
    found = await access(face, kind, required_quantity=4, **CONSUMABLE[kind])
    too_much = await access(face, kind, required_quantity=5, **CONSUMABLE[kind])
    with pytest.raises(errors.InsufficientCredits) as refused:
        await face.spend(5, kind, user_id="ada", **CONSUMABLE[kind])  # type: ignore[arg-type]

    assert [(one.grant_id, one.quantity) for one in spent.usage_records] == [
        (soon.id, 3),
        (late.id, 1),
    ]
    assert (spent.remaining, spent.source) == (4, "user")
    assert (found.has_access, found.total_available_quantity) == (True, 4)
    assert [(one.grant_id, one.remaining) for one in found.sources] == [(late.id, 4)]
    assert (too_much.has_access, too_much.total_available_quantity) == (False, 4)
    assert refused.value.data == {"required": 5, "available": 4}
    used = await face.entitlement(soon.id)
    assert (used.status, used.quantity_used, used.remaining) == ("exhausted", 3, 0)


@pytest.mark.parametrize("kind", CONSUMABLE)
async def test_without_a_quantity_there_is_no_limit(face: api.Entitlements, kind: str) -> None:
    given = await give(face, kind, **CONSUMABLE[kind])
    spent = await face.spend(10**15, kind, user_id="ada", **CONSUMABLE[kind])  # type: ignore[arg-type]
    found = await access(face, kind, required_quantity=10**15, **CONSUMABLE[kind])
    summary = await face.summary(subject_id="ada")

    assert (given.quantity_granted, given.remaining, given.status) == (None, None, "active")
    assert spent.remaining is None
    assert (found.has_access, found.total_available_quantity) == (True, None)
    assert (await face.entitlement(given.id)).quantity_used == 10**15
    shown = summary.total_credits_available | {
        metric: one.available for metric, one in summary.allowances.items()
    }
    assert shown == {next(iter(CONSUMABLE[kind].values())): None}


async def test_a_balance_shows_that_it_is_unlimited_and_no_allowance(
    face: api.Entitlements,
) -> None:
    await give(face, "credit_grant", credit_type="credits")
    await give(face, "usage_allowance", metric="cj_comparison", quantity=5)
    balance = await face.balance("ada")

    assert (balance.user_balance, balance.user_available) == (0, 10**15)
    assert balance.by_credit_type.keys() == {"credits"}
    assert balance.by_credit_type["credits"]["user"].unlimited


async def test_a_grant_is_made_once_per_key(face: api.Entitlements) -> None:
    fields = {"credit_type": "credits", "quantity": 5, "metadata": {"a": 1}}
    first = await give(face, "credit_grant", key="k", **fields)
    await face.spend(2, user_id="ada", credit_type="credits")
    again = await give(face, "credit_grant", key="k", **fields)
    with pytest.raises(errors.KeyReused):
        await give(face, "credit_grant", key="k", **(fields | {"quantity": 6}))
    other = await give(face, "credit_grant", **fields)

    assert again.replayed
    assert again.id == first.id != other.id
    assert again.remaining == first.remaining == 5
    assert (await face.balance("ada")).user_balance == 8


async def test_a_spend_is_charged_once_per_key_and_equal_ones_without_are_two(
    face: api.Entitlements,
) -> None:
    await give(face, "credit_grant", credit_type="credits", quantity=9)
    first = await face.spend(2, user_id="ada", credit_type="credits", key="k")
    again = await face.spend(2, user_id="ada", credit_type="credits", key="k")
    for _ in range(2):
        await face.spend(1, user_id="ada", credit_type="credits")

    assert (again.replayed, again.operation_id) == (True, first.operation_id)
    assert again.usage_records == first.usage_records
    assert (await face.balance("ada")).user_balance == 5


async def test_the_context_of_a_spend_is_kept_with_its_operation(face: api.Entitlements) -> None:
    await give(face, "credit_grant", credit_type="credits", quantity=9)
    context = {"model": "gpt-5", "conversation": {"id": 123}}
    told = await face.spend(1, user_id="ada", credit_type="credits", usage_context=context)
    silent = await face.spend(1, user_id="ada", credit_type="credits")

    assert (await face.operation(told.operation_id)).usage_context == context
    assert (await face.operation(silent.operation_id)).usage_context is None


async def test_an_org_gives_what_its_users_do_not_have(face: api.Entitlements) -> None:
    await give(face, "feature_unlock", feature="export", subject_type="org", subject_id="school")
    await give(
        face,
        "credit_grant",
        credit_type="credits",
        quantity=3,
        subject_type="org",
        subject_id="school",
    )
    await give(face, "credit_grant", credit_type="credits", quantity=9)
    alone = await face.check_feature("export", user_id="ada")
    within = await face.check_feature("export", user_id="ada", org_id="school")
    small = await access(face, "credit_grant", org_id="school", required_quantity=3)
    large = await access(face, "credit_grant", org_id="school", required_quantity=4)
    huge = await access(face, "credit_grant", org_id="school", required_quantity=10)
    spent = await face.spend(4, user_id="ada", org_id="school", credit_type="credits")

    assert (alone.has_access, within.has_access) == (False, True)
    assert [one.subject_id for one in within.sources] == ["school"]
    assert [one.subject_id for one in small.sources] == ["school"]
    assert [one.subject_id for one in large.sources] == ["ada"]
    assert (huge.has_access, huge.total_available_quantity) == (False, 9)
    assert spent.source == "user"


async def test_several_checks_are_answered_in_order(face: api.Entitlements) -> None:
    await give(face, "feature_unlock", feature="export")
    await give(face, "tier_access", tier_id="pro")
    asked = [
        http.AccessItem(entitlement_type="feature_unlock", feature="export"),
        http.AccessItem(entitlement_type="feature_unlock", feature="import"),
        http.AccessItem(entitlement_type="tier_access"),
        http.AccessItem(entitlement_type="credit_grant", credit_type="credits"),
    ]
    answer = await face.check_access_all(asked, user_id="ada")

    assert [one.has_access for one in answer.results] == [True, False, True, False]


async def test_a_field_of_another_type_is_refused_in_checks_and_spends(
    face: api.Entitlements,
) -> None:
    await give(face, "usage_allowance", metric="cj_comparison", quantity=5)
    allowance = http.AccessItem(entitlement_type="usage_allowance", metric="cj_comparison")
    mixed = http.AccessItem(entitlement_type="usage_allowance", credit_type="credits")
    with pytest.raises(errors.InvalidRequest) as checked:
        await access(face, "usage_allowance", metric="cj_comparison", credit_type="credits")
    with pytest.raises(errors.InvalidRequest) as second:
        await face.check_access_all([allowance, mixed], user_id="ada")
    with pytest.raises(errors.InvalidRequest) as spent:
        await face.spend(1, "usage_allowance", user_id="ada", credit_type="credits")

    refused = [one.value.errors[0].field for one in (checked, second, spent)]
    assert refused == ["credit_type", "checks[1].credit_type", "credit_type"]


async def test_a_feature_without_a_name_answers_only_checks_without_one(
    face: api.Entitlements,
) -> None:
    await give(face, "feature_unlock")

    assert (await access(face, "feature_unlock")).has_access
    assert not (await access(face, "feature_unlock", feature="export")).has_access


async def test_an_allowance_without_a_metric_is_spent_without_one(face: api.Entitlements) -> None:
    await give(face, "usage_allowance", quantity=2)
    spent = await face.spend(1, "usage_allowance", user_id="ada")
    with pytest.raises(errors.InsufficientCredits):
        await face.spend(1, "usage_allowance", user_id="ada", metric="cj_comparison")

    assert spent.remaining == 1
    assert (await face.summary(subject_id="ada")).allowances == {
        "": http.AllowanceItem(available=1, used=1)
    }


async def test_limitations_take_the_largest_number_the_union_of_lists_and_the_first_of_others(
    face: api.Entitlements,
) -> None:
    first = {"seats": 5, "formats": ["pdf", "csv"], "mode": "full", "beta": True}
    second = {"seats": 9, "formats": ["csv", "xml"], "mode": "read", "beta": 3, "extra": None}
    await give(face, "feature_unlock", feature="export", priority=90, metadata=second)
    await give(face, "feature_unlock", feature="export", priority=10, metadata=first)
    found = await face.check_feature("export", user_id="ada")

    assert found.limitations == {
        "seats": 9,
        "formats": ["pdf", "csv", "xml"],
        "mode": "full",
        "beta": True,
        "extra": None,
    }


async def test_a_revoked_grant_gives_nothing_and_stays_on_record(
    face: api.Entitlements, clock: Clock
) -> None:
    given = await give(face, "credit_grant", credit_type="credits", quantity=9)
    await face.spend(4, user_id="ada", credit_type="credits")
    clock.advance(seconds=5)
    revoked = await face.revoke(given.id, reason="refund")
    clock.advance(seconds=5)
    again = await face.revoke(given.id, reason="another reason")

    assert (revoked.status, revoked.revoke_reason, revoked.remaining) == ("revoked", "refund", 0)
    assert (revoked.quantity_used, revoked.revoked_at) == (4, clock.now - timedelta(seconds=5))
    assert again == revoked
    assert (await face.balance("ada")).user_balance == 0
    with pytest.raises(errors.NotFound):
        await face.revoke("17")
    with pytest.raises(errors.NotFound):
        await face.entitlement("17")


async def test_every_grant_of_a_reference_is_revoked_once(
    face: api.Entitlements, clock: Clock
) -> None:
    mine = [
        await give(face, "feature_unlock", feature=name, reference_id="pi_1") for name in ("a", "b")
    ]
    school = await give(
        face,
        "credit_grant",
        credit_type="credits",
        quantity=5,
        subject_type="org",
        subject_id="school",
        reference_id="pi_1",
        granted_at=clock.now + timedelta(days=1),
    )
    await give(face, "feature_unlock", feature="c", reference_id="pi_2")
    first = await face.revoke_reference("pi_1", reason="refund", key="k")
    replayed = await face.revoke_reference("pi_1", reason="refund", key="k")
    later = await face.revoke_reference("pi_1", reason="refund")

    assert {one.id for one in first.revoked} == {school.id, *(one.id for one in mine)}
    assert {one.status for one in first.revoked} == {"revoked"}
    assert (replayed.replayed, replayed.revoked) == (True, first.revoked)
    assert later.revoked == []
    assert (await face.check_feature("c", user_id="ada")).has_access


async def test_grants_are_listed_by_every_filter_in_pages(
    face: api.Entitlements, clock: Clock
) -> None:
    async def given(kind: str, **fields: Any) -> http.GrantResponse:
        await until_next_id()
        return await give(face, kind, **fields)

    soon, later = clock.now + timedelta(seconds=10), clock.now + timedelta(days=9)
    made = {
        "exhausted": await given("credit_grant", credit_type="credits", quantity=1),
        "expired": await given("api_access", expires_at=soon, reference_id="r"),
        "scheduled": await given("api_access", granted_at=later),
        "revoked": await given("api_access"),
        "active": await given("feature_unlock", subject_type="org", subject_id="school"),
    }
    await face.spend(1, user_id="ada", credit_type="credits")
    await face.revoke(made["revoked"].id)
    clock.advance(seconds=10)
    by_status = {status: await face.entitlements(status=status) for status in made}  # type: ignore[arg-type]
    by_user = await face.entitlements(subject_type="user", subject_id="ada")
    by_type = await face.entitlements(entitlement_type="api_access", subject_id="ada")
    by_reference = await face.entitlements(reference_id="r")
    page = await face.entitlements(limit=2)
    rest = await face.entitlements(limit=100, cursor=page.next_cursor)

    assert {status: [one.id for one in found.entitlements] for status, found in by_status.items()} \
        == {status: [one.id] for status, one in made.items()}  # fmt: skip
    newest_first = [one.id for one in reversed(list(made.values()))]
    assert [one.id for one in by_user.entitlements] == newest_first[1:]
    assert [one.id for one in by_type.entitlements] == newest_first[1:4]
    assert [one.id for one in by_reference.entitlements] == [made["expired"].id]
    assert [one.id for one in (*page.entitlements, *rest.entitlements)] == newest_first
    assert rest.next_cursor is None


async def test_a_summary_has_what_is_active_and_what_was_used(
    face: api.Entitlements, clock: Clock
) -> None:
    ends = clock.now + timedelta(days=2)
    await give(face, "subscription", subscription_id="trial", grant_reason="trial")
    trial = await face.summary(subject_id="ada")
    await give(face, "subscription", subscription_id="sub_1", grant_reason="subscription")
    await give(face, "tier_access", tier_id="free", priority=90)
    await give(face, "tier_access", tier_id="pro", priority=10)
    await give(face, "feature_unlock", feature="b")
    await give(face, "feature_unlock", feature="a")
    await give(face, "credit_grant", credit_type="ai_tokens", quantity=9, expires_at=ends)
    await give(face, "credit_grant", credit_type="api_calls", quantity=5)
    await face.spend(4, user_id="ada", credit_type="ai_tokens")
    summary = await face.summary(subject_id="ada")
    clock.advance(days=2)
    after = await face.summary(subject_id="ada")

    assert (trial.has_active_subscription, summary.has_active_subscription) == (False, True)
    assert (summary.active_entitlements, summary.tier) == (8, "pro")
    assert summary.features == ["a", "b"]
    assert summary.total_credits_available == {"ai_tokens": 5, "api_calls": 5}
    assert summary.total_credits_used == {"ai_tokens": 4, "api_calls": 0}
    assert [(one.at, one.remaining) for one in summary.next_expiries] == [(ends, 5)]
    assert after.total_credits_available == {"ai_tokens": 0, "api_calls": 5}
    assert after.total_credits_used == {"ai_tokens": 4, "api_calls": 0}


async def test_two_scheduled_grants_that_no_balance_could_hold_are_refused(
    face: api.Entitlements, clock: Clock
) -> None:
    start = clock.now + timedelta(days=1)
    fields: dict[str, Any] = {"credit_type": "credits", "quantity": 10**15, "granted_at": start}
    await give(face, "credit_grant", **fields)
    with pytest.raises(errors.InvalidRequest, match="at most"):
        await give(face, "credit_grant", **fields)
    clock.advance(days=1)

    assert (await face.balance("ada")).user_balance == 10**15


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown type": ({"entitlement_type": "magic"}, "entitlement_type"),
    "an unknown reason": ({"grant_reason": "whim"}, "grant_reason"),
    "a missing subscription": ({"entitlement_type": "subscription"}, "subscription_id"),
    "a missing product": ({"entitlement_type": "product_access"}, "product_id"),
    "a missing tier": ({"entitlement_type": "tier_access"}, "tier_id"),
    "a missing credit type": ({"entitlement_type": "credit_grant"}, "credit_type"),
    "a field of another type": ({"feature": "x", "entitlement_type": "api_access"}, "feature"),
    "a quantity of a feature": ({"quantity": 5}, "quantity_granted"),
    "a negative quantity": (CONSUMABLE["credit_grant"] | {"quantity": -1}, "quantity_granted"),
    "no quantity at all": (CONSUMABLE["credit_grant"] | {"quantity": 0}, "quantity_granted"),
    "a huge quantity": (CONSUMABLE["credit_grant"] | {"quantity": 10**15 + 1}, "quantity_granted"),
    "a consumption that is not its": ({"consumption_type": "decremental"}, "consumption_type"),
    "a priority above 100": ({"priority": 101}, "priority"),
    "metadata above 16 KB": ({"metadata": {"a": "x" * 16_384}}, "metadata"),
    "metadata nested 9 deep": ({"metadata": {"a": [[[[[[[[]]]]]]]]}}, "metadata"),
    "a reserved credit type": ({"credit_type": "units:x", "quantity": 1}, "credit_type"),
    "two subjects": ({"subject_type": "org", "subject_id": "o", "user_id": "u"}, "user_id"),
    "no subject": ({"user_id": None}, "user_id"),
    "an end before the start": ({"granted_at": 9, "expires_at": 9}, "expires_at"),
    "an end in the past": ({"expires_at": 0}, "expires_at"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_grant_is_refused_and_names_its_field(
    face: api.Entitlements, clock: Clock, case: str
) -> None:
    given, field = BAD[case]
    kind = "credit_grant" if "credit_type" in given else "feature_unlock"
    usual = {"entitlement_type": kind, "grant_reason": "manual", "user_id": "ada"}
    times = {
        name: clock.now + timedelta(seconds=given[name])
        for name in ("granted_at", "expires_at")
        if name in given
    }
    with pytest.raises(errors.InvalidRequest) as refused:
        await face.grant(**(usual | given | times))

    assert [one.field for one in refused.value.errors] == [field]
    assert (await face.entitlements()).count == 0


async def test_a_monthly_quota_starts_again_at_local_midnight(
    face: api.Entitlements, clock: Clock
) -> None:
    clock.now = datetime(2026, 3, 1, 8, tzinfo=UTC)
    quota: dict[str, Any] = {"metric": "cj_comparison"}
    given = await give(
        face,
        "usage_allowance",
        quantity=100,
        consumption_type="renewable",
        metadata={"reset_day": 31, "timezone": "Europe/Stockholm", "model": "small"},
        **quota,
    )
    await face.spend(70, "usage_allowance", user_id="ada", **quota)
    clock.now = datetime(2026, 3, 30, 21, 59, 59, tzinfo=UTC)
    before = await access(face, "usage_allowance", **quota)
    clock.advance(seconds=1)
    after = await access(face, "usage_allowance", required_quantity=100, **quota)
    shown = await face.entitlement(given.id)
    spent = await face.spend(60, "usage_allowance", user_id="ada", **quota)
    summary = await face.summary(subject_id="ada")
    clock.now = datetime(2026, 7, 1, tzinfo=UTC)
    late = await face.entitlement(given.id)

    assert given.renews_at == datetime(2026, 3, 30, 22, tzinfo=UTC)
    assert (before.has_access, before.total_available_quantity) == (True, 30)
    assert (after.has_access, after.total_available_quantity) == (True, 100)
    assert after.limitations["model"] == "small"
    assert (shown.remaining, shown.quantity_used) == (100, 0)
    assert shown.renews_at == datetime(2026, 4, 29, 22, tzinfo=UTC)
    assert spent.remaining == 40
    assert summary.allowances["cj_comparison"] == http.AllowanceItem(available=40, used=130)
    assert [(one.grant_id, one.at, one.quantity) for one in summary.next_renewals] == [
        (given.id, datetime(2026, 4, 29, 22, tzinfo=UTC), 100)
    ]
    assert (late.remaining, late.quantity_used) == (100, 0)
    assert late.renews_at == datetime(2026, 7, 30, 22, tzinfo=UTC)


async def test_credits_that_were_not_used_roll_over_up_to_the_cap(
    face: api.Entitlements, clock: Clock
) -> None:
    given = await give(
        face,
        "credit_grant",
        credit_type="credits",
        quantity=10,
        consumption_type="accumulative",
        metadata={"reset_interval": "day", "rollover_cap": 15},
    )
    await face.spend(4, user_id="ada", credit_type="credits")
    balances = []
    for _ in range(3):
        clock.advance(days=1)
        balances.append((await face.balance("ada")).user_balance)
    await face.spend(25, user_id="ada", credit_type="credits")
    clock.advance(days=30)

    assert balances == [16, 25, 25]
    assert (await face.balance("ada")).user_balance == 25
    kinds = [
        (line.kind, line.quantity)
        for line in (await face.operations(subject_id="ada")).operations
        if line.kind == "renewal"
    ]
    assert kinds == [("renewal", 3)]  # the reads before it wrote nothing
    assert (await face.entitlement(given.id)).status == "active"


async def test_each_period_is_recorded_by_the_next_use(
    face: api.Entitlements, clock: Clock
) -> None:
    await give(
        face,
        "credit_grant",
        credit_type="credits",
        quantity=10,
        consumption_type="renewable",
        metadata={"reset_interval": "day"},
    )
    left = []
    for _ in range(3):
        await face.spend(4, user_id="ada", credit_type="credits")
        left.append((await face.spend(1, user_id="ada", credit_type="credits")).remaining)
        clock.advance(days=1)

    assert left == [5, 5, 5]
    lines = (await face.operations(subject_id="ada")).operations
    assert [line.delta for line in lines if line.kind == "renewal"] == [5, 5]


BAD_PERIODS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown interval": ({"reset_interval": "fortnight"}, "metadata.reset_interval"),
    "an interval that is no text": ({"reset_interval": ["day"]}, "metadata.reset_interval"),
    "day 0": ({"reset_day": 0}, "metadata.reset_day"),
    "day 32": ({"reset_day": 32}, "metadata.reset_day"),
    "a day that is true": ({"reset_day": True}, "metadata.reset_day"),
    "a day of a week": ({"reset_interval": "week", "reset_day": 1}, "metadata.reset_day"),
    "an unknown zone": ({"timezone": "Europe/Atlantis"}, "metadata.timezone"),
    "a path for a zone": ({"timezone": "../etc/passwd"}, "metadata.timezone"),
    "a zone that is no text": ({"timezone": []}, "metadata.timezone"),
    "a cap of a renewable grant": ({"rollover_cap": 5}, "metadata.rollover_cap"),
}


@pytest.mark.parametrize("case", BAD_PERIODS)
async def test_a_bad_period_is_refused_and_names_its_field(
    face: api.Entitlements, case: str
) -> None:
    metadata, field = BAD_PERIODS[case]
    with pytest.raises(errors.InvalidRequest) as refused:
        await give(
            face,
            "credit_grant",
            credit_type="credits",
            quantity=5,
            consumption_type="renewable",
            metadata=metadata,
        )

    assert [one.field for one in refused.value.errors] == [field]
    assert (await face.entitlements()).count == 0


async def test_what_is_renewed_has_a_quantity(face: api.Entitlements) -> None:
    with pytest.raises(errors.InvalidRequest, match="quantity_granted"):
        await give(face, "credit_grant", credit_type="credits", consumption_type="renewable")
