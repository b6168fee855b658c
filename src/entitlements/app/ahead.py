"""Wallets whose last change is of a time that the database's clock has not reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from entitlements.app.log import EventLog
from entitlements.core.ledger.book import Book
from entitlements.core.model import WalletKey

log = EventLog(__name__)

TOLERATED: Final = timedelta(minutes=1)
"""Clocks of a primary and its standby may differ so much."""
REMEMBERED_MAX: Final = 10_000


def ahead_in(book: Book) -> dict[WalletKey, datetime]:
    """The wallets of a loaded book that are ahead of its clock, with their last change."""
    latest = book.now + TOLERATED
    return {key: one.updated_at for key, one in book.wallets.items() if one.updated_at > latest}


class AheadLog:
    """Remembers those that commands have met, until the clock has reached them, and logs each once.

    The clock was set forward and back. In such a wallet time stands still meanwhile: nothing in it
    starts, expires or lapses.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._wallets: dict[WalletKey, datetime] = {}

    def note(self, found: Mapping[WalletKey, datetime]) -> None:
        for key, updated_at in found.items():
            if key not in self._wallets and len(self._wallets) < REMEMBERED_MAX:
                wallet = f"{key.subject}/{key.credit_type}"
                log.error("wallet.ahead_of_clock", wallet=wallet, updated_at=updated_at.isoformat())
                self._wallets[key] = updated_at

    @property
    def count(self) -> int:
        """How many are still ahead."""
        latest = self._clock() + TOLERATED
        self._wallets = {key: at for key, at in self._wallets.items() if at > latest}
        return len(self._wallets)
