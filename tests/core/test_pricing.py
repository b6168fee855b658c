import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.core.policy import AMOUNT_MAX, Cost, Policy
from entitlements.core.pricing import AmountTooLarge, Price, price, price_all, total

CONFORMANCE = Path(__file__).parents[2] / "conformance" / "pricing"


def cases(file: str) -> list[Any]:
    examples = json.loads((CONFORMANCE / file).read_text("utf-8"))["cases"]
    return [pytest.param(case, id=case["name"]) for case in examples]


def a_policy(cost: Cost) -> Policy:
    return Policy(version="0" * 64, costs={"m": cost}, limits={}, signup_bonuses={})


def credits_for(cost: Cost, units: int) -> int:
    priced = price(a_policy(cost), "m", units)
    assert priced is not None
    return priced.credits


@pytest.mark.parametrize("case", cases("price.json"))
def test_price(case: dict[str, Any]) -> None:
    defaults = {"version": "0" * 64, "signup_bonuses": {}}
    policy = msgspec.convert(defaults | case["policy"], Policy)

    if case["price"] == "too large":
        with pytest.raises(AmountTooLarge):
            price(policy, case["metric"], case["units"])
        return

    expected = Price(*case["price"]) if case["price"] else None
    assert price(policy, case["metric"], case["units"]) == expected


@pytest.mark.parametrize("case", cases("total.json"))
def test_total(case: dict[str, Any]) -> None:
    prices = [Price(*line) if line else None for line in case["prices"]]

    if case["total"] == "too large":
        with pytest.raises(AmountTooLarge):
            total(prices)
        return

    assert list(total(prices).items()) == [tuple(line) for line in case["total"]]


def test_each_requirement_is_priced_separately_in_order() -> None:
    policy = a_policy(Cost(credits=2))

    prices = price_all(policy, {"x": 1, "m": 3})

    assert list(prices.items()) == [("x", None), ("m", Price(6))]


costs = st.builds(
    Cost,
    credits=st.integers(0, 10**4),
    per=st.integers(1, 10**4),
)
some_units = st.integers(0, 10**8)


@given(costs, some_units)
def test_a_price_is_the_fewest_credits_that_pay_for_the_units(cost: Cost, units: int) -> None:
    paid = credits_for(cost, units)

    assert paid * cost.per >= units * cost.credits
    assert (paid - 1) * cost.per < units * cost.credits


@given(costs, some_units, some_units)
def test_more_units_never_cost_less_and_together_never_cost_more(
    cost: Cost, some: int, more: int
) -> None:
    together = credits_for(cost, some + more)

    assert together >= credits_for(cost, some)
    assert together <= credits_for(cost, some) + credits_for(cost, more)


@given(st.integers(0, AMOUNT_MAX), st.integers(0, 2 * AMOUNT_MAX))
def test_no_price_exceeds_the_largest_amount(credits_each: int, units: int) -> None:
    is_payable = units <= AMOUNT_MAX and credits_each * units <= AMOUNT_MAX

    try:
        paid = credits_for(Cost(credits=credits_each), units)
    except AmountTooLarge:
        assert not is_payable
    else:
        assert is_payable
        assert paid == credits_each * units
