"""A small history with every kind of operation that an invariant covers."""

from datetime import UTC, datetime, timedelta
from typing import Any

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.app.access.keys import Act
from entitlements.app.engine import Engine, Store, running
from entitlements.app.policy.active import activate
from entitlements.core import commands as c
from entitlements.core.model import (
    GrantDetails,
    Hold,
    HoldFacts,
    JobKey,
    Membership,
    Subject,
    UsageReport,
    WalletKey,
    facts_of,
)
from entitlements.core.outcomes import AnyOutcome, Granted, Refusal
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.ids import uuid7

POLICY_WITH_OCR = """
costs: {essay: 5, spellcheck: 0, ocr: 3}
signup_bonuses: {user: 3, org: 0}
thresholds: [{below: 20}, {percent: 50}]
"""
POLICY = """
costs: {essay: 5, spellcheck: 0}
signup_bonuses: {user: 3, org: 0}
thresholds: [{below: 20}, {percent: 50}]
"""
PLANS = """
plans:
  small:
    grants:
      - {entitlement_type: credit_grant, quantity: 50, consumption_type: renewable}
      - {entitlement_type: usage_allowance, metric: essay, quantity: 5, consumption_type: renewable}
    lifecycle: grace_period(days=14)
  large:
    grants:
      - {entitlement_type: credit_grant, quantity: 90, consumption_type: renewable}
      - {entitlement_type: feature_unlock, feature: export}
  boundless: {grants: [{entitlement_type: credit_grant}]}
"""

START = datetime(2100, 1, 1, tzinfo=UTC)
SCHOOL = WalletKey("org", "school", "credits")
ADA = WalletKey("user", "ada", "credits")
CY = WalletKey("user", "cy", "credits")


class Clock:
    """A manual clock."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def origin() -> c.Origin:
    return c.Origin(
        actor="test",
        client="test",
        correlation_id="history",
        key=uuid7(),
        fingerprint="",
        lifetime_s=86_400,
    )


async def make(store: Store, clock: Clock) -> None:
    """Write grants, an expiry, an activation, consumption, a job, debts, a reversal and reports.

    Debts end settled, written off and open. Holds end open, open on an ended grant, settled above
    their amount, released and lapsed. Unlimited grants pay, hold, get back and are revoked.
    Subscriptions end changed and open, canceled now and at the end of their period, and expired.
    """
    async with running(
        store, local=Unlimited(), policy_text=POLICY, policy_source="test"
    ) as engine:
        await _credits_come_and_go(engine, clock)
        await _debts_are_made_and_closed(engine)
        await _work_has_no_price(engine, clock)
        await _work_is_paid_and_reversed(engine)
        await _credits_are_held(engine, clock)
        await _uses_are_reported(engine)
        await _entitlements_are_granted(engine)
        await _subscriptions_begin_and_end(engine, clock)
        await _members_use_their_orgs_credits(engine, clock)


async def _credits_come_and_go(engine: Engine, clock: Clock) -> None:
    await _grant(engine, SCHOOL, 30, expires_at=START + timedelta(hours=1))
    await _grant(engine, SCHOOL, 20, granted_at=START + timedelta(hours=2))
    await _grant(engine, SCHOOL, 7, granted_at=START + timedelta(days=99))
    await _submit(
        engine, c.OpenAccount(id=uuid7(), origin=origin(), subject=Subject("user", "ada"))
    )
    clock.now = START + timedelta(hours=3)


async def _entitlements_are_granted(engine: Engine) -> None:
    """Grant credits without a limit, an allowance and a feature; use all, hold, reverse, revoke."""
    fay = WalletKey("user", "fay", "credits")
    await _grant(engine, fay, 5, expires_at=START + timedelta(days=9))
    for kind in (EntitlementType.CREDIT_GRANT, EntitlementType.CREDIT_GRANT):
        await _give(engine, fay, kind, unlimited=True)
    feature = await _give(engine, fay, EntitlementType.FEATURE_UNLOCK)
    paid = await _consume(engine, user_id="fay", units=2)
    operation = await engine.store.reads.operation(paid.operation_id or "")
    assert operation is not None
    assert operation.delta == -5
    await _submit(
        engine,
        c.Reverse(id=uuid7(), origin=origin(), operation=operation, amount=7, reason="refund"),
    )
    units = fay._replace(credit_type="units:essay")
    await _give(engine, units, EntitlementType.USAGE_ALLOWANCE, 12)
    await _consume(engine, user_id="fay", units=4)
    for user, credit_type in (("fay", "credits"), ("fay", "units:essay")):
        await _submit(
            engine,
            c.Spend(id=uuid7(), origin=origin(), user_id=user, credit_type=credit_type, quantity=8),
        )
    await _submit(
        engine, c.TakeHold(id=uuid7(), origin=origin(), user_id="fay", credits=20, ttl_s=600)
    )
    await _submit(
        engine,
        c.Revoke(id=uuid7(), origin=origin(), wallet=fay, grant_id=feature, reason="refund"),
    )


async def _members_use_their_orgs_credits(engine: Engine, clock: Clock) -> None:
    """Consume, hold, reverse and settle for a member under enforced memberships."""
    club = WalletKey("org", "club", "credits")
    enforced = POLICY + "memberships: enforce\n"
    act = Act(actor="test", client="test", at=clock.now, new_id=uuid7, correlation_id="history")
    await activate(engine.store.policies, enforced, source="api", name="enforced", act=act)
    await _grant(engine, club, 200)
    member = Membership("club", "hal")
    await _submit(engine, c.SetMember(id=uuid7(), origin=origin(), member=member, monthly_cap=100))
    paid = await _consume(engine, user_id="hal", org_id="club", units=4)
    operation = await engine.store.reads.operation(paid.operation_id or "")
    assert operation is not None
    assert operation.member_month
    await _submit(
        engine,
        c.Reverse(id=uuid7(), origin=origin(), operation=operation, amount=7, reason="refund"),
    )
    held = c.TakeHold(
        id=uuid7(), origin=origin(), user_id="hal", org_id="club", credits=20, ttl_s=600
    )
    await _submit(engine, held)


async def _subscriptions_begin_and_end(engine: Engine, clock: Clock) -> None:
    for name in ("open", "canceled", "canceling", "expired"):
        named: dict[str, Any] = {
            "wallet": WalletKey("user", name, "credits"),
            "subscription_id": name,
        }
        await _submit(engine, c.Activate(id=uuid7(), origin=origin(), plan_id="small", **named))
        await _submit(
            engine,
            c.Spend(id=uuid7(), origin=origin(), user_id=name, credit_type="credits", quantity=20),
        )
        await _submit(engine, c.MarkPastDue(id=uuid7(), origin=origin(), **named))
        if name == "open":
            for plan in ("large", "boundless", "small"):
                await _submit(
                    engine, c.ChangePlan(id=uuid7(), origin=origin(), plan_id=plan, **named)
                )
        elif name == "expired":
            await _submit(engine, c.ExpireSubscription(id=uuid7(), origin=origin(), **named))
        else:
            at_end = name == "canceling"
            await _submit(
                engine,
                c.CancelSubscription(id=uuid7(), origin=origin(), at_period_end=at_end, **named),
            )
    clock.now += timedelta(days=32)
    for name in ("canceling", "open"):
        wallet = WalletKey("user", name, "credits")
        await _submit(engine, c.ApplyDue(id=uuid7(), origin=origin(), wallet=wallet))


async def _give(
    engine: Engine,
    wallet: WalletKey,
    kind: EntitlementType,
    quantity: int = 0,
    *,
    unlimited: bool = False,
) -> str:
    """Grant something and return the grant's id."""
    granted = await _submit(
        engine,
        c.CreateGrant(
            id=uuid7(),
            origin=origin(),
            wallet=wallet,
            quantity=quantity,
            entitlement_type=kind,
            consumption=ConsumptionType.DECREMENTAL if kind.is_consumable else ConsumptionType.NONE,
            unlimited=unlimited,
            reason=GrantReason.PURCHASE,
            details=GrantDetails(granted_by="test"),
        ),
    )
    assert isinstance(granted, Granted), granted
    return granted.grant_id


async def _debts_are_made_and_closed(engine: Engine) -> None:
    for how in (c.SettleDebt, c.WriteOffDebt, None):
        unpaid = await _consume(engine, user_id="bo", units=2)
        assert unpaid.operation_id
        wallet = WalletKey("user", "bo", "credits")
        if how is not None:
            await _adjust(engine, wallet, 10)
            await _submit(
                engine, how(id=uuid7(), origin=origin(), wallet=wallet, debt_id=unpaid.operation_id)
            )
            if how is c.WriteOffDebt:
                await _adjust(engine, wallet, -10)


async def _work_has_no_price(engine: Engine, clock: Clock) -> None:
    """File unpriced work and change the policy: it ends charged, owed, written off and open."""
    filed = [
        await _consume(engine, user_id=user, units=2, metric=metric)
        for user, metric in (("dee", "ocr"), ("eve", "ocr"), ("eve", "odd"), ("eve", "odd"))
    ]
    await _adjust(engine, WalletKey("user", "dee", "credits"), 10)
    act = Act(actor="test", client="test", at=clock.now, new_id=uuid7, correlation_id="history")
    await activate(
        engine.store.policies, POLICY_WITH_OCR + PLANS, source="api", name="history", act=act
    )
    for one in filed[:2]:
        operation = await engine.store.reads.operation(one.operation_id or "")
        assert operation is not None
        await _submit(engine, c.PriceDebt(id=uuid7(), origin=origin(), operation=operation))
    eve = WalletKey("user", "eve", "credits")
    await _adjust(engine, eve, 1)
    settled, written_off = (one.operation_id or "" for one in filed[1:3])
    await _submit(engine, c.SettleDebt(id=uuid7(), origin=origin(), wallet=eve, debt_id=settled))
    await _submit(
        engine, c.WriteOffDebt(id=uuid7(), origin=origin(), wallet=eve, debt_id=written_off)
    )


async def _work_is_paid_and_reversed(engine: Engine) -> None:
    await _adjust(engine, ADA, 12)
    job = JobKey("ada", "pipeline", "job-1", "essay")
    paid = await _consume(engine, user_id="ada", org_id="school", units=3, job=job)
    await _consume(engine, user_id="ada", org_id="school", metric="spellcheck", units=9)
    operation = await engine.store.reads.operation(paid.operation_id or "")
    assert operation is not None
    await _submit(
        engine, c.Reverse(id=uuid7(), origin=origin(), operation=operation, amount=4, reason="late")
    )


async def _credits_are_held(engine: Engine, clock: Clock) -> None:
    await _grant(engine, CY, 10, expires_at=clock.now + timedelta(hours=1))
    await _adjust(engine, CY, 50)
    await _hold(engine, units=5, ttl_s=86_400)
    await _hold(engine, units=1, ttl_s=60)
    released = await _hold(engine, units=1)
    await _submit(engine, c.ReleaseHold(id=uuid7(), origin=origin(), hold=facts_of(released)))
    settled = await _hold(engine, units=1)
    await _submit(
        engine,
        c.SettleHold(
            id=uuid7(), origin=origin(), hold=facts_of(settled), requirements={"essay": 2}
        ),
    )
    clock.now += timedelta(hours=2)
    await _submit(engine, c.ApplyDue(id=uuid7(), origin=origin(), wallet=CY))


async def _uses_are_reported(engine: Engine) -> None:
    """Report usage that is charged, settled, owed, free, recorded only, repeated, in conflict."""
    await _report(engine, "e1", 2)
    await _report(engine, "e2", 2)
    await _report(engine, "e3", 3)
    held = facts_of(await _hold(engine, units=1))
    await _report(engine, "e4", 1, processing_id="p4", hold=held)
    await _report(engine, "e5", 99, processing_id="p5")
    await _report(engine, "e6", 0, processing_id="p6")
    await _report(engine, "e7", 4, metric="spellcheck", processing_id="p7")
    await _report(engine, "e8", 4, is_charged=False)


async def _report(
    engine: Engine,
    event_id: str,
    units: int,
    *,
    metric: str = "essay",
    processing_id: str = "p1",
    hold: HoldFacts | None = None,
    is_charged: bool = True,
) -> None:
    report = UsageReport(
        user_id="cy",
        event_id=event_id,
        event_type="consumption.v1",
        source_service="grader",
        metric=metric,
        units=units,
        service_name="grader",
        processing_id=processing_id,
        hold_id=hold.id if hold else None,
    )
    await _submit(
        engine,
        c.IngestUsage(id=uuid7(), origin=origin(), report=report, hold=hold, is_charged=is_charged),
    )


async def _hold(engine: Engine, *, units: int, ttl_s: int = 600) -> list[Hold]:
    taken = await _submit(
        engine,
        c.TakeHold(
            id=uuid7(), origin=origin(), user_id="cy", requirements={"essay": units}, ttl_s=ttl_s
        ),
    )
    return await engine.store.reads.hold(taken.operation_id or "")


async def _grant(
    engine: Engine,
    wallet: WalletKey,
    quantity: int,
    *,
    granted_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> None:
    await _submit(
        engine,
        c.CreateGrant(
            id=uuid7(),
            origin=origin(),
            wallet=wallet,
            quantity=quantity,
            reason=GrantReason.PURCHASE,
            granted_at=granted_at,
            expires_at=expires_at,
            details=GrantDetails(granted_by="test"),
        ),
    )


async def _adjust(engine: Engine, wallet: WalletKey, amount: int) -> None:
    await _submit(
        engine, c.Adjust(id=uuid7(), origin=origin(), wallet=wallet, amount=amount, reason="test")
    )


async def _consume(
    engine: Engine,
    *,
    user_id: str,
    units: int,
    org_id: str | None = None,
    metric: str = "essay",
    job: JobKey | None = None,
) -> AnyOutcome:
    return await _submit(
        engine,
        c.Consume(
            id=uuid7(),
            origin=origin(),
            user_id=user_id,
            org_id=org_id,
            metric=metric,
            units=units,
            job=job,
        ),
    )


async def _submit(engine: Engine, command: c.AnyCommand) -> AnyOutcome:
    outcome = await engine.committer.submit(command)
    assert not isinstance(outcome, Refusal), outcome
    return outcome
