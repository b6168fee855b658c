"""Puts on record what came due in wallets that no request touches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Protocol

from msgspec import Struct

from entitlements.app.committer import DeadlineExceeded, Overloaded
from entitlements.app.log import EventLog
from entitlements.app.policies import PolicyUnusable
from entitlements.app.ports import Contended, Unavailable, Unreadable
from entitlements.core.model import WalletKey

log = EventLog(__name__)

READ_AT_ONCE: Final = 512
WALLETS_MIN: Final = 8
WALLETS_MAX: Final = 128
BITE_S: Final = 0.01
"""How long a bite may take: about as long as it delays a request that meets it."""
PAUSE_MAX_S: Final = 0.05
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 600.0
EXPECTED: Final = (Contended, Overloaded, PolicyUnusable, Unavailable, Unreadable)
"""Logged without a traceback."""
WHOLE: Final = (Overloaded, PolicyUnusable, Unavailable)
"""Failures that the next wallet would meet as well; a deadline may be missed by one alone."""


class Records(Protocol):
    """Knows which wallets are due."""

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        """The longest due first."""


class _Retry(Struct):
    tries: int
    at: float


class DueWallets:
    """Applies what is due, in bites between which requests have their turn. A wallet that fails is
    passed over until its time to be retried, ever later, and keeps no other waiting.
    """

    def __init__(
        self,
        records: Records,
        apply: Callable[[WalletKey], Awaitable[object]],
        clock: Callable[[], float],
    ) -> None:
        self._records = records
        self._apply = apply
        self._clock = clock
        self._retries: dict[WalletKey, _Retry] = {}
        self._wallets = WALLETS_MIN

    async def catch_up(self) -> None:
        """Work until nothing is due but what failed. Raises Unavailable and the like where all
        would fail.
        """
        while due := await self._records.due_wallets(READ_AT_ONCE, without=self._passed_over()):
            # Each process in an order of its own: they share the work without knowing each other.
            random.shuffle(due)
            while due:
                bite, due = due[: self._wallets], due[self._wallets :]
                await self._take(bite)

    def _passed_over(self) -> list[WalletKey]:
        now = self._clock()
        return [key for key, retry in self._retries.items() if retry.at > now]

    async def _take(self, bite: Sequence[WalletKey]) -> None:
        started = self._clock()
        results = await asyncio.gather(*map(self._apply, bite), return_exceptions=True)
        took = max(self._clock() - started, 0.001)
        failed: list[tuple[WalletKey, BaseException]] = []
        for key, result in zip(bite, results, strict=True):
            if isinstance(result, BaseException):
                self._postpone(key)
                failed.append((key, result))
            else:
                self._retries.pop(key, None)
        _report(failed)
        for result in results:
            if isinstance(result, WHOLE) and not isinstance(result, DeadlineExceeded):
                raise result
        fitting = round(self._wallets * BITE_S / took)
        self._wallets = max(WALLETS_MIN, min(fitting, 2 * self._wallets, WALLETS_MAX))
        await asyncio.sleep(min(took, PAUSE_MAX_S))

    def _postpone(self, key: WalletKey) -> None:
        retry = self._retries.setdefault(key, _Retry(0, 0.0))
        wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(retry.tries, 30))
        retry.tries += 1
        retry.at = self._clock() + wait_s


def _report(failed: Sequence[tuple[WalletKey, BaseException]]) -> None:
    """Log the wallets of a bite that failed, with one traceback if any failure is unexpected."""
    if not failed:
        return
    wallets = [f"{key.subject}/{key.credit_type}" for key, _ in failed]
    unexpected = next((one for _, one in failed if not isinstance(one, EXPECTED)), None)
    if unexpected is None:
        log.warning("upkeep.wallets_postponed", wallets=wallets, reason=str(failed[0][1]))
    else:
        log.error("upkeep.wallets_failed", wallets=wallets, exc_info=unexpected)
