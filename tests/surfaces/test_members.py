"""Members of orgs and their monthly caps, by every interface."""

from __future__ import annotations

import pytest

from entitlements import api
from entitlements.contracts import errors
from tests.surfaces.scene import POLICY, Clock


@pytest.fixture
async def school(face: api.Entitlements) -> api.Entitlements:
    """Return an interface with enforced memberships, and an org and a user with credits."""
    await face.apply_policy(POLICY + "\nmemberships: enforce\n")
    await face.adjust(500, subject_type="org", subject_id="school", reason="a contract")
    await face.adjust(20, subject_type="user", subject_id="ada", reason="a pack")
    return face


async def work(face: api.Entitlements, units: int) -> str:
    """Consume units that cost one credit each, and return who paid."""
    paid = await face.consume(user_id="ada", org_id="school", metric="cj_comparison", amount=units)
    return paid.consumed_from


async def test_an_org_pays_for_members_up_to_their_cap(
    school: api.Entitlements, clock: Clock
) -> None:
    before = await work(school, 1)
    added = await school.set_member("school", "ada", monthly_cap=10)
    seen = [await work(school, 7), await work(school, 4), await work(school, 3)]
    shown = await school.member("school", "ada")
    clock.now = clock.now.replace(month=4, day=1)
    next_month = await work(school, 1)

    assert before == "user"
    assert (added.monthly_cap, added.drawn_this_month, added.left_at) == (10, 0, None)
    assert seen == ["org", "user", "org"]
    assert shown.drawn_this_month == 10
    assert next_month == "org"


async def test_a_check_names_the_membership_or_the_cap_that_is_missing(
    school: api.Entitlements,
) -> None:
    async def denied() -> tuple[str | None, object]:
        found = await school.check(
            user_id="ada", org_id="school", metric="cj_comparison", amount=50, explain=True
        )
        assert found.explain
        member = next(one for one in found.explain.gates if one.gate == "member")
        return found.detail or None, (member.verdict, member.inputs["reason"])

    stranger = await denied()
    await school.set_member("school", "ada", monthly_cap=49)
    capped = await denied()
    await school.set_member("school", "ada", monthly_cap=50)
    allowed = await school.check(
        user_id="ada", org_id="school", metric="cj_comparison", amount=50, explain=True
    )

    assert stranger == ("not_member", ("fail", "not_member"))
    assert capped == ("member_cap", ("fail", "member_cap"))
    assert (allowed.allowed, allowed.source) == (True, "org")


async def test_held_credits_count_and_come_back(school: api.Entitlements, clock: Clock) -> None:
    await school.set_member("school", "ada", monthly_cap=30)
    held = await school.take_hold({"cj_comparison": 30}, user_id="ada", org_id="school", ttl_s=60)
    full = await school.check(user_id="ada", org_id="school", metric="cj_comparison", amount=1)
    await school.settle(held.hold_id, {"cj_comparison": 10})
    settled = (await school.member("school", "ada")).drawn_this_month
    again = await school.take_hold({"cj_comparison": 20}, user_id="ada", org_id="school", ttl_s=60)
    clock.advance(seconds=60)
    lapsed = await school.check(user_id="ada", org_id="school", metric="cj_comparison", amount=20)

    assert (held.source, full.source, again.source) == ("org", "user", "org")
    assert settled == 10
    assert lapsed.source == "org"


async def test_members_are_listed_by_page_and_removed(school: api.Entitlements) -> None:
    for user in ("cy", "ada", "bo"):
        await school.set_member("school", user)
    gone = await school.remove_member("school", "bo")
    again = await school.remove_member("school", "bo")
    first = await school.members("school", limit=1)
    rest = await school.members("school", cursor=first.next_cursor)

    assert gone.left_at is not None
    assert again.left_at == gone.left_at
    assert [one.user_id for one in (*first.members, *rest.members)] == ["ada", "cy"]
    assert rest.next_cursor is None
    assert (await school.member("school", "bo")).left_at is not None


async def test_what_never_was_a_member_is_not_found(school: api.Entitlements) -> None:
    with pytest.raises(errors.NotFound):
        await school.member("school", "zoe")
    with pytest.raises(errors.NotFound):
        await school.remove_member("school", "zoe")


@pytest.mark.parametrize("cap", [-1, 10**15 + 1])
async def test_a_cap_out_of_bounds_is_refused(school: api.Entitlements, cap: int) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        await school.set_member("school", "ada", monthly_cap=cap)

    assert [one.field for one in refused.value.errors] == ["monthly_cap"]
    assert (await school.members("school")).count == 0


async def test_a_balance_takes_the_sole_membership_of_a_user(school: api.Entitlements) -> None:
    await school.set_member("school", "ada")
    member = await school.balance("ada")
    await school.remove_member("school", "ada")
    alone = await school.balance("ada")

    assert (member.org_id, member.org_balance) == ("school", 500)
    assert alone.org_id is None
