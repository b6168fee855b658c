"""Invariants of debts under any sequence of commands: priced, settled and reversed once each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from entitlements.core.outcomes import Refusal
from tests.core.ledger.teller import Teller, check_books
from tests.profiles import examples

UNKNOWN: dict[str, Any] = {"costs": {"call": {"credits": 1}}, "settle_debts": True}
KNOWN: dict[str, Any] = {
    "costs": {"call": {"credits": 1}, "odd": {"credits": 3}},
    "settle_debts": True,
}
WORK = [("call", 4), ("odd", 2), ("odd", 5)]
"""Each piece of work has its own key, so that repeated reports of it are the same work."""

amounts = st.none() | st.integers(1, 9)
steps = st.one_of(
    st.tuples(st.just("consume"), st.integers(0, 2), st.none()),
    st.tuples(st.just("price"), st.integers(0, 2), st.none()),
    st.tuples(st.just("settle"), st.integers(0, 2), amounts),
    st.tuples(st.just("write_off"), st.integers(0, 2), st.none()),
    st.tuples(st.just("grant"), st.integers(1, 9), st.none()),
    st.tuples(st.just("adjust"), st.integers(-5, 9).filter(bool), st.none()),
    st.tuples(st.just("reverse"), st.integers(0, 99), amounts),
    st.tuples(st.just("activate"), st.booleans(), st.none()),
)


def follow(teller: Teller, step: tuple[str, int, int | None], filed: dict[int, str]) -> None:
    verb, which, amount = step
    match verb:
        case "activate":
            teller.activates(KNOWN if which else UNKNOWN)
        case "consume":
            metric, units = WORK[which]
            fields = {"user_id": "u", "metric": metric, "units": units}
            command = teller.command("consume", fields, key=f"k{which}")
            outcome = teller.apply(command)
            assert not isinstance(outcome, Refusal)
            filed.setdefault(which, command.id)
        case "grant":
            teller.ask("grant", wallet="user:u", quantity=which, reason="purchase")
        case "adjust":
            teller.ask("adjust", wallet="user:u", amount=which)
        case "reverse" if teller.operations:
            operation = teller.operations[which % len(teller.operations)]
            teller.ask("reverse", operation=operation.id, amount=amount)
        case "price" if which in filed:
            teller.ask("price", operation=filed[which])
        case "settle" if filed.get(which) in teller.book.debts:
            teller.ask("settle", wallet="user:u", debt_id=filed[which], amount=amount)
        case "write_off" if filed.get(which) in teller.book.debts:
            teller.ask("write_off", wallet="user:u", debt_id=filed[which])
        case _:
            pass


@given(st.lists(steps, max_size=40))
@settings(max_examples=examples(150, long=2_000), deadline=None)
def test_work_is_paid_for_exactly_once_however_it_is_split(
    taken: list[tuple[str, int, int | None]],
) -> None:
    teller = Teller(UNKNOWN)
    filed: dict[int, str] = {}

    for step in taken:
        follow(teller, step, filed)
        check_books(teller)

    for which, operation_id in filed.items():
        metric, units = WORK[which]
        cost = units * KNOWN["costs"][metric]["credits"]
        about = [one for one in teller.operations if operation_id in (one.id, one.reverses)]
        charges = [one for one in about if one.kind == "consume" and one.status == "completed"]
        closings = [one for one in about if one.kind in ("settlement", "write_off")]
        debt = teller.book.debts.get(operation_id)
        if charges:
            assert [one.amount for one in charges] == [cost]
            assert closings == []
        elif debt is not None and debt.owed is not None:
            assert sum(one.amount for one in closings) + debt.still_owed == cost
        assert sum(one.owed > 0 for one in about) == (debt is not None and debt.owed is not None)


@given(st.lists(steps, max_size=40))
@settings(max_examples=examples(100, long=2_000), deadline=None)
def test_a_reversal_never_exceeds_the_operation(taken: list[tuple[str, int, int | None]]) -> None:
    teller = Teller(UNKNOWN)
    filed: dict[int, str] = {}

    for step in taken:
        follow(teller, step, filed)

    undone = Counter[str]()
    for one in teller.operations:
        if one.kind == "reversal" and one.reverses is not None:
            undone[one.reverses] += one.amount
    for operation_id, credits in undone.items():
        reversed_ = teller.operation(operation_id)
        assert credits <= reversed_.amount
        assert credits == teller.book.reversed[operation_id]
