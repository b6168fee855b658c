"""Records exceeded limits in the background, outside of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn

from entitlements.app.outbox.announce import Announcer, Cause
from entitlements.app.ports import LimitExceeded, LimitStore
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import every
from entitlements.core.model import Subject
from entitlements.core.windows import LimitQuery

log = EventLog(__name__)

PAUSE_S: Final = 0.5
"""The pause between two writes; events that arrive during it are written together."""
WAITING_MAX: Final = 5_000
SEEN_MAX: Final = 50_000


class LimitEvents:
    """Writes one event for each subject, metric and minute, across all processes.

    Events may be lost: if too many wait, or if the database is unavailable.
    """

    def __init__(
        self, store: LimitStore, announcer: Announcer, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._minute = 0
        self._seen: set[tuple[Subject, str]] = set()
        self._waiting: list[LimitExceeded] = []
        self._arrived = asyncio.Event()
        self.dropped = 0

    def note(self, query: LimitQuery, cause: Cause) -> None:
        """Note that the limit of ``query`` denied a request. Does not block."""
        now = self._clock()
        minute = int(now.timestamp()) // 60
        if minute != self._minute:
            self._minute = minute
            self._seen.clear()
        what = (query.window.subject, query.window.metric)
        if what in self._seen:
            return
        if len(self._waiting) >= WAITING_MAX or len(self._seen) >= SEEN_MAX:
            self.dropped += 1
            return
        self._seen.add(what)
        self._waiting.append(self._announcer.limit_exceeded(query, minute, now, cause))
        self._arrived.set()

    async def run(self) -> NoReturn:
        """Write noted events until cancelled."""
        await every(PAUSE_S, self._write_next, log, "limit_events", first_s=0)

    async def _write_next(self) -> None:
        await self._arrived.wait()
        await self.flush()

    async def flush(self) -> None:
        """Write the waiting events; drop them if that fails."""
        self._arrived.clear()
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            await self._store.add_limit_exceeded(rows)
        except Exception as error:  # noqa: BLE001 - outermost: no caller waits for these
            self.dropped += len(rows)
            with suppress(Exception):
                log.warning("limit_events.dropped", rows=len(rows), reason=str(error))
