"""Detects other processes that count the limits of the same database separately."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from entitlements.app.policy.active import Policies
from entitlements.app.ports import Contended, LimitStore, StoreUnavailable
from entitlements.app.process.log import EventLog

log = EventLog(__name__)

LEASE_S: Final = 20.0
"""Longer than a few failed rounds."""


class LimitPeers:
    """Announces this process, which counts limits in its own memory, and counts the others.

    Each such process grants the full limit. A process that ends within its first round, such as a
    CLI command, does not count.
    """

    def __init__(self, store: LimitStore, policies: Policies, name: str) -> None:
        self._store = store
        self._policies = policies
        self._name = name
        self._is_announced = False
        self.others = 0
        """As of the last round."""

    async def poll(self) -> None:
        """Announce this process and count the others. Raises StoreUnavailable, Contended."""
        if not self._policies.active.limits:
            self.others = 0
            return
        self._is_announced = True
        others = await self._store.announce_limiter(self._name, LEASE_S)
        if others > self.others:
            log.warning("limits.counted_apart", others=others, detail="set REDIS_URL for all")
        self.others = others

    async def leave(self) -> None:
        """End the announcement. Without a database its lease expires."""
        if self._is_announced:
            with suppress(StoreUnavailable, Contended):
                await self._store.announce_limiter(self._name, 0)
