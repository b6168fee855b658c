"""Periodically verifies the ledger's invariants in the background."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from entitlements.app.ports import SchemaMismatch, StoreUnavailable
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import background, every
from entitlements.app.verify.findings import Finding

log = EventLog(__name__)

FIRST_S: Final = 60.0
"""The first verification starts at most this long after the process."""
LOGGED_MAX: Final = 20

Verify = Callable[[], Awaitable[list[Finding]]]


class Verifier:
    """The result of the last verification. ``violations`` counts violations by invariant, with all
    invariants; None until the first verification has ended.
    """

    def __init__(
        self, verify: Verify, invariants: Iterable[str], clock: Callable[[], datetime]
    ) -> None:
        self._verify = verify
        self._invariants = tuple(invariants)
        self._clock = clock
        self.violations: Mapping[str, int] | None = None
        self.verified_at: datetime | None = None

    @asynccontextmanager
    async def running(self, every_s: float) -> AsyncIterator[None]:
        """Verify every ``every_s`` seconds; 0 disables it."""
        if not every_s:
            yield
            return
        first_s = min(FIRST_S, every_s)
        async with background(every(every_s, self._round, log, "verification", first_s=first_s)):
            yield

    async def verify(self) -> None:
        """Verify once. Raises StoreUnavailable, SchemaMismatch."""
        findings = await self._verify()
        found = Counter(finding.invariant for finding in findings)
        self.violations = {name: found[name] for name in self._invariants}
        self.verified_at = self._clock()
        for finding in findings[:LOGGED_MAX]:
            log.error("books.violated", detail=str(finding))

    async def _round(self) -> None:
        """Verify once; a failure is always logged, as it has a connection of its own."""
        try:
            await self.verify()
        except (StoreUnavailable, SchemaMismatch) as error:
            log.warning("verification.failed", reason=str(error))
