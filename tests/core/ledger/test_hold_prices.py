"""The price of settling a hold after the policy has changed."""

from __future__ import annotations

from typing import Any

import msgspec

from entitlements.core.model import Billed
from entitlements.core.outcomes import HoldChanged
from entitlements.core.policy import Policy
from tests.core.ledger.teller import NO_RULES, Teller, check_books, wallet_key

KEY = wallet_key("user:u")


def a_teller(**costs: Any) -> Teller:
    teller = Teller({"costs": costs})
    teller.starts_with_grant({"id": "a", "wallet": "user:u", "quantity": 100})
    return teller


def activates(teller: Teller, version: str, **costs: Any) -> None:
    policy = msgspec.convert(NO_RULES | {"version": version, "costs": costs}, Policy)
    teller.book.equip(policy, teller.book.new_id)
    teller.book.policy_version = version


def settles(teller: Teller, *, final: bool = True, **requirements: int) -> HoldChanged:
    outcome = teller.ask("settle_hold", hold="c1", requirements=requirements, final=final)
    assert isinstance(outcome, HoldChanged), outcome
    check_books(teller, {KEY: 100})
    return outcome


def test_units_of_a_metric_removed_from_the_policy_keep_the_price_at_the_hold() -> None:
    teller = a_teller(cj={"credits": 2})
    teller.ask("hold", user_id="u", ttl_s=60, requirements={"cj": 10})
    activates(teller, "2")

    done = settles(teller, cj=7)

    assert (done.charged, done.returned, done.owed) == (14, 6, 0)
    assert teller.operations[-1].policy_version == "1", "the version that priced it"


def test_a_partial_settlement_costs_the_total_at_current_prices_minus_earlier_charges() -> None:
    teller = a_teller(cj={"credits": 2})
    teller.ask("hold", user_id="u", ttl_s=60, requirements={"cj": 10})

    assert settles(teller, cj=4, final=False).charged == 8
    activates(teller, "2", cj={"credits": 3})
    assert settles(teller, cj=1, final=False).charged == 5 * 3 - 8
    activates(teller, "3", cj={"credits": 1})
    assert settles(teller, cj=1).charged == 0, "never below zero"
    assert teller.wallet().balance == 100 - 15


def test_a_metric_priced_in_another_credit_type_is_billed_on_a_separate_line() -> None:
    teller = a_teller(cj={"credits": 2})
    teller.starts_with_grant({"id": "t", "wallet": "user:u/tokens", "quantity": 100})
    teller.ask("hold", user_id="u", ttl_s=60, requirements={"cj": 10})
    teller.ask("settle_hold", hold="c1", requirements={"cj": 4}, final=False)

    activates(teller, "2", cj={"credits": 3, "credit_type": "tokens"})
    outcome = teller.ask("settle_hold", hold="c1", requirements={"cj": 2})

    assert isinstance(outcome, HoldChanged)
    assert outcome.by_credit_type["tokens"].charged == 6
    assert teller.wallet("user:u/tokens").balance == 94
    assert teller.wallet().balance == 92


def test_partial_settlements_stored_without_charges_are_priced_together_with_later_ones() -> None:
    teller = a_teller(cj={"credits": 1, "per": 1_000})
    teller.ask("hold", user_id="u", ttl_s=60, requirements={"cj": 2_000})
    assert settles(teller, cj=1_500, final=False).charged == 2
    (part,) = teller.holds(KEY)
    teller.book.put_hold(msgspec.structs.replace(part, billed={}, costs={}))

    assert settles(teller, cj=500).charged == 0
    assert teller.holds(KEY)[0].billed == {"cj": Billed("credits", 2_000, 2)}
