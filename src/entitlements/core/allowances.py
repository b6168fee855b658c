"""Allowances: units of a metric that are granted, and pay before credits."""

from __future__ import annotations

from collections.abc import Mapping

from entitlements.core.attribution import candidates
from entitlements.core.model import Wallet, WalletKey, allowance_type
from entitlements.core.policy import Policy

Parts = dict[WalletKey, int]
"""The units that each wallet pays, in order."""


def allowance_wallets(
    policy: Policy, metric: str, user_id: str, org_id: str | None
) -> tuple[WalletKey, ...]:
    """Return the wallets whose allowances pay for the metric, in the order in which they pay."""
    if metric not in policy.allowances:
        return ()
    name = allowance_type(metric)
    subjects = candidates(policy.attribution, user_id, org_id)
    return tuple(WalletKey(*subject, name) for subject in subjects)


def covered(units: int, keys: tuple[WalletKey, ...], wallets: Mapping[WalletKey, Wallet]) -> Parts:
    """Return the part of ``units`` that each wallet pays; a missing wallet pays nothing."""
    parts: Parts = {}
    left = units
    for key in keys:
        wallet = wallets.get(key)
        if wallet is not None and (part := min(left, wallet.available)):
            parts[key] = part
            left -= part
    return parts
