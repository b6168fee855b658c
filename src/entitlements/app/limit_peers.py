"""Finds processes that count the limits of the same database apart."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from entitlements.app.log import EventLog
from entitlements.app.policies import Policies
from entitlements.app.ports import Contended, Records, Unavailable

log = EventLog(__name__)

LEASE_S: Final = 20.0
"""Longer than a few rounds that fail."""


class LimitPeers:
    """Announces this process, which counts limits in its own memory, and counts the others.

    Each of them lets a whole limit pass. A process that ends within its first round, such as a
    command of the CLI, is none.
    """

    def __init__(self, records: Records, policies: Policies, name: str) -> None:
        self._records = records
        self._policies = policies
        self._name = name
        self._is_announced = False
        self.others = 0
        """As of the last round."""

    async def look(self) -> None:
        """Raises Unavailable, Contended."""
        if not self._policies.active.limits:
            self.others = 0
            return
        self._is_announced = True
        others = await self._records.announce_limiter(self._name, LEASE_S)
        if others > self.others:
            log.warning("limits.counted_apart", others=others, detail="set REDIS_URL for all")
        self.others = others

    async def leave(self) -> None:
        """At the end. Without a database the lease runs out."""
        if self._is_announced:
            with suppress(Unavailable, Contended):
                await self._records.announce_limiter(self._name, 0)
