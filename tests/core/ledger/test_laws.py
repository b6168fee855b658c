"""Invariants of any wallet, tested without knowledge of how the core computes its outcomes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.burndown import burn_key, draw
from entitlements.core.ledger.book import DuePlace, NeedMore
from entitlements.core.ledger.due import EXPIRY, MoreDue
from entitlements.core.model import Grant
from entitlements.core.outcomes import Consumed, HoldChanged, Refusal
from entitlements.core.policy import BurnOrder
from entitlements.core.reasons import GrantReason
from tests.core.ledger.teller import EPOCH, Teller, at, check_books, wallet_key
from tests.deciding import apply

USER = wallet_key("user:u")
PRICES: dict[str, Any] = {"costs": {"call": {"credits": 1}}}
OVERDRAFT = PRICES | {"shortfall": "overdraft", "overdraft_limit": 20}

# Few distinct values, so that ties are common.
an_order = st.sampled_from(BurnOrder)
a_grant = st.fixed_dictionaries(
    {
        "quantity": st.integers(1, 9),
        "priority": st.sampled_from([1, 50]),
        "granted_at": st.integers(-2, 0),
        "expires_at": st.none() | st.integers(10, 12),
    }
)
some_grants = st.lists(a_grant, max_size=6)


def a_teller(policy: dict[str, Any], grants: list[dict[str, Any]]) -> Teller:
    teller = Teller(policy)
    teller.opens(USER)
    for number, grant in enumerate(grants):
        teller.starts_with_grant(grant | {"id": f"g{number}", "wallet": "user:u"})
    return teller


def left(teller: Teller) -> dict[str, int]:
    return {grant.id: grant.remaining for grant in teller.grants(USER)}


@given(some_grants, st.integers(1, 60))
def test_draws_and_overdraft_add_up_to_the_cost(grants: list[dict[str, Any]], units: int) -> None:
    teller = a_teller(OVERDRAFT, grants)
    before = teller.wallet().balance

    outcome = teller.ask("consume", user_id="u", metric="call", units=units)

    assert isinstance(outcome, Consumed)
    assert outcome.success == (before + 20 >= units)
    assert teller.wallet().balance == before - (units if outcome.success else 0)
    drawn = sum(one.quantity for one in teller.operations[-1].draws)
    assert drawn + teller.wallet().overdraft == outcome.credits


@given(some_grants, st.integers(1, 40))
def test_no_grant_is_drawn_while_an_earlier_one_in_burn_order_has_credits(
    grants: list[dict[str, Any]], units: int
) -> None:
    teller = a_teller(OVERDRAFT, grants)
    given_as = {f"g{number}": grant for number, grant in enumerate(grants)}

    teller.ask("consume", user_id="u", metric="call", units=units)

    drawn = [one.grant_id for one in teller.operations[-1].draws]
    for spared, remaining in left(teller).items():
        for burnt in drawn if remaining else []:
            if burnt != spared:
                assert not _burns_first(given_as[spared], given_as[burnt])


def _burns_first(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether ``one`` comes strictly before ``other`` in the documented burn order."""
    if one["priority"] != other["priority"]:
        return bool(one["priority"] < other["priority"])
    if one["expires_at"] != other["expires_at"]:
        if other["expires_at"] is None:
            return True
        return one["expires_at"] is not None and one["expires_at"] < other["expires_at"]
    return bool(one["granted_at"] < other["granted_at"])


@given(some_grants, an_order)
def test_burn_order_is_total(grants: list[dict[str, Any]], order: BurnOrder) -> None:
    teller = a_teller(PRICES, grants)

    keys = [burn_key(grant, order) for grant in teller.grants(USER)]

    assert len(set(keys)) == len(grants)


@given(some_grants, st.randoms(use_true_random=False), st.integers(1, 40))
def test_the_order_in_which_grants_are_loaded_does_not_matter(
    grants: list[dict[str, Any]], chance: Any, units: int
) -> None:
    straight, shuffled = a_teller(OVERDRAFT, grants), a_teller(OVERDRAFT, grants)
    known = list(shuffled.book.grants.get(USER, {}).items())
    chance.shuffle(known)
    shuffled.book.grants[USER] = dict(known)

    for teller in (straight, shuffled):
        teller.ask("consume", user_id="u", metric="call", units=units)

    assert straight.operations == shuffled.operations


@given(some_grants, st.integers(1, 40), st.lists(st.integers(1, 9), max_size=5))
def test_reversing_everything_in_any_parts_restores_every_grant(
    grants: list[dict[str, Any]], units: int, parts: list[int]
) -> None:
    teller = a_teller(OVERDRAFT, grants)
    before, balance = left(teller), teller.wallet().balance
    consumed = teller.ask("consume", user_id="u", metric="call", units=units)
    if isinstance(consumed, Consumed) and not consumed.success:
        return

    for part in parts:
        teller.ask("reverse", operation="c1", amount=part)
    teller.ask("reverse", operation="c1", amount=None)

    assert left(teller) == before
    assert (teller.wallet().balance, teller.wallet().overdraft) == (balance, 0)
    assert sum(line.amount for line in teller.operations[1:]) == units


@given(some_grants, st.integers(1, 40))
def test_with_few_grants_loaded_the_draws_are_the_same_or_more_grants_are_requested(
    grants: list[dict[str, Any]], units: int
) -> None:
    whole, part = a_teller(OVERDRAFT, grants), a_teller(OVERDRAFT, grants)
    known = sorted(part.grants(USER), key=lambda grant: burn_key(grant, BurnOrder.EXPIRY))
    if len(known) > 2:
        part.book.grants[USER] = {grant.id: grant for grant in known[:2]}
        part.book.horizon[USER] = burn_key(known[1], BurnOrder.EXPIRY)
    command = part.command("consume", {"user_id": "u", "metric": "call", "units": units})
    is_answered = len(known) <= 2 or units <= sum(grant.remaining for grant in known[:2])

    outcome = whole.ask("consume", user_id="u", metric="call", units=units)

    if is_answered or (isinstance(outcome, Consumed) and not outcome.success):
        apply(part.book, command)
        assert part.book.changes().operations == whole.operations
        return
    with pytest.raises(NeedMore) as more:
        apply(part.book, command)
    assert more.value.depth[USER] > 2
    assert not part.book.changes()


def test_a_grant_of_the_same_batch_does_not_pay_before_those_not_loaded() -> None:
    teller = a_teller(PRICES, [{"quantity": 5}, {"quantity": 5}])
    unloaded = teller.book.grants[USER].pop("g1")
    teller.book.horizon[USER] = burn_key(teller.book.grants[USER]["g0"], BurnOrder.EXPIRY)
    teller.ask("grant", wallet="user:u", quantity=5, reason="purchase", priority=90)
    assert unloaded.priority < 90

    with pytest.raises(NeedMore):
        teller.ask("consume", user_id="u", metric="call", units=6)


@pytest.mark.parametrize("grants", [0, 1])
def test_a_refused_command_changes_nothing(grants: int) -> None:
    teller = a_teller(PRICES, [{"quantity": 5, "expires_at": 10}] * grants)

    outcome = teller.ask("adjust", second=10, wallet="user:u", amount=-9)

    assert isinstance(outcome, Refusal)
    assert not teller.book.changes()
    assert teller.wallet().balance == 5 * grants


def test_a_clock_that_steps_back_does_not_move_ledger_time_back() -> None:
    teller = a_teller(PRICES, [{"quantity": 5}])
    teller.ask("consume", second=9, user_id="u", metric="call", units=1)

    teller.ask("consume", second=3, user_id="u", metric="call", units=1)

    assert [line.created_at for line in teller.operations] == [at(9), at(9)]


def test_due_effects_beyond_those_loaded_are_left_for_the_next_batch() -> None:
    teller = a_teller(PRICES, [{"quantity": 5, "expires_at": second} for second in (10, 30)])
    teller.book.due_after[USER] = DuePlace(
        at(20), EXPIRY
    )  # another grant expires then and is not loaded
    teller.book.now = at(40)
    command = teller.command("apply_due", {"wallet": "user:u"})

    with pytest.raises(MoreDue):
        apply(teller.book, command)

    assert [line.effective_at for line in teller.book.changes().operations] == [at(10)]
    assert teller.wallet().next_due_at == at(20)


def test_a_hold_lapses_in_all_its_wallets_when_one_is_ahead_of_the_clock() -> None:
    teller = Teller(
        {"costs": {"call": {"credits": 1}, "token": {"credits": 1, "credit_type": "t"}}}
    )
    for name in ("user:u", "user:u/t"):
        teller.starts_with_grant({"id": name, "wallet": name, "quantity": 9})
    teller.ask("hold", user_id="u", requirements={"call": 4, "token": 5}, ttl_s=10)
    teller.ask("consume", second=12, user_id="u", metric="token", units=1)

    outcome = teller.ask("settle_hold", second=5, hold="c1", requirements={"call": 4})

    assert isinstance(outcome, HoldChanged)
    assert outcome.lapsed
    assert (teller.wallet("user:u").held, teller.wallet("user:u/t").held) == (0, 0)
    check_books(teller, {wallet_key("user:u"): 9, wallet_key("user:u/t"): 9})


def test_held_credits_do_not_pay() -> None:
    grant = Grant(
        id="a",
        wallet=USER,
        quantity=5,
        remaining=5,
        held=3,
        granted_at=EPOCH,
        reason=GrantReason.PURCHASE,
    )

    drawn = draw(4, [grant])

    assert (drawn.draws[0].quantity, drawn.unpaid) == (2, 2)


def test_a_batch_writes_each_row_once_with_the_values_its_guard_expects() -> None:
    teller = a_teller(PRICES, [{"quantity": 9}])
    for _ in range(3):
        teller.ask("consume", user_id="u", metric="call", units=2)
    teller.ask("reverse", operation="c1", amount=1)
    teller.ask("adjust", wallet="user:u", amount=5)

    written = teller.book.changes()

    assert [(now.version, loaded) for now, loaded in written.wallets] == [(5, 0)]
    assert [(now.remaining, loaded.remaining) for now, loaded in written.grants] == [(4, 9)]
    assert [(now.id, now.remaining) for now, _ in written.new_grants] == [("n1", 5)]
    assert written.reversals == [(USER, "c1", 1, 0)]
    check_books(teller, {USER: 9})
