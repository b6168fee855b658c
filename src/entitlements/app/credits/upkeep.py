"""Background work: due effects of wallets, and debts that can be priced by now."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

from entitlements.app.credits.batch import DeadlineExceeded
from entitlements.app.credits.committer import Overloaded
from entitlements.app.policy.active import PolicyUnusable
from entitlements.app.ports import Contended, StoreUnavailable, Unreadable
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.log import EventLog
from entitlements.core.model import WalletKey

log = EventLog(__name__)

READ_AT_ONCE: Final = 512
BITE_MIN: Final = 32
"""Takes less than 10 ms of computing. A chunk of 8 costs twice as much per wallet, and would not
grow on a slow disk, where every commit takes longer than `BITE_S`.
"""
BITE_MAX: Final = 128
BITE_S: Final = 0.01
"""The target duration of a chunk, which can delay requests by about as much."""
PAUSE_MAX_S: Final = 0.05
RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 600.0


class NotPriced(Exception):
    """Work that was filed without a price still cannot be charged."""


EXPECTED: Final = (Contended, NotPriced, Overloaded, PolicyUnusable, StoreUnavailable, Unreadable)
"""Logged without a traceback."""
WHOLE: Final = (Overloaded, PolicyUnusable, StoreUnavailable)
"""Failures that affect all items alike. DeadlineExceeded is excepted: it can affect one alone."""


K = TypeVar("K", bound=Hashable)


class Find(Protocol[K]):
    """Finds up to ``limit`` items to work on, oldest first."""

    async def __call__(self, limit: int, *, without: Collection[K] = ()) -> list[K]: ...


class _Retry(Struct):
    tries: int
    at: float


class Upkeep(Generic[K]):
    """Works on the items it finds, in chunks with pauses for requests. Failed items are skipped
    until their retry, with exponential backoff, and do not delay others.
    """

    def __init__(
        self,
        find: Find[K],
        apply: Callable[[K], Awaitable[object]],
        clock: Callable[[], float],
        name: Callable[[K], str],
    ) -> None:
        self._find = find
        self._apply = apply
        self._clock = clock
        self._name = name
        self._retries: dict[K, _Retry] = {}
        self._size = BITE_MIN

    async def catch_up(self) -> None:
        """Work until only failed items are left. Raises StoreUnavailable, Overloaded or
        PolicyUnusable if all items would fail.
        """
        while due := await self._find(READ_AT_ONCE, without=self._passed_over()):
            # Shuffled, so that processes share the work without coordination.
            random.shuffle(due)
            while due:
                bite, due = due[: self._size], due[self._size :]
                await self._take(bite)

    def _passed_over(self) -> list[K]:
        now = self._clock()
        return [key for key, retry in self._retries.items() if retry.at > now]

    async def _take(self, bite: Sequence[K]) -> None:
        started = self._clock()
        results = await asyncio.gather(*map(self._apply, bite), return_exceptions=True)
        took = max(self._clock() - started, 0.001)
        failed: list[tuple[str, BaseException]] = []
        for key, result in zip(bite, results, strict=True):
            if isinstance(result, BaseException):
                self._postpone(key)
                failed.append((self._name(key), result))
            else:
                self._retries.pop(key, None)
        _report(failed)
        for result in results:
            if isinstance(result, WHOLE) and not isinstance(result, DeadlineExceeded):
                raise result
        fitting = round(self._size * BITE_S / took)
        self._size = max(BITE_MIN, min(fitting, 2 * self._size, BITE_MAX))
        await asyncio.sleep(min(took, PAUSE_MAX_S))

    def _postpone(self, key: K) -> None:
        retry = self._retries.setdefault(key, _Retry(0, 0.0))
        retry.tries += 1
        wait_s = backoff_s(retry.tries, first_s=RETRY_FIRST_S, most_s=RETRY_MAX_S)
        retry.at = self._clock() + wait_s


def wallet_name(key: WalletKey) -> str:
    return f"{key.subject}/{key.credit_type}"


def _report(failed: Sequence[tuple[str, BaseException]]) -> None:
    """Log the failed items of a chunk, with one traceback if any failure is unexpected."""
    if not failed:
        return
    names = [name for name, _ in failed]
    unexpected = next((one for _, one in failed if not isinstance(one, EXPECTED)), None)
    if unexpected is None:
        log.warning("upkeep.items_postponed", items=names, reason=str(failed[0][1]))
    else:
        log.error("upkeep.items_failed", items=names, exc_info=unexpected)
