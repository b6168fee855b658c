"""Random commands against a model that burns one credit at a time and advances by the second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entitlements.core.outcomes import (
    AccountOpened,
    Acted,
    AnyOutcome,
    Consumed,
    DoneTogether,
    HoldChanged,
    HoldTaken,
    MemberChanged,
    Refusal,
    Spent,
    Subscribed,
    UsageIngested,
)
from tests.core.ledger.teller import Teller, at, check_books
from tests.profiles import examples

FLOOR = 10
FOREVER = 10**9
NAMES = ("user:u", "user:v", "org:o")
POLICY: dict[str, Any] = {
    "costs": {"call": {"credits": 1}},
    "shortfall": "overdraft",
    "overdraft_limit": FLOOR,
}


@dataclass
class Lot:
    """A grant with ``left`` credits, usable from ``start`` until ``end``; held ones outlast it."""

    id: str
    left: int
    start: int
    end: int = FOREVER
    priority: int = 50
    held: int = 0

    def worth(self, now: int) -> int:
        if now < self.start:
            return 0
        return self.left if now < self.end else self.held


@dataclass(eq=False)
class Owed:
    """One overdrawn credit, and the lot that repaid it."""

    by: str | None = None


@dataclass
class Purse:
    """A wallet. ``queue`` is the overdraft, one entry per credit; the oldest is repaid first."""

    lots: dict[str, Lot] = field(default_factory=dict)
    queue: list[Owed] = field(default_factory=list)

    @property
    def overdraft(self) -> int:
        return len(self.queue)

    def live(self, now: int) -> list[Lot]:
        """Return the usable lots with credits that are not held."""
        lots = self.lots.values()
        return [lot for lot in lots if lot.start <= now < lot.end and lot.left > lot.held]

    def balance(self, now: int) -> int:
        return sum(lot.worth(now) for lot in self.lots.values()) - self.overdraft

    @property
    def held(self) -> int:
        return sum(lot.held for lot in self.lots.values())

    def available(self, now: int) -> int:
        return self.balance(now) - self.held

    def first(self, now: int) -> Lot | None:
        """Return the lot that pays next."""
        order = sorted(self.live(now), key=lambda lot: (lot.priority, lot.end, lot.start, lot.id))
        return order[0] if order else None

    def give_back(self, lot: Lot, now: int) -> None:
        """Return one held credit to its lot."""
        lot.held -= 1
        if lot.end <= now:
            lot.left -= 1
        else:
            self.repay(lot, 1)

    def repay(self, lot: Lot, credits_: int) -> None:
        while self.queue and credits_:
            self.queue.pop(0).by = lot.id
            lot.left -= 1
            credits_ -= 1

    def burn(self, credits_: int, now: int) -> list[str | Owed]:
        """Burn credits one by one; return the payer of each."""
        paid: list[str | Owed] = []
        for _ in range(credits_):
            first = self.first(now)
            if first is None:
                self.queue.append(Owed())
                paid.append(self.queue[-1])
                continue
            first.left -= 1
            paid.append(first.id)
        return paid


@dataclass
class Paid:
    """A paid consumption with the payer of each credit; a reversal takes from the end."""

    id: str
    purse: str
    by: list[str | Owed]


@dataclass
class Gift:
    """The operation that created a lot, and the credits of it that can still be reversed."""

    id: str
    purse: str
    lot: str
    left: int


@dataclass
class Pledge:
    """A hold of one credit from each lot (grant) in ``by`` until ``end``; closed if it is None."""

    id: str
    purse: str
    user: str
    with_org: bool
    by: list[Lot]
    end: int | None

    def is_open(self, now: int) -> bool:
        return self.end is not None and now < self.end


names = st.sampled_from(NAMES)
seeds = st.integers(0, 10**6)


class LedgerAgainstModel(RuleBasedStateMachine):
    @initialize()
    def starts(self) -> None:
        self.teller = self.opens()
        self.now = 0
        self.purses = {name: Purse() for name in NAMES}
        self.paid: list[Paid] = []
        self.pledges: list[Pledge] = []
        self.gifts: list[Gift] = []
        self.said: list[tuple[str, dict[str, Any], str, AnyOutcome]] = []

    def opens(self) -> Teller:
        return Teller(POLICY)

    def queries(self, verb: str, **fields: Any) -> AnyOutcome | Refusal:
        command = self.teller.command(verb, fields)
        outcome = self.teller.apply(command)
        if not isinstance(outcome, Refusal):
            self.said.append((verb, fields, command.id, outcome))
        return outcome

    def assert_balance(self, name: str, outcome: AnyOutcome | Refusal) -> None:
        assert not isinstance(outcome, Refusal)
        assert not isinstance(
            outcome,
            AccountOpened
            | Acted
            | DoneTogether
            | HoldTaken
            | MemberChanged
            | Spent
            | Subscribed
            | UsageIngested,
        )
        assert outcome.new_balance == self.purses[name].balance(self.now)

    def new_lots(self, name: str, quantity: int, made_by: str | None, **fields: int) -> None:
        """Add the lot that the ledger has just created, under its id."""
        purse = self.purses[name]
        known = {grant.id for grant in self.teller.grants(self.teller.wallet(name).key)}
        (new,) = known - purse.lots.keys()
        purse.lots[new] = lot = Lot(new, quantity, **{"start": self.now} | fields)
        if lot.start <= self.now:
            purse.repay(lot, quantity)
            assert made_by is not None
            self.gifts.append(Gift(made_by, name, new, quantity))

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            for pledge in sorted(self.pledges, key=lambda pledge: pledge.id):
                if pledge.end == self.now:
                    self.gives_rest_back(pledge)
            for purse in self.purses.values():
                for lot in sorted(purse.lots.values(), key=lambda lot: lot.id):
                    if lot.start == self.now:
                        purse.repay(lot, lot.left)

    @rule(
        name=names,
        quantity=st.integers(1, 12),
        priority=st.sampled_from([10, 50]),
        wait=st.integers(0, 3),
        life=st.none() | st.integers(1, 5),
    )
    def grant(self, name: str, quantity: int, priority: int, wait: int, life: int | None) -> None:
        start = self.now + wait
        end = None if life is None else start + life
        self.sets_clock()

        outcome = self.queries(
            "grant",
            wallet=name,
            quantity=quantity,
            reason="purchase",
            priority=priority,
            granted_at=start,
            expires_at=end,
        )

        made_by = outcome.operation_id if not isinstance(outcome, Refusal) else None
        self.new_lots(name, quantity, made_by, start=start, end=end or FOREVER, priority=priority)
        self.assert_balance(name, outcome)

    @rule(user=st.sampled_from(["u", "v"]), with_org=st.booleans(), units=st.integers(1, 25))
    def consume(self, user: str, units: int, *, with_org: bool) -> None:
        self.sets_clock()
        payers = [f"user:{user}"] if not with_org else ["org:o", f"user:{user}"]
        has = {name: self.purses[name].available(self.now) for name in payers}
        able = self.able(has, payers, units)

        outcome = self.queries(
            "consume", user_id=user, org_id="o" if with_org else None, metric="call", units=units
        )

        assert isinstance(outcome, Consumed)
        self.settles(outcome, able[0] if able else None, user, units)

    @rule(
        items=st.lists(
            st.tuples(st.sampled_from(["u", "v"]), st.booleans(), st.integers(1, 9)),
            min_size=1,
            max_size=5,
        )
    )
    def consume_together(self, items: list[tuple[str, bool, int]]) -> None:
        self.sets_clock()
        has = {name: self.purses[name].available(self.now) for name in NAMES}
        payers: dict[tuple[str, bool], str | None] = {}
        for user, with_org, _ in items:
            if (user, with_org) in payers:
                continue
            units = sum(n for who, org, n in items if (who, org) == (user, with_org))
            order = ["org:o"] * with_org + [f"user:{user}"]
            able = self.able(has, order, units)
            payers[user, with_org] = able[0] if able else None
            if able:
                has[able[0]] -= units
        is_paid = None not in payers.values()

        outcome = self.queries(
            "consume_together",
            items=[
                {
                    "user_id": user,
                    "org_id": "o" if org else None,
                    "metric": "call",
                    "units": units,
                    "key": f"{len(self.teller.operations)}-{number}",
                }
                for number, (user, org, units) in enumerate(items)
            ],
        )

        assert isinstance(outcome, DoneTogether)
        for result, (user, org, units) in zip(outcome.results, items, strict=True):
            assert isinstance(result, Consumed)
            self.settles(result, payers[user, org] if is_paid else None, user, units)

    def able(self, has: dict[str, int], payers: list[str], units: int) -> list[str]:
        """Return who can pay: first those that cover it, then those within the overdraft limit."""
        covering = [name for name in payers if has[name] >= units]
        return covering + [name for name in payers if has[name] + FLOOR >= units]

    def settles(self, outcome: Consumed, payer: str | None, user: str, units: int) -> None:
        """Assert the outcome, and burn the units from the payer if there is one."""
        assert outcome.operation_id is not None
        assert outcome.success == (payer is not None)
        assert outcome.owed == (0 if payer else units)
        if payer is None:
            assert outcome.new_balance == self.purses[f"user:{user}"].balance(self.now)
            return
        by = self.purses[payer].burn(units, self.now)
        assert outcome.new_balance == self.purses[payer].balance(self.now)
        self.paid.append(Paid(outcome.operation_id, payer, by))

    @rule(name=names, amount=st.integers(-15, 15).filter(bool))
    def adjust(self, name: str, amount: int) -> None:
        self.sets_clock()
        has = self.purses[name].available(self.now)

        outcome = self.queries("adjust", wallet=name, amount=amount)

        if has + amount < 0 and amount < 0:
            assert isinstance(outcome, Refusal)
            return
        if amount > 0:
            assert not isinstance(outcome, Refusal)
            self.new_lots(name, amount, outcome.operation_id)
        else:
            self.purses[name].burn(-amount, self.now)
        self.assert_balance(name, outcome)

    @rule(name=names, seed=seeds)
    def revoke(self, name: str, seed: int) -> None:
        lots = list(self.purses[name].lots.values())
        if not lots:
            return
        self.sets_clock()
        lot = lots[seed % len(lots)]

        outcome = self.queries("revoke", wallet=name, grant_id=lot.id)

        lot.left, lot.end = lot.held, min(lot.end, self.now)
        self.assert_balance(name, outcome)

    @rule(seed=seeds, amount=st.integers(1, 8))
    def reverse(self, seed: int, amount: int) -> None:
        if not self.paid:
            return
        self.sets_clock()
        paid = self.paid[seed % len(self.paid)]

        outcome = self.queries("reverse", operation=paid.id, amount=amount)

        if amount > len(paid.by):
            assert isinstance(outcome, Refusal)
            return
        self.gives_back(paid, amount)
        self.assert_balance(paid.purse, outcome)

    def gives_back(self, paid: Paid, amount: int) -> None:
        purse = self.purses[paid.purse]
        for _ in range(amount):
            payer = paid.by.pop()
            if isinstance(payer, Owed):
                if payer in purse.queue:
                    purse.queue.remove(payer)
                    continue
                assert payer.by is not None
                payer = payer.by
            lot = purse.lots[payer]
            if lot.end > self.now:
                lot.left += 1
                purse.repay(lot, 1)

    @rule(seed=seeds, amount=st.integers(1, 8))
    def reverse_a_gift(self, seed: int, amount: int) -> None:
        if not self.gifts:
            return
        self.sets_clock()
        gift = self.gifts[seed % len(self.gifts)]
        lot = self.purses[gift.purse].lots[gift.lot]
        there = lot.left - lot.held if lot.end > self.now else 0

        outcome = self.queries("reverse", operation=gift.id, amount=amount)

        if amount > gift.left or not there:
            assert isinstance(outcome, Refusal)
            return
        taken = min(amount, there)
        lot.left -= taken
        gift.left -= taken
        self.assert_balance(gift.purse, outcome)

    @rule(
        user=st.sampled_from(["u", "v"]),
        with_org=st.booleans(),
        units=st.integers(1, 12),
        ttl=st.integers(1, 6),
    )
    def hold(self, user: str, units: int, ttl: int, *, with_org: bool) -> None:
        self.sets_clock()
        payers = ["org:o"] * with_org + [f"user:{user}"]
        covering = [name for name in payers if self.purses[name].available(self.now) >= units]

        outcome = self.queries(
            "hold",
            user_id=user,
            org_id="o" if with_org else None,
            requirements={"call": units},
            ttl_s=ttl,
        )

        if not covering:
            assert isinstance(outcome, Refusal)
            return
        assert isinstance(outcome, HoldTaken)
        assert outcome.source == covering[0].partition(":")[0]
        by = []
        for _ in range(units):
            lot = self.purses[covering[0]].first(self.now)
            assert lot is not None
            lot.held += 1
            by.append(lot)
        end = self.now + ttl
        pledge = Pledge(outcome.hold_id, covering[0], user, with_org, by, end)
        self.pledges.append(pledge)
        self.assert_shows(pledge)

    @rule(seed=seeds, units=st.integers(0, 15), final=st.booleans())
    def settle(self, seed: int, units: int, *, final: bool) -> None:
        if not self.pledges:
            return
        self.sets_clock()
        pledge = self.pledges[seed % len(self.pledges)]
        is_late = pledge.end is not None and pledge.end <= self.now
        asked = {"requirements": {"call": units}, "final": final}

        outcome = self.queries("settle_hold", hold=pledge.id, **asked)

        if pledge.end is None:
            assert isinstance(outcome, Refusal) or outcome.replayed
            return
        assert isinstance(outcome, HoldChanged)
        assert outcome.lapsed == is_late
        held = pledge.by[:units]
        for lot in held:
            lot.left -= 1
            lot.held -= 1
        del pledge.by[: len(held)]
        payers = [pledge.purse] if not is_late else self.payers_of(pledge)
        has = {name: self.purses[name].available(self.now) for name in payers}
        excess = units - len(held)
        able = self.able(has, payers, excess)
        burnt = self.purses[able[0]].burn(excess, self.now) if able else []
        assert (outcome.charged, outcome.owed) == (
            len(held) + len(burnt),
            excess - len(burnt),
        )
        if outcome.operation_id and (held or burnt):
            by: list[str | Owed] = [*(lot.id for lot in held)] or burnt
            self.paid.append(Paid(outcome.operation_id, able[0] if is_late else pledge.purse, by))
        if final or is_late:
            assert outcome.returned == len(pledge.by)
            self.gives_rest_back(pledge)
            pledge.end = None
        assert outcome.held == len(pledge.by)
        self.assert_shows(pledge)

    def payers_of(self, pledge: Pledge) -> list[str]:
        return ["org:o"] * pledge.with_org + [f"user:{pledge.user}"]

    @rule(seed=seeds)
    def release(self, seed: int) -> None:
        if not self.pledges:
            return
        self.sets_clock()
        pledge = self.pledges[seed % len(self.pledges)]

        outcome = self.queries("release_hold", hold=pledge.id)

        if pledge.end is None:
            assert isinstance(outcome, Refusal) or outcome.replayed
            return
        assert isinstance(outcome, HoldChanged)
        assert outcome.returned == len(pledge.by)
        if pledge.is_open(self.now):
            self.gives_rest_back(pledge)
            pledge.end = None
        self.assert_shows(pledge)

    @rule(seed=seeds, ttl=st.integers(1, 6))
    def extend(self, seed: int, ttl: int) -> None:
        if not self.pledges:
            return
        self.sets_clock()
        pledge = self.pledges[seed % len(self.pledges)]

        outcome = self.queries("extend_hold", hold=pledge.id, ttl_s=ttl)

        if not pledge.is_open(self.now):
            assert isinstance(outcome, Refusal)
            return
        assert isinstance(outcome, HoldChanged)
        pledge.end = self.now + ttl

    def gives_rest_back(self, pledge: Pledge) -> None:
        for lot in pledge.by:
            self.purses[pledge.purse].give_back(lot, self.now)
        pledge.by = []

    def assert_shows(self, pledge: Pledge) -> None:
        wallet, purse = self.teller.wallet(pledge.purse), self.purses[pledge.purse]
        assert (wallet.balance, wallet.held) == (purse.balance(self.now), purse.held)

    @rule(seed=seeds)
    def repeat(self, seed: int) -> None:
        """Repeat an earlier request with its key."""
        if not self.said:
            return
        self.sets_clock()
        verb, fields, key, first = self.said[seed % len(self.said)]
        written = len(self.teller.operations)

        again = self.teller.apply(self.teller.command(verb, fields, key=key))

        assert not isinstance(again, Refusal)
        assert again.replayed
        assert (type(again), again.operation_id) == (type(first), first.operation_id)
        assert len(self.teller.operations) == written

    def sets_clock(self) -> None:
        """Set the ledger's clock, as every request does."""
        self.teller.book.now = at(self.now)

    @invariant()
    def the_books_are_right(self) -> None:
        check_books(self.teller)
        assert all(wallet.balance >= -FLOOR for wallet in self.teller.book.wallets.values())

    def teardown(self) -> None:
        self.sets_clock()
        for name, purse in self.purses.items():
            self.assert_balance(name, self.queries("apply_due", wallet=name))
            left = {
                grant.id: grant.remaining
                for grant in self.teller.grants(self.teller.wallet(name).key)
            }
            assert left == {
                lot.id: lot.left if lot.end > self.now else lot.held for lot in purse.lots.values()
            }
            for part in self.teller.holds(self.teller.wallet(name).key):
                assert part.status != "open" or part.expires_at > at(self.now)
        check_books(self.teller)


TestLedgerAgainstModel = LedgerAgainstModel.TestCase
TestLedgerAgainstModel.settings = settings(
    max_examples=examples(60, long=1_000), stateful_step_count=40, deadline=None
)
