"""Rows that this program does not understand."""

from typing import Final

import msgspec

from entitlements.app.ports import Unreadable
from entitlements.core.model import WalletKey

UNDECODABLE: Final = (KeyError, ValueError, msgspec.MsgspecError)
"""What decoding a row raises where its values are unknown."""


def unreadable(wallet: WalletKey) -> Unreadable:
    """For a row of the wallet that could not be decoded."""
    return Unreadable([f"{wallet.subject}/{wallet.credit_type}"])
