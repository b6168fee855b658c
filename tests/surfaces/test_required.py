"""The policy can require an entitlement for a metric, by every interface."""

from __future__ import annotations

from typing import Any

import pytest

from entitlements import api
from entitlements.contracts import errors, http
from tests.surfaces.scene import POLICY, Clock

REQUIRES = "\nrequires: {cj_comparison: {feature: export}, batch_create: {tier: pro}}\n"


@pytest.fixture
async def strict(face: api.Entitlements) -> api.Entitlements:
    """Return an interface whose policy requires entitlements for two metrics."""
    await face.apply_policy(POLICY + REQUIRES)
    await face.open_account(subject_type="user", subject_id="ada")
    return face


async def give(face: api.Entitlements, **fields: Any) -> http.GrantResponse:
    given: dict[str, Any] = {"entitlement_type": "feature_unlock", "feature": "export"}
    return await face.grant(grant_reason="manual", **({"user_id": "ada"} | given | fields))


async def test_without_the_entitlement_a_check_is_denied(strict: api.Entitlements) -> None:
    found = await strict.check(user_id="ada", metric="cj_comparison")
    every = await strict.check_all(
        {"cj_comparison": 1, "batch_create": 1, "spellcheck": 1}, user_id="ada"
    )

    assert (found.allowed, found.reason, found.detail) == (
        False,
        "policy_denied",
        "entitlement_required",
    )
    assert every.denial_reason == "policy_denied"
    assert {name: (one.allowed, one.detail or None) for name, one in every.per_metric.items()} == {
        "cj_comparison": (False, "entitlement_required"),
        "batch_create": (False, "entitlement_required"),
        "spellcheck": (True, None),
    }


async def test_the_entitlement_of_the_user_or_of_the_org_suffices(
    strict: api.Entitlements,
) -> None:
    mine = await give(strict)
    own = await strict.check(user_id="ada", metric="cj_comparison")
    await strict.revoke(mine.id)
    none = await strict.check(user_id="ada", metric="cj_comparison", org_id="school")
    await give(strict, user_id=None, subject_type="org", subject_id="school")
    union = await strict.check(user_id="ada", metric="cj_comparison", org_id="school")
    alone = await strict.check(user_id="ada", metric="cj_comparison")

    assert [one.allowed for one in (own, none, union, alone)] == [True, False, True, False]


async def test_another_feature_or_tier_does_not_suffice(strict: api.Entitlements) -> None:
    await give(strict, feature="import")
    await give(strict, entitlement_type="tier_access", feature=None, tier_id="free")

    found = await strict.check_all({"cj_comparison": 1, "batch_create": 1}, user_id="ada")
    await give(strict, entitlement_type="tier_access", feature=None, tier_id="pro")
    tier = await strict.check(user_id="ada", metric="batch_create")

    assert [one.allowed for one in found.per_metric.values()] == [False, False]
    assert tier.allowed


async def test_a_hold_needs_the_entitlement_and_its_settlement_does_not(
    strict: api.Entitlements,
) -> None:
    with pytest.raises(errors.PolicyDenied):
        await strict.take_hold({"cj_comparison": 2}, user_id="ada", key="k")
    given = await give(strict)
    held = await strict.take_hold({"cj_comparison": 2}, user_id="ada", key="k")
    await strict.revoke(given.id)
    again = await strict.take_hold({"cj_comparison": 2}, user_id="ada", key="k")
    settled = await strict.settle(held.hold_id, {"cj_comparison": 2})

    assert (again.hold_id, again.replayed) == (held.hold_id, True)
    assert settled.charged == 2


async def test_finished_work_is_charged_without_the_entitlement(strict: api.Entitlements) -> None:
    paid = await strict.consume(user_id="ada", metric="cj_comparison", amount=3)

    assert (paid.success, paid.credits) == (True, 3)


async def test_the_entitlement_counts_from_its_start_until_its_end(
    strict: api.Entitlements, clock: Clock
) -> None:
    await give(strict, expires_at=clock.now.replace(hour=9))
    seen = [(await strict.check(user_id="ada", metric="cj_comparison")).allowed]
    clock.now = clock.now.replace(hour=9)
    seen.append((await strict.check(user_id="ada", metric="cj_comparison")).allowed)

    assert seen == [True, False]


async def test_an_explanation_names_the_required_entitlement(strict: api.Entitlements) -> None:
    found = await strict.check(user_id="ada", metric="cj_comparison", explain=True)

    assert found.explain
    assert found.explain.binding
    assert found.explain.binding.gate == "policy"
    assert found.explain.binding.inputs["requires"] == {"feature": "export"}
    assert found.explain.binding.inputs["entitled"] is False
    assert found.explain.passes_at is None
