"""Which thresholds an operation takes a wallet's balance across.

A balance is below a threshold or not, by itself and what it was at the wallet's last grant; a
crossing is a change between the two. Nothing else is remembered, so that a threshold is crossed
downwards and upwards in turn, once each time.
"""

from __future__ import annotations

from collections.abc import Iterable

from entitlements.core.model import LEFT_NOTHING, Crossing, OperationKind, Wallet
from entitlements.core.policy import Threshold

GRANTING = frozenset({OperationKind.GRANT, OperationKind.ACTIVATION, OperationKind.ADJUSTMENT})
"""What raises a balance by a grant, and so sets what percentages are of."""


def crossings(
    thresholds: Iterable[Threshold], before: Wallet, after: Wallet
) -> tuple[Crossing, ...]:
    """In the order in which the balance passes them. One that is reached is not below."""
    crossed: list[Crossing] = []
    for threshold in thresholds:
        if not _is_about(threshold, after):
            continue
        is_below = _is_below(threshold, after)
        if is_below != _is_below(threshold, before):
            level = _level(threshold, after)
            crossed.append(Crossing(level, "below" if is_below else "above"))
    falls = after.balance < before.balance
    return tuple(sorted(crossed, key=lambda crossing: crossing.threshold, reverse=falls))


def at_grant(balance: int) -> int:
    """What percentages are of after a grant that left this balance."""
    return balance if balance > 0 else LEFT_NOTHING


def _is_about(threshold: Threshold, wallet: Wallet) -> bool:
    return threshold.credit_type == wallet.key.credit_type and threshold.subject_type in (
        None,
        wallet.key.subject_type,
    )


def _is_below(threshold: Threshold, wallet: Wallet) -> bool:
    """Whether the balance is below it. A percentage of a grant that left nothing is not reached."""
    left_nothing = threshold.percent is not None and wallet.balance_at_grant == LEFT_NOTHING
    return left_nothing or wallet.balance < _level(threshold, wallet)


def _level(threshold: Threshold, wallet: Wallet) -> int:
    """The least balance that is not below it."""
    if threshold.percent is None:
        return threshold.below
    return -(-threshold.percent * max(0, wallet.balance_at_grant) // 100)
