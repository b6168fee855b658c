"""A month of a product, compared at its end with a model that knows nothing of the engine.

The model keeps pots of credits and units, and says in a few lines what should happen to them. It
imports nothing from the engine's rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from entitlements import Entitlements
from tests.books import assert_books_balance
from tests.surfaces.scene import Clock

PAGE: Final = Path(__file__).parents[2] / "docs" / "a-month.md"
START: Final = datetime(2026, 3, 1, tzinfo=UTC)
DAYS: Final = 34
ZONES: Final = {"ada": "Europe/Stockholm", "bo": "America/New_York", "cy": "Asia/Kolkata"}
CAPS: Final = {"ada": 300, "bo": 60}
"""The members of the org and their monthly caps; cy is none."""
IMAGES: Final = 20
SEEN: Final = {
    "request", "nobody paid", "org paid", "user paid", "none paid", "refund",
    "refund that lapsed in part", "hold less", "hold all", "hold release", "hold lapse",
}  # fmt: skip
"""What happens in the month, each at least a few times."""
POLICY: Final = """
costs: {chat: 1, image: 5}
memberships: enforce
plans:
  pro:
    grants:
      - {entitlement_type: feature_unlock, feature: export}
      - {entitlement_type: credit_grant, credit_type: tokens, quantity: 500, consumption_type: renewable}
    lifecycle: grace_period(days=14)
  team:
    grants:
      - {entitlement_type: feature_unlock, feature: export}
      - {entitlement_type: credit_grant, credit_type: tokens, quantity: 2000, consumption_type: renewable}
"""  # noqa: E501


@dataclass
class Pot:
    """Credits or units that end at a time, and that may be filled again at others."""

    left: int
    made: datetime
    ends: datetime | None = None
    full: int = 0
    refills: list[datetime] = field(default_factory=list)
    period: int = 0
    """How often it was filled again."""

    def is_open(self, now: datetime) -> bool:
        return self.ends is None or now < self.ends

    def pass_to(self, now: datetime) -> None:
        while self.refills and self.refills[0] <= now:
            self.refills.pop(0)
            self.left, self.period = self.full, self.period + 1
        if not self.is_open(now):
            self.left = 0


Taken = list[tuple[Pot, int, int]]
"""(pot, how much was taken, its period then)"""


class Purse:
    """The pots of one kind of one owner. Those that end first are used first, then the oldest."""

    def __init__(self) -> None:
        self.pots: list[Pot] = []

    def at(self, now: datetime) -> int:
        for pot in self.pots:
            pot.pass_to(now)
        return sum(pot.left for pot in self.pots)

    def take(self, amount: int, now: datetime) -> Taken:
        taken: Taken = []
        far = datetime.max.replace(tzinfo=UTC)
        for pot in sorted(self.pots, key=lambda one: (one.ends or far, one.made)):
            part = min(amount, pot.left)
            if part and pot.is_open(now):
                pot.left -= part
                amount -= part
                taken.append((pot, part, pot.period))
        assert amount == 0
        return taken


def give_back(taken: Taken, now: datetime) -> int:
    """Return what went back: not to pots that have ended or have been filled again since."""
    back = 0
    for pot, part, period in taken:
        if pot.is_open(now) and pot.period == period:
            pot.left += part
            back += part
    return back


def first_of_months(zone: str) -> Iterator[datetime]:
    for month in (4, 5):
        yield datetime(2026, month, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)


class Model:
    """What each should have: credits, images, and what the org has paid this month."""

    def __init__(self) -> None:
        self.credits = {name: Purse() for name in (*ZONES, "acme")}
        self.images = {name: Purse() for name in ZONES}
        self.paid: dict[tuple[str, str], int] = {}

    def charge(self, user: str, cost: int, now: datetime) -> tuple[str, Taken] | None:
        """The org pays all for a member within the cap, else the user; else nobody."""
        month = f"{now:%Y-%m}"
        used = self.paid.get((user, month), 0)
        is_within = user in CAPS and used + cost <= CAPS[user]
        if is_within and self.credits["acme"].at(now) >= cost:
            self.paid[user, month] = used + cost
            return "org", self.credits["acme"].take(cost, now)
        if self.credits[user].at(now) >= cost:
            return "user", self.credits[user].take(cost, now)
        return None


@dataclass
class Paid:
    """A consumption to refund: the id of its operation, and what the model took for it."""

    operation: str
    user: str
    month: str
    org_part: int
    taken: Taken


class Month:
    """Does the same to the engine and to the model."""

    def __init__(self, engine: Entitlements, clock: Clock, random: Random) -> None:
        self.engine, self.clock, self.random = engine, clock, random
        self.model = Model()
        self.paid: list[Paid] = []
        self.seen: Counter[str] = Counter()

    async def begin(self) -> None:
        e, now = self.engine, self.clock.now
        await e.apply_policy(POLICY)
        for user, cap in CAPS.items():
            await e.set_member("acme", user, monthly_cap=cap)
        await self.buy("acme", 600, None, subject_type="org", subject_id="acme")
        for user, zone in ZONES.items():
            await self.buy(user, 40, now + timedelta(days=7), grant_reason="trial", user_id=user)
            await e.grant(
                user_id=user,
                entitlement_type="usage_allowance",
                metric="image",
                quantity=IMAGES,
                consumption_type="renewable",
                metadata={"reset_day": 1, "timezone": zone},
                grant_reason="subscription",
            )
            refills = list(first_of_months(zone))
            refills = [one for one in refills if one > now]
            pot = Pot(IMAGES, now, full=IMAGES, refills=refills)
            self.model.images[user].pots.append(pot)
        for user in ("ada", "bo"):
            await e.activate_subscription(
                plan_id="pro", subscription_id=f"sub_{user}", user_id=user
            )

    async def buy(self, owner: str, credits: int, ends: datetime | None, **named: Any) -> None:
        given: dict[str, Any] = {"grant_reason": "purchase"} | named
        await self.engine.grant(
            entitlement_type="credit_grant",
            credit_type="credits",
            quantity=credits,
            expires_at=ends,
            **given,
        )
        self.model.credits[owner].pots.append(Pot(credits, self.clock.now, ends))

    async def step(self) -> None:
        self.clock.advance(minutes=self.random.randint(1, 90))
        user = self.random.choice(list(ZONES))
        match self.random.random():
            case chance if chance < 0.06:
                ends = self.clock.now + timedelta(days=self.random.randint(2, 20))
                await self.buy(user, self.random.randint(10, 60), ends, user_id=user)
            case chance if chance < 0.14 and self.paid:
                await self.refund(self.paid.pop(self.random.randrange(len(self.paid))))
            case chance if chance < 0.30:
                await self.stream(user)
            case chance if chance < 0.60:
                await self.consume(user, "image", self.random.randint(1, 3))
            case _:
                await self.consume(user, "chat", self.random.randint(1, 9))

    async def consume(self, user: str, metric: str, units: int) -> None:
        now, model = self.clock.now, self.model
        answer = await self.engine.consume(
            user_id=user, org_id="acme", metric=metric, amount=units, key=self.key()
        )
        taken: Taken = []
        rest = units
        if metric == "image":
            covered = min(units, model.images[user].at(now))
            taken = model.images[user].take(covered, now)
            rest -= covered
            assert (answer.allowance_units or 0) == covered
        cost = rest * (5 if metric == "image" else 1)
        charged = model.charge(user, cost, now) if cost else ("none", [])
        assert answer.success is (charged is not None)
        if charged is None:
            self.seen["nobody paid"] += 1
            return
        payer, credits = charged
        self.seen[f"{payer} paid"] += 1
        assert (answer.consumed_from, answer.credits) == (payer, cost)
        org_part = cost if payer == "org" else 0
        assert answer.operation_id
        paid = Paid(answer.operation_id, user, f"{now:%Y-%m}", org_part, [*taken, *credits])
        self.paid.append(paid)

    async def refund(self, one: Paid) -> None:
        now = self.clock.now
        for purse in (*self.model.credits.values(), *self.model.images.values()):
            purse.at(now)
        await self.engine.reverse(one.operation, reason="it was no good")
        whole = sum(part for _, part, _ in one.taken)
        self.seen["refund"] += 1
        self.seen["refund that lapsed in part"] += give_back(one.taken, now) < whole
        if one.org_part:
            self.model.paid[one.user, one.month] -= one.org_part

    async def stream(self, user: str) -> None:
        """Hold for a call, and settle less or more, release it, or let it lapse."""
        now, most, model = self.clock.now, self.random.randint(5, 20), self.model
        check = await self.engine.check(user_id=user, org_id="acme", metric="chat", amount=most)
        if not check.allowed:
            assert model.charge(user, most, now) is None
            return
        held = await self.engine.take_hold(
            {"chat": most}, user_id=user, org_id="acme", ttl_s=30, key=self.key()
        )
        charged = model.charge(user, most, now)
        assert charged is not None
        payer, taken = charged
        assert held.source == payer
        end = self.random.choice(("less", "all", "release", "lapse"))
        self.seen[f"hold {end}"] += 1
        match end:
            case "less":
                used = self.random.randint(0, most)
                await self.engine.settle(held.hold_id, {"chat": used})
                self._return(user, payer, taken, most - used)
            case "all":
                await self.engine.settle(held.hold_id, {"chat": most})
            case "release":
                await self.engine.release(held.hold_id)
                self._return(user, payer, taken, most)
            case _:
                self.clock.advance(seconds=30)
                self._return(user, payer, taken, most)

    def _return(self, user: str, payer: str, taken: Taken, amount: int) -> None:
        """Give back the last ``amount`` of what was taken for a hold."""
        if payer == "org":
            self.model.paid[user, f"{self.clock.now:%Y-%m}"] -= amount
        for pot, part, period in reversed(taken):
            back = min(amount, part)
            amount -= back
            give_back([(pot, back, period)], self.clock.now)

    def key(self) -> str:
        self.seen["request"] += 1
        return f"request-{self.seen['request']}"


def table(month: Month) -> list[str]:
    """Return what happened, as the page of the docs shows it."""
    rows = [f"| {name} | {month.seen[name]} |" for name in sorted(SEEN)]
    return ["| what | how often |", "|---|---:|", *rows]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/month.db"
    return str(request.getfixturevalue("postgres_url"))


async def test_after_a_month_the_engine_and_a_model_agree_to_the_credit(url: str) -> None:
    clock = Clock()
    clock.now = START
    async with Entitlements.open(url, clock=clock, limited=False) as e:
        month = Month(e, clock, Random(7))
        await month.begin()
        tokens = {"ada": 0, "bo": 0}
        changed = canceled = False
        while clock.now < START + timedelta(days=DAYS):
            await month.step()
            if not changed and clock.now > START + timedelta(days=12):
                await e.spend(180, user_id="ada", credit_type="tokens")
                await e.change_subscription("sub_ada", plan_id="team")
                tokens["ada"], changed = 2000 - 180, True
            if not canceled and clock.now > START + timedelta(days=20):
                await e.cancel_subscription("sub_bo", at="period_end")
                canceled = True

        assert month.seen.keys() == SEEN
        assert min(month.seen.values()) >= 3, month.seen
        assert "\n".join(table(month)) in PAGE.read_text("utf-8")
        now, model = clock.now, month.model
        for user in ZONES:
            found = await e.balance(user, org_id="acme")
            images = await e.check_access("usage_allowance", user_id=user, metric="image")
            assert found.user_balance == model.credits[user].at(now)
            assert found.org_balance == model.credits["acme"].at(now)
            assert images.total_available_quantity == model.images[user].at(now)
        for user in CAPS:
            member = await e.member("acme", user)
            assert member.drawn_this_month == model.paid.get((user, f"{now:%Y-%m}"), 0)
        ada = await e.check_access("credit_grant", user_id="ada", credit_type="tokens")
        bo = await e.check_access("temporary_access", user_id="bo")
        assert ada.total_available_quantity == 2000, "renewed since the change"
        assert not (await e.check_feature("export", user_id="bo")).has_access
        assert bo.expires_at == datetime(2026, 4, 15, tzinfo=UTC)
    await assert_books_balance(url)
