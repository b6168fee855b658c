"""Thousands of streamed calls with all kinds of endings, against a small model of each user."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import timedelta
from heapq import heappop, heappush
from typing import Any

import pytest

from entitlements.core import commands as c
from entitlements.core.model import HoldFacts, WalletKey, facts_of
from entitlements.core.outcomes import AnyOutcome, HoldChanged, HoldTaken, Refusal
from entitlements.core.reasons import RefusalCode
from tests.core.ledger.teller import Teller, at, check_books
from tests.deciding import apply
from tests.profiles import examples

CALLS = examples(2_500, long=10_000)
USERS = 25
DAY_S = 86_400
POLICY: dict[str, Any] = {"costs": {"token": {"credits": 1}}}


@dataclass
class User:
    """A balance, and for each hold its credits and its end."""

    name: str
    balance: int = 0
    held: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def key(self) -> WalletKey:
        return WalletKey("user", self.name, "credits")

    def available(self, now: int) -> int:
        return self.balance - sum(left for left, end in self.held.values() if now < end)


@dataclass
class Stream:
    """One streamed call, with the most tokens that it may use and the way it ended."""

    user: User
    hold_id: str
    most: int
    end: int
    last: tuple[str, int] | None = None
    """The command that closed its hold, and the number of tokens."""


class Streams:
    """The calls, their common clock, and the ledger that charges them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.teller = Teller(POLICY)
        self.users = [User(f"u{n}") for n in range(USERS)]
        self.now = 0
        self.events: list[tuple[int, int, str, Stream]] = []
        self.asked = 0
        self.seen: set[str] = set()
        for user in self.users:
            self.teller.opens(user.key)

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.now += self.rng.randrange(2)
            self.happens_until(self.now)
            self.starts(self.rng.choice(self.users))
        while self.events:
            self.now = max(self.now, self.events[0][0])
            self.happens_until(self.now)

    def happens_until(self, now: int) -> None:
        while self.events and self.events[0][0] <= now:
            self.now, _, what, stream = heappop(self.events)
            getattr(self, what)(stream)
        self.now = now

    def later(self, seconds: int, what: str, stream: Stream) -> None:
        self.asked += 1
        heappush(self.events, (self.now + seconds, self.asked, what, stream))

    def queries(self, kind: type[c.Command], **fields: Any) -> AnyOutcome | Refusal:
        """Apply a command under a new key, as most clients do: only the hold shows a repeat."""
        self.asked += 1
        name = f"c{self.asked}"
        origin = c.Origin(
            actor="a", client="a", correlation_id="s", key=name, fingerprint="", lifetime_s=9
        )
        self.teller.book.now = at(self.now)
        command: Any = kind(id=name, origin=origin, **fields)
        return apply(self.teller.book, command)

    def starts(self, user: User) -> None:
        if self.rng.random() < 0.3:
            amount = self.rng.randint(50, 400)
            self.queries(c.Adjust, wallet=user.key, amount=amount, reason="top-up")
            user.balance += amount
        most, ttl = self.rng.randint(1, 120), self.rng.randint(3, 40)
        covered = user.available(self.now) >= most

        taken = self.queries(c.TakeHold, user_id=user.name, requirements={"token": most}, ttl_s=ttl)

        assert isinstance(taken, HoldTaken) == covered
        if not isinstance(taken, HoldTaken):
            self.seen.add("denied")
            return
        user.held[taken.hold_id] = (most, self.now + ttl)
        stream = Stream(user, taken.hold_id, most, self.now + ttl)
        ends = self.rng.choices(
            ["finishes", "breaks", "fails", "vanishes", "is_late", "goes_on"],
            [50, 12, 8, 8, 12, 10],
        )[0]
        if ends == "is_late":
            self.later(ttl + self.rng.choice([0, 1, 60, DAY_S, DAY_S + 1]), "finishes", stream)
        elif ends != "vanishes":
            self.later(self.rng.randrange(ttl), ends, stream)

    def finishes(self, stream: Stream) -> None:
        """Settle in full, sometimes with more tokens than were held."""
        above = self.rng.random() < 0.1
        self.settles(stream, stream.most + self.rng.randint(1, 60) if above else stream.most)

    def breaks(self, stream: Stream) -> None:
        """Settle the tokens delivered until the reader disconnected, possibly none."""
        self.settles(stream, self.rng.randint(0, stream.most))

    def goes_on(self, stream: Stream) -> None:
        """Settle a part and extend the hold."""
        self.settles(stream, self.rng.randint(1, stream.most), final=False)
        extended = self.queries(c.ExtendHold, hold=self.hold(stream), ttl_s=20)
        assert isinstance(extended, HoldChanged)
        left, _ = stream.user.held[stream.hold_id]
        stream.end = self.now + 20
        stream.user.held[stream.hold_id] = (left, stream.end)
        self.later(self.rng.randrange(40), "breaks", stream)

    def fails(self, stream: Stream) -> None:
        released = self.queries(c.ReleaseHold, hold=self.hold(stream))

        if stream.last is not None:
            self.is_answered_again(stream, released, ("release", 0))
            return
        assert isinstance(released, HoldChanged)
        assert released.returned == stream.user.held.pop(stream.hold_id)[0]
        self.ended(stream, "release", 0)

    def settles(self, stream: Stream, tokens: int, *, final: bool = True) -> None:
        user, is_late = stream.user, self.now >= stream.end
        asked = {"hold": self.hold(stream), "requirements": {"token": tokens}, "final": final}
        outcome = self.queries(c.SettleHold, **asked)

        if stream.last is not None:
            self.is_answered_again(stream, outcome, ("settle", tokens))
            return
        if is_late and self.now - stream.end > DAY_S:
            assert isinstance(outcome, Refusal)
            self.seen.add("too late")
            return
        assert isinstance(outcome, HoldChanged)
        held, _ = user.held.pop(stream.hold_id)
        paid = 0 if is_late else min(tokens, held)
        excess = tokens - paid
        rest = 0 if is_late else held - paid
        others = user.available(self.now) - paid - (0 if final else rest)
        owed = excess if excess > others else 0
        user.balance -= tokens - owed
        assert (outcome.charged, outcome.owed, outcome.lapsed) == (tokens - owed, owed, is_late)
        assert outcome.new_balance == user.balance
        self.seen |= {"late"} if is_late else set()
        self.seen |= {"owed"} if owed else {"above"} if excess and not is_late else set()
        if final or is_late:
            assert outcome.returned == rest
            self.ended(stream, "settle", tokens)
        else:
            assert outcome.held == rest
            user.held[stream.hold_id] = (rest, stream.end)

    def ended(self, stream: Stream, how: str, tokens: int) -> None:
        """Note how the call ended; sometimes schedule a repeat or a contradictory command."""
        stream.last = (how, tokens)
        if self.rng.random() < 0.3:
            self.later(
                self.rng.randrange(90), self.rng.choice(["repeats", "breaks", "fails"]), stream
            )

    def repeats(self, stream: Stream) -> None:
        assert stream.last is not None
        how, tokens = stream.last
        if how == "settle":
            self.settles(stream, tokens)
        else:
            self.fails(stream)

    def is_answered_again(
        self, stream: Stream, outcome: AnyOutcome | Refusal, asked: tuple[str, int]
    ) -> None:
        if asked == stream.last:
            assert isinstance(outcome, HoldChanged)
            assert outcome.replayed
            self.seen.add("again")
            return
        assert isinstance(outcome, Refusal)
        assert outcome.code is RefusalCode.HOLD_CLOSED
        self.seen.add("contradicted")

    def hold(self, stream: Stream) -> HoldFacts:
        return facts_of([self.teller.book.holds[stream.user.key][stream.hold_id]])


@pytest.mark.hypothesis
def test_however_streams_end_nothing_leaks_and_nothing_is_charged_twice() -> None:
    streams = Streams(seed=20260101)

    streams.run(CALLS)

    streams.now += 100
    for user in streams.users:
        streams.queries(c.ApplyDue, wallet=user.key)
        wallet = streams.teller.book.wallets[user.key]
        assert (wallet.balance, wallet.held) == (user.balance, 0)
        parts = streams.teller.holds(user.key)
        assert {part.status for part in parts} == {"settled", "released", "lapsed"}
        assert all(
            part.closed_at <= part.expires_at + timedelta(days=1)
            for part in parts
            if part.closed_at
        )
    streams.teller.operations = list(streams.teller.book.changes().operations)
    check_books(streams.teller)
    assert streams.seen == {
        "denied", "too late", "late", "owed", "above", "again", "contradicted",
    }  # fmt: skip
