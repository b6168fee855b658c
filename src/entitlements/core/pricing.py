"""Units of a metric → credits, by the policy."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE, Cost, Policy


class AmountTooLarge(ValueError):
    """Units, or the credits they cost, pass the largest amount there is."""


class Price(Struct, frozen=True, gc=False):
    """What units cost: whole credits of one type; 0 is free."""

    credits: int
    credit_type: str = DEFAULT_CREDIT_TYPE


FREE = Price(0)


def price(policy: Policy, metric: str, units: int) -> Price | None:
    """What ``units`` of the metric cost, or ``None`` if the policy does not know the metric.

    A price per block is followed to the unit, and rounded up to whole credits once; metrics with
    limits alone are free. Raises ``AmountTooLarge`` above ``AMOUNT_MAX`` units or credits.
    """
    assert units >= 0, units
    bounded(units)

    cost = policy.costs.get(metric)
    if cost is None:
        is_free = policy.unknown_metrics_free or metric in policy.limits
        return FREE if is_free else None
    return price_at(cost, units)


def price_at(cost: Cost, units: int) -> Price:
    """Return the price of ``units`` at a cost. Raises ``AmountTooLarge``."""
    return Price(bounded(-(-units * cost.credits // cost.per)), cost.credit_type)


def credit_types(policy: Policy, metrics: Iterable[str]) -> set[str]:
    """Every type that units of the metrics may be priced in, whatever their number."""
    costs = (policy.costs.get(metric) for metric in metrics)
    return {cost.credit_type if cost is not None else DEFAULT_CREDIT_TYPE for cost in costs}


def price_all(policy: Policy, requirements: Mapping[str, int]) -> dict[str, Price | None]:
    """The price of every metric by itself, in the order given."""
    return {metric: price(policy, metric, units) for metric, units in requirements.items()}


def total(prices: Iterable[Price | None]) -> dict[str, int]:
    """Credits to be paid per type, ``credits`` first, then by name; types that cost 0 are left out.

    Raises ``AmountTooLarge`` if one type's sum passes ``AMOUNT_MAX``.
    """
    sums: dict[str, int] = {}
    for line in prices:
        if line is not None and line.credits:
            sums[line.credit_type] = bounded(sums.get(line.credit_type, 0) + line.credits)
    return {name: sums[name] for name in sorted(sums, key=_credit_type_order)}


def _credit_type_order(credit_type: str) -> tuple[bool, str]:
    return (credit_type != DEFAULT_CREDIT_TYPE, credit_type)


def bounded(amount: int) -> int:
    """The amount; raises ``AmountTooLarge`` above ``AMOUNT_MAX``."""
    if amount > AMOUNT_MAX:
        message = f"amounts go up to {AMOUNT_MAX}"
        raise AmountTooLarge(message)
    return amount
