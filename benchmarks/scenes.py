"""Grants of other kinds: scenes, each a database with an organisation, and a feature for everyone.

Later releases call `fill_scene` and `give_feature`: add scenes, and rename none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from benchmarks.wallets import (
    AT_ONCE,
    CREDITS,
    FEATURE,
    POLICY,
    SCHOOL,
    TEACHER,
    open_migrated,
    origin,
    school,
    users,
)
from entitlements.adapters.memory.limiter import Unlimited
from entitlements.app.engine import Engine, running
from entitlements.app.process.clock import utc_now
from entitlements.core.commands import AnyCommand, ApplyDue, CreateGrant, SetMember
from entitlements.core.model import GrantDetails, Membership, Subject, wallet_of_grant
from entitlements.core.outcomes import Refusal
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.core.renewals import Interval, Period
from entitlements.ids import uuid7

ENDED, LIVE = 9_990, 10
"""How many grants of a wallet have ended, and how many are left."""
MIXED = 10
"""How many grants of each of five kinds the mixed wallet has."""
DUE_WITHIN_S = 60
_DAY = timedelta(days=1)
_ORG = school().subject


class _Clock:
    """A settable clock, which begins two days ago."""

    def __init__(self) -> None:
        self.now = utc_now() - 2 * _DAY

    def __call__(self) -> datetime:
        return self.now


class Scene(NamedTuple):
    """What the organisation gets, and the policy under which it pays."""

    give: Callable[[Engine, _Clock], Awaitable[None]]
    policy: str = POLICY


def give_feature(*, url: str) -> None:
    """Grant the feature to the organisation and the users of `wallets`, in a filled database."""
    asyncio.run(_fill(url, Scene(_feature)))


def fill_scene(*, url: str, scene: str) -> None:
    """Write the scene into a new database."""
    asyncio.run(_fill(url, SCENES[scene]))


async def _fill(url: str, scene: Scene) -> None:
    clock = _Clock()
    store = await open_migrated(url, clock=clock)
    try:
        async with running(
            store,
            local=Unlimited(),
            policy_text=scene.policy,
            policy_source="benchmark",
            clock=clock,
        ) as engine:
            await scene.give(engine, clock)
    finally:
        await store.close()


async def _feature(engine: Engine, _: _Clock) -> None:
    unlock = EntitlementType.FEATURE_UNLOCK
    subjects = [key.subject for key in (school(), *users())]
    await _do(engine, [_grant(unlock, to=subject, feature=FEATURE) for subject in subjects])


async def _allowance(engine: Engine, _: _Clock) -> None:
    allowance = EntitlementType.USAGE_ALLOWANCE
    await _do(engine, [_grant(), _grant(allowance, metric="cj_comparison")])


async def _member(engine: Engine, _: _Clock) -> None:
    member = Membership(SCHOOL, TEACHER)
    name = uuid7()
    join = SetMember(id=name, origin=origin(name), member=member, monthly_cap=CREDITS)
    await _do(engine, [_grant(), join])


async def _mixed(engine: Engine, _: _Clock) -> None:
    """Credits that renew and that expire, allowances of another metric, features and tiers."""
    renewable = ConsumptionType.RENEWABLE
    allowance = EntitlementType.USAGE_ALLOWANCE
    for number in range(MIXED):
        await _do(
            engine,
            [
                _grant(expires_at=utc_now() + (30 + number) * _DAY, priority=number),
                _grant(consumption=renewable, period=Period(interval=Interval.YEAR)),
                _grant(allowance, metric="ai_feedback_generation"),
                _grant(EntitlementType.FEATURE_UNLOCK, feature=f"feature-{number}"),
                _grant(EntitlementType.TIER_ACCESS, tier_id=f"tier-{number}"),
            ],
        )


async def _expired(engine: Engine, clock: _Clock) -> None:
    ends = clock.now + _DAY
    await _do(engine, [_grant(quantity=1, expires_at=ends) for _ in range(ENDED)])
    await _do(engine, [_grant() for _ in range(LIVE)])


async def _recorded(engine: Engine, clock: _Clock) -> None:
    await _expired(engine, clock)
    clock.now += 2 * _DAY
    name = uuid7()
    due = ApplyDue(id=name, origin=origin(name), wallet=school())
    await engine.committer.submit(due, deadline_s=DUE_WITHIN_S)


def _grant(
    kind: EntitlementType = EntitlementType.CREDIT_GRANT,
    *,
    to: Subject = _ORG,
    quantity: int = CREDITS,
    metric: str | None = None,
    feature: str | None = None,
    tier_id: str | None = None,
    **terms: Any,
) -> CreateGrant:
    """Return a grant, by default to the organisation."""
    if not kind.is_consumable:
        quantity, terms = 0, {"consumption": ConsumptionType.NONE, **terms}
    name = uuid7()
    return CreateGrant(
        id=name,
        origin=origin(name),
        wallet=wallet_of_grant(to, kind, None, metric),
        quantity=quantity,
        entitlement_type=kind,
        reason=GrantReason.PURCHASE,
        details=GrantDetails(granted_by="bench", metric=metric, feature=feature, tier_id=tier_id),
        **terms,
    )


async def _do(engine: Engine, commands: Sequence[AnyCommand]) -> None:
    for first in range(0, len(commands), AT_ONCE):
        part = commands[first : first + AT_ONCE]
        for outcome in await asyncio.gather(*map(engine.committer.submit, part)):
            assert not isinstance(outcome, Refusal), outcome


ALLOWANCE, MEMBER = "allowance", "member with a cap"
MANY_KINDS = "wallet of 50 mixed grants"
MANY_ENDED = f"wallet of {ENDED + LIVE:,} grants, {ENDED:,} ended"
MANY_DUE = f"{ENDED:,} expiries due"

SCENES = {
    ALLOWANCE: Scene(_allowance),
    MEMBER: Scene(_member, f"{POLICY}memberships: enforce\n"),
    MANY_KINDS: Scene(_mixed),
    MANY_ENDED: Scene(_recorded),
    MANY_DUE: Scene(_expired),
}
