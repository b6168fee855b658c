"""A read shows what the next command on the wallet finds, at every instant, on every engine."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.credits.reader import Reader, WalletView
from entitlements.app.policy.active import Policies
from entitlements.core import check
from entitlements.core import commands as c
from entitlements.core.explain import Explanation, explain
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.due import wallet_in
from entitlements.core.ledger.members import standing_in
from entitlements.core.model import Hold, Membership, Operation, WalletKey
from entitlements.core.outcomes import Consumed, HoldTaken
from entitlements.core.policy import Attribution, Cost, Memberships, ReverseExpired
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.core.renewals import Interval, Period
from entitlements.ids import uuid7
from tests.stores.clerk import (
    SCHOOL,
    TEACHER,
    Clerk,
    Clock,
    Store,
    a_clerk,
    a_policy,
    all_operations,
    consume,
    give,
    hold,
    origin,
    release,
    settle,
)

ALLOWANCES = (WalletKey("user", "teacher", "units:cj"), WalletKey("org", "school", "units:cj"))
WALLETS = (TEACHER, SCHOOL, *ALLOWANCES)
REASONS = (GrantReason.PURCHASE, GrantReason.BONUS)
UNIT_S = 600
"""The unit of time of the walks: a period of an hour has six."""
HOURLY = Period(interval=Interval.HOUR, rollover_cap=25)
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"consumption": ConsumptionType.RENEWABLE, "period": HOURLY},
    {"consumption": ConsumptionType.ACCUMULATIVE, "period": HOURLY, "priority": 10},
    {"unlimited": True, "priority": 90},
)


MEMBER = Membership("school", "teacher")


class Walker:
    """Does random things to the credits and allowances of a teacher and a school."""

    def __init__(self, clerk: Clerk, random: Random) -> None:
        self.clerk = clerk
        self.random = random
        self.time = 0
        self.held: list[list[Hold]] = []
        self.has_joined = False

    async def step(self) -> None:
        self.time = max(0, self.time + self.random.choice((-3, 0, 0, 1, 2, 7)))
        self.clerk.clock.turn_to(self.time * UNIT_S)
        act = self.random.choice(
            (
                *(self.grant, self.grant, self.consume, self.consume, self.consume),
                *(self.take, self.take, self.end, self.reverse, self.join),
            )
        )
        await act()

    async def join(self) -> None:
        cap = self.random.choice((None, 0, 20, 60))
        if self.has_joined and self.random.random() < 0.2:
            await self.do(c.RemoveMember(id=uuid7(), origin=origin(), member=MEMBER))
            return
        self.has_joined = True
        joined = c.SetMember(id=uuid7(), origin=origin(), member=MEMBER, monthly_cap=cap)
        await self.do(joined)

    async def grant(self) -> None:
        starts = self.random.choice((None, 2, 5, 9))
        ends = self.random.choice((None, 3, 10, 20))
        at = self.clerk.clock.at
        fields: dict[str, Any] = {"reason": self.random.choice(REASONS)}
        fields |= self.random.choice(FORMS)
        if fields.get("unlimited"):
            ends = ends or 3
        if starts is not None:
            fields["granted_at"] = at((self.time + starts) * UNIT_S)
        if ends is not None:
            fields["expires_at"] = at((self.time + (starts or 0) + ends) * UNIT_S)
        wallet = self.random.choice((TEACHER, TEACHER, SCHOOL, SCHOOL, *ALLOWANCES))
        if wallet in ALLOWANCES:
            fields["entitlement_type"] = EntitlementType.USAGE_ALLOWANCE
        quantity = 0 if fields.get("unlimited") else self.random.randint(1, 40)
        await self.do(give(quantity, wallet, **fields))

    async def consume(self) -> None:
        org_id = self.random.choice((None, "school"))
        await self.do(consume(self.random.randint(1, 50), org_id=org_id))

    async def take(self) -> None:
        org_id = self.random.choice((None, "school"))
        ttl_s = self.random.randint(1, 15) * UNIT_S
        taken = hold(self.random.randint(1, 20), org_id=org_id, ttl_s=ttl_s)
        (outcome,) = await self.do(taken)
        if isinstance(outcome, HoldTaken):
            self.held.append(await self.clerk.store.reads.hold(outcome.hold_id))

    async def end(self) -> None:
        if self.held:
            parts = self.held.pop(self.random.randrange(len(self.held)))
            ends = release(parts) if self.random.random() < 0.3 else settle(parts, 5)
            await self.do(ends)

    async def reverse(self) -> None:
        operations = await all_operations(self.clerk.store)
        if operations:
            chosen = self.random.choice(operations)
            grouped = [one for one in operations if one.group_id == chosen.id]
            await self.do(replace(reversal(chosen), group=tuple(grouped)))

    async def do(self, command: c.AnyCommand) -> list[Any]:
        return await self.clerk.do(command)


def reversal(operation: Operation) -> c.Reverse:
    return c.Reverse(
        id=uuid7(), origin=origin(), operation=operation, amount=None, reason="a mistake"
    )


async def views(reader: Reader) -> dict[WalletKey, WalletView]:
    return await reader.holdings(WALLETS)


def numbers(view: WalletView) -> tuple[Any, ...]:
    wallet = view.wallet
    return (wallet.balance, wallet.held, wallet.overdraft, view.soonest_expiry)


@pytest.mark.parametrize("seed", range(8))
async def test_a_read_shows_what_the_next_command_finds(
    store: Store, clock: Clock, seed: int
) -> None:
    rules = {
        "settle_debts": True,
        "reverse_expired": list(ReverseExpired)[seed % 2],
        "attribution": (Attribution.ORG_FIRST, Attribution.SPLIT)[seed // 4],
        "memberships": (Memberships.OFF, Memberships.ENFORCE)[seed // 2 % 2],
    }
    clerk = await a_clerk(store, clock, a_policy(**rules))
    reader = Reader(store.reads, Policies(clerk.policy))
    walker = Walker(clerk, Random(seed))
    for _ in range(40):
        await walker.step()

        read = await views(reader)
        means = await reader.means(WALLETS, owing=WALLETS, members=[MEMBER])
        for key in WALLETS:
            await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=key))

        written = await views(reader)
        book = await store.reads.books(WALLETS, owing=WALLETS, members=[MEMBER])
        assert means.members == book.members
        for key in WALLETS:
            assert numbers(read[key]) == numbers(written[key])
            assert means.wallets[key].available == written[key].wallet.available
            assert means.owing[key] == book.owing[key]


@pytest.mark.parametrize("seed", range(8))
async def test_a_denied_request_passes_at_the_predicted_instant_and_not_before(
    store: Store, clock: Clock, seed: int
) -> None:
    rules = {
        "settle_debts": True,
        "debt_gate": (None, 40)[seed % 2],
        "attribution": (Attribution.ORG_FIRST, Attribution.SPLIT)[seed // 4],
        "memberships": (Memberships.OFF, Memberships.ENFORCE)[seed // 2 % 2],
    }
    clerk = await a_clerk(store, clock, a_policy(**rules))
    reader = Reader(store.reads, Policies(clerk.policy))
    walker = Walker(clerk, Random(100 + seed))

    async def ask() -> Explanation:
        policy = clerk.policy
        question = check.ask(policy, {"cj": 30}, user_id="teacher", org_id="school")

        def explained(draft: Draft) -> Explanation:
            wallets = {key: wallet_in(draft, key) for key in question.to_read}
            owing = {key: draft.owing(key) for key in question.gated}
            less = check.as_member(question, *standing_in(draft, "teacher", "school"))
            less = check.less_allowances(less, policy.costs, wallets)
            return explain(draft, less, (), check.decide(less, wallets, (), owing))

        return await reader.opened(
            question.to_read,
            explained,
            policy=policy,
            owing=question.gated,
            members=[MEMBER],
        )

    predicted = 0
    for _ in range(60):
        await walker.step()
        passes_at = (await ask()).passes_at
        if passes_at is None or passes_at <= clock.now:
            continue
        predicted += 1
        now = clock.now
        clock.now = passes_at - (passes_at - now) / 1000
        assert (await ask()).binding is not None
        clock.now = passes_at
        assert (await ask()).binding is None
        clock.now = now
    assert predicted


async def test_a_start_settles_debts_before_its_credits_can_be_spent(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    reader = Reader(store.reads, Policies(clerk.policy))
    (failed,) = await clerk.do(consume(80))
    await clerk.do(give(100, reason=GrantReason.PURCHASE, granted_at=clock.at(10)))
    clock.turn_to(10)

    means = await reader.means([TEACHER], owing=[TEACHER])
    (spent,) = await clerk.do(consume(50))

    assert isinstance(failed, Consumed)
    assert failed.owed == 80
    assert (means.wallets[TEACHER].available, means.owing[TEACHER]) == (20, 0)
    assert isinstance(spent, Consumed)
    assert not spent.success


async def test_credits_that_end_before_a_start_do_not_pay_its_debts(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    reader = Reader(store.reads, Policies(clerk.policy))
    await clerk.do(consume(80))
    await clerk.do(
        give(30, reason=GrantReason.BONUS, expires_at=clock.at(20)),
        give(100, reason=GrantReason.PURCHASE, granted_at=clock.at(10)),
    )
    clock.turn_to(20)

    read = (await reader.means([TEACHER])).wallets[TEACHER].balance
    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))

    written = (await store.reads.books([TEACHER])).wallets[TEACHER].balance
    assert read == written == 50


async def test_the_next_expiry_counts_each_grant_once_while_a_lapse_is_due(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock)
    reader = Reader(store.reads, Policies(clerk.policy))
    await clerk.do(give(10, expires_at=clock.at(90)))
    await clerk.do(hold(4, ttl_s=30))
    clock.turn_to(30)

    view = (await reader.holdings([TEACHER]))[TEACHER]

    assert view.soonest_expiry == (clock.at(90), 10)


async def test_a_hold_of_two_wallets_lapses_as_a_whole(store: Store, clock: Clock) -> None:
    rules = {"cj": Cost(credits=1), "ai": Cost(credits=1, credit_type="tokens")}
    clerk = await a_clerk(store, clock, a_policy(costs=rules))
    reader = Reader(store.reads, Policies(clerk.policy))
    tokens = WalletKey("user", "teacher", "tokens")
    await clerk.do(give(9), give(9, tokens))
    (taken,) = await clerk.do(hold(5, requirements={"cj": 5, "ai": 5}))
    assert isinstance(taken, HoldTaken)
    clock.turn_to(60)
    await clerk.do(give(1, tokens))  # the lapse of this part is on record
    clock.turn_to(59)

    shown = await reader.holds(await store.reads.hold(taken.hold_id))

    assert {part.status for part in shown} == {"lapsed"}
    assert [(part.held, part.returned) for part in shown] == [(0, 5), (0, 5)]
