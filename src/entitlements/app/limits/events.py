"""Records exceeded and near limits in the background, outside of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn, TypeVar

from entitlements.app.outbox.announce import Announcer
from entitlements.app.ports import LimitExceeded, LimitNear, LimitStore
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import every
from entitlements.core.model import Subject
from entitlements.core.windows import Cause, LimitQuery, Use, WindowKey

log = EventLog(__name__)

PAUSE_S: Final = 0.5
"""The pause between two writes; events that arrive during it are written together."""
WAITING_MAX: Final = 5_000
SEEN_MAX: Final = 50_000

_Event = TypeVar("_Event", LimitExceeded, LimitNear)


class LimitEvents:
    """Writes an event for each subject, metric and minute in which a limit denied a request, and
    for each window that is near its limit, once in the window's time. The store ensures that for
    all processes; each sends it at most one a minute.

    Events may be lost: if too many wait, or if the database is unavailable. A window that is still
    near its limit in a later minute is noted again.
    """

    def __init__(
        self, store: LimitStore, announcer: Announcer, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._minute = 0
        self._seen: set[tuple[Subject, str] | WindowKey] = set()
        """The metrics of exceeded limits, and the near windows, that were noted in this minute."""
        self._exceeded: list[LimitExceeded] = []
        self._near: list[LimitNear] = []
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()
        self.dropped = 0

    def note(self, query: LimitQuery, cause: Cause) -> None:
        """Note that the limit of ``query`` denied a request. Does not block."""
        now = self._clock()
        if self._is_new((query.window.subject, query.window.metric), now):
            self._exceeded.append(self._announcer.limit_exceeded(query, self._minute, now, cause))
            self._arrived.set()

    def note_near(self, use: Use, used: int) -> None:
        """Note that the window of ``use`` has ``used`` units now. Does not block."""
        if use.warn is None or used < use.warn.units:
            return
        now = self._clock()
        if self._is_new(use.window, now):
            self._near.append(self._announcer.limit_near(use.window, used, use.warn, now))
            self._arrived.set()

    def _is_new(self, what: tuple[Subject, str] | WindowKey, now: datetime) -> bool:
        """Whether this is the first note of its kind in this minute; not if too many wait."""
        minute = int(now.timestamp()) // 60
        if minute != self._minute:
            self._minute = minute
            self._seen.clear()
        if what in self._seen:
            return False
        waiting = len(self._exceeded) + len(self._near)
        if waiting >= WAITING_MAX or len(self._seen) >= SEEN_MAX:
            self.dropped += 1
            return False
        self._seen.add(what)
        return True

    async def run(self) -> NoReturn:
        """Write noted events until cancelled."""
        await every(PAUSE_S, self._write_next, log, "limit_events", first_s=0)

    async def _write_next(self) -> None:
        await self._arrived.wait()
        await self.flush()

    async def flush(self) -> None:
        """Write the waiting events, after those that are being written; drop them if that fails."""
        async with self._writing:
            self._arrived.clear()
            await self._write(self._store.add_limit_exceeded, self._exceeded)
            await self._write(self._store.add_limit_near, self._near)

    async def _write(
        self, add: Callable[[Sequence[_Event]], Awaitable[None]], waiting: list[_Event]
    ) -> None:
        """Write the events and remove them, if not cancelled: then they are written again."""
        events = waiting[:]
        if not events:
            return
        try:
            await add(events)
        except Exception as error:  # noqa: BLE001 - outermost: no caller waits for these
            self.dropped += len(events)
            with suppress(Exception):
                log.warning("limit_events.dropped", rows=len(events), reason=str(error))
        del waiting[: len(events)]
