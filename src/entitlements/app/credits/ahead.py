"""Wallets whose last change is later than the database's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from entitlements.app.process.log import EventLog
from entitlements.core.ledger.book import Book
from entitlements.core.model import WalletKey

log = EventLog(__name__)

TOLERATED: Final = timedelta(minutes=1)
"""The clocks of a primary and its standby may differ by this much."""
REMEMBERED_MAX: Final = 10_000


def ahead_in(book: Book) -> dict[WalletKey, datetime]:
    """Return the wallets of a loaded book that are ahead of its clock, with their last change."""
    latest = book.now + TOLERATED
    return {key: one.updated_at for key, one in book.wallets.items() if one.updated_at > latest}


class AheadLog:
    """Logs each wallet that is ahead of the clock once, until the clock has caught up.

    A wallet gets ahead if the database's clock was set forward and back. Until the clock catches
    up, no grant in the wallet starts or expires and no hold lapses.
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
        """The number of wallets that are still ahead."""
        latest = self._clock() + TOLERATED
        self._wallets = {key: at for key, at in self._wallets.items() if at > latest}
        return len(self._wallets)
