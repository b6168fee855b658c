"""Thresholds against a model that keeps the side of each threshold that the wallet was last on."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.model import Operation
from tests.core.ledger.teller import Teller, wallet_key

USER = wallet_key("user:u")
RULES: dict[str, Any] = {
    "costs": {"call": {"credits": 1}},
    "shortfall": "overdraft",
    "overdraft_limit": 30,
}

a_threshold = st.fixed_dictionaries({"below": st.integers(0, 25)}) | st.fixed_dictionaries(
    {"percent": st.integers(1, 100)}
)
thresholds = st.lists(a_threshold, max_size=4, unique_by=str)
a_move = st.tuples(st.sampled_from(["consume", "adjust"]), st.integers(1, 15))
moves = st.lists(a_move | st.tuples(st.just("burn"), st.integers(1, 15)), max_size=25)


def do(teller: Teller, verb: str, credits: int) -> list[Operation]:
    written = len(teller.operations)
    if verb == "consume":
        teller.ask("consume", user_id="u", metric="call", units=credits)
    else:
        amount = credits if verb == "adjust" else -credits
        teller.ask("adjust", wallet="user:u", amount=amount, reason="by hand")
    return teller.operations[written:]


class Watcher:
    """A model of one threshold. It compares fractions, so it never rounds."""

    def __init__(self, threshold: dict[str, int]) -> None:
        self.threshold = threshold
        self.granted: int | None = None
        self.is_below = self.sees(0)

    def sees(self, balance: int) -> bool:
        if "below" in self.threshold:
            return balance < self.threshold["below"]
        if self.granted is not None and self.granted <= 0:
            return True
        return balance < Fraction(self.threshold["percent"] * (self.granted or 0), 100)

    def follow(self, operation: Operation) -> str | None:
        """Return the direction in which the operation crosses the threshold, or None."""
        if operation.kind == "manual_adjustment" and operation.delta > 0:
            self.granted = operation.balance_after
        was, self.is_below = self.is_below, self.sees(operation.balance_after)
        if was == self.is_below:
            return None
        return "below" if self.is_below else "above"


@given(thresholds, moves)
def test_each_crossing_is_reported_once_and_nothing_else(
    watched: list[dict[str, int]], moved: list[tuple[str, int]]
) -> None:
    teller = Teller(RULES | {"thresholds": watched})
    teller.opens(USER)
    watchers = [Watcher(threshold) for threshold in watched]

    for verb, credits in moved:
        for operation in do(teller, verb, credits):
            expected = [watcher.follow(operation) for watcher in watchers]
            told = [crossing.direction for crossing in operation.crossings]
            assert sorted(told) == sorted(filter(None, expected))


@given(a_threshold, moves)
def test_crossings_of_a_threshold_alternate_between_below_and_above(
    threshold: dict[str, int], moved: list[tuple[str, int]]
) -> None:
    teller = Teller(RULES | {"thresholds": [threshold]})
    teller.opens(USER)

    for verb, credits in moved:
        do(teller, verb, credits)

    told = [crossing.direction for one in teller.operations for crossing in one.crossings]
    first = ["above", "below"] if threshold.get("below") else ["below", "above"]
    assert told == (first * len(told))[: len(told)]


@given(thresholds, moves)
def test_a_reported_crossing_matches_the_balance(
    watched: list[dict[str, int]], moved: list[tuple[str, int]]
) -> None:
    teller = Teller(RULES | {"thresholds": watched})
    teller.opens(USER)

    for verb, credits in moved:
        for operation in do(teller, verb, credits):
            passed = [crossing.threshold for crossing in operation.crossings]
            for level, direction in operation.crossings:
                assert (operation.balance_after < level) == (direction == "below")
            assert passed == sorted(passed, reverse=operation.delta < 0)


@given(moves)
def test_thresholds_change_nothing_but_the_reported_crossings(moved: list[tuple[str, int]]) -> None:
    plain = Teller(RULES)
    watched = Teller(RULES | {"thresholds": [{"below": 7}, {"percent": 50}]})

    for teller in (plain, watched):
        teller.opens(USER)
        for verb, credits in moved:
            do(teller, verb, credits)

    assert plain.wallet() == watched.wallet()
    for one, other in zip(plain.operations, watched.operations, strict=True):
        assert one == msgspec.structs.replace(other, crossings=())
