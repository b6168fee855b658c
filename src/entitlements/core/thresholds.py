"""The thresholds that a wallet's balance crosses with an operation.

The balance alone, and for percentages the balance at the last grant, decide whether a wallet is
below a threshold. A crossing is a change of that state. No other state is stored, so downward and
upward crossings alternate, and each is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable

from entitlements.core.model import LEFT_NOTHING, Crossing, Wallet
from entitlements.core.policy import Threshold, percent_of
from entitlements.core.reasons import OperationKind

GRANTING = frozenset(
    {
        OperationKind.GRANT,
        OperationKind.ACTIVATION,
        OperationKind.RENEWAL,
        OperationKind.ADJUSTMENT,
    }
)
"""The kinds that raise a balance by a grant, and so set the base of percentages."""


def crossings(
    thresholds: Iterable[Threshold], before: Wallet, after: Wallet
) -> tuple[Crossing, ...]:
    """Return the crossings in the order in which the balance passes the thresholds.

    A balance equal to a threshold is not below it.
    """
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
    """Return the base of percentages after a grant that left this balance."""
    return balance if balance > 0 else LEFT_NOTHING


def _is_about(threshold: Threshold, wallet: Wallet) -> bool:
    return threshold.credit_type == wallet.key.credit_type and threshold.subject_type in (
        None,
        wallet.key.subject_type,
    )


def _is_below(threshold: Threshold, wallet: Wallet) -> bool:
    """Return whether the balance is below the threshold.

    It is always below a percentage if the last grant only repaid an overdraft.
    """
    left_nothing = threshold.percent is not None and wallet.balance_at_grant == LEFT_NOTHING
    return left_nothing or wallet.balance < _level(threshold, wallet)


def _level(threshold: Threshold, wallet: Wallet) -> int:
    """Return the lowest balance that is not below the threshold."""
    if threshold.percent is None:
        return threshold.below
    return percent_of(threshold.percent, max(0, wallet.balance_at_grant))
