"""Pricing: units of a metric to credits, by the policy."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE, Cost, Policy


class AmountTooLarge(ValueError):
    """Raised when units, or the credits that they cost, exceed ``AMOUNT_MAX``."""


class Price(Struct, frozen=True, gc=False):
    """The price of units: whole credits of one type; 0 is free."""

    credits: int
    credit_type: str = DEFAULT_CREDIT_TYPE


FREE = Price(0)


def price(policy: Policy, metric: str, units: int) -> Price | None:
    """Return the price of ``units`` of the metric, or None if the policy does not know the metric.

    A price per block applies in proportion to the unit, and the result is rounded up once to whole
    credits. A metric with limits and no cost is free. Raise ``AmountTooLarge`` above
    ``AMOUNT_MAX`` units or credits.
    """
    assert units >= 0, units
    bounded(units)

    cost = policy.costs.get(metric)
    if cost is None:
        is_free = policy.unknown_metrics_free or metric in policy.limits
        return FREE if is_free else None
    return price_at(cost, units)


def price_at(cost: Cost, units: int) -> Price:
    """Return the price of ``units`` at a cost. Raise ``AmountTooLarge`` above ``AMOUNT_MAX``."""
    return Price(bounded(-(-units * cost.credits // cost.per)), cost.credit_type)


def credit_type_of(policy: Policy, metric: str) -> str:
    """Return the credit type that the metric is priced in; the default without a price."""
    cost = policy.costs.get(metric)
    return cost.credit_type if cost is not None else DEFAULT_CREDIT_TYPE


def credit_types(policy: Policy, metrics: Iterable[str]) -> set[str]:
    """Return every credit type that the metrics are priced in."""
    return {credit_type_of(policy, metric) for metric in metrics}


def price_all(policy: Policy, requirements: Mapping[str, int]) -> dict[str, Price | None]:
    """Return the price of each metric separately, in the given order."""
    return {metric: price(policy, metric, units) for metric, units in requirements.items()}


def total(prices: Iterable[Price | None]) -> dict[str, int]:
    """Return the credits to pay per type, ``credits`` first, then by name, without types at 0.

    Raise ``AmountTooLarge`` if the sum of one type exceeds ``AMOUNT_MAX``.
    """
    sums: dict[str, int] = {}
    for line in prices:
        if line is not None and line.credits:
            sums[line.credit_type] = bounded(sums.get(line.credit_type, 0) + line.credits)
    return {name: sums[name] for name in sorted(sums, key=credit_type_order)}


def credit_type_order(credit_type: str) -> tuple[bool, str]:
    """Return the sort key of a credit type: ``credits`` first, then by name."""
    return (credit_type != DEFAULT_CREDIT_TYPE, credit_type)


def bounded(amount: int) -> int:
    """Return the amount. Raise ``AmountTooLarge`` above ``AMOUNT_MAX``."""
    if amount > AMOUNT_MAX:
        message = f"an amount must be at most {AMOUNT_MAX}"
        raise AmountTooLarge(message)
    return amount
