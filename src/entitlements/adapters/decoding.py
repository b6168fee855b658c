"""Rows that need more than a mapping of their columns, and those that cannot be decoded."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from entitlements.app.ports import Unreadable
from entitlements.app.webhooks.store import Delivery
from entitlements.core.model import WalletKey

UNDECODABLE: Final = (KeyError, ValueError, msgspec.MsgspecError)
"""The exceptions that decoding a row with unknown values raises."""


def unreadable(wallet: WalletKey) -> Unreadable:
    """Return the error for an undecodable row of the wallet."""
    return Unreadable([f"{wallet.subject}/{wallet.credit_type}"])


def delivered(decode: Callable[[Any], Delivery]) -> Callable[[Any], Delivery]:
    """Return the decoder of deliveries, whose time is also that of a failure."""

    def decoded(row: Any) -> Delivery:
        found = decode(row)
        return found if found.state == "delivered" else replace(found, delivered_at=None)

    return decoded
