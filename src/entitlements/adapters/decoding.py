"""Errors for rows that this program cannot decode."""

from typing import Final

import msgspec

from entitlements.app.ports import Unreadable
from entitlements.core.model import WalletKey

UNDECODABLE: Final = (KeyError, ValueError, msgspec.MsgspecError)
"""The exceptions that decoding a row with unknown values raises."""


def unreadable(wallet: WalletKey) -> Unreadable:
    """Return the error for an undecodable row of the wallet."""
    return Unreadable([f"{wallet.subject}/{wallet.credit_type}"])
