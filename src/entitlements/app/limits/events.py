"""Records exceeded and near limits in the background, outside of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
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

_Written = TypeVar("_Written")


class LimitEvents:
    """Writes an event for each subject, metric and minute in which a limit denied a request, and
    for each window that is near its limit, once in the window's time, across all processes.

    Events may be lost: if too many wait, or if the database is unavailable. A window that is still
    near its limit after that is noted again with its next use.
    """

    def __init__(
        self, store: LimitStore, announcer: Announcer, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._clock = clock
        self._minute = 0
        self._seen: set[tuple[Subject, str]] = set()
        self._again_at: dict[WindowKey, datetime] = {}
        """When the next event of a near window may come, as the store says."""
        self._exceeded: list[LimitExceeded] = []
        self._near: dict[WindowKey, LimitNear] = {}
        self._arrived = asyncio.Event()
        self._writing = asyncio.Lock()
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
        if self._has_too_many or len(self._seen) >= SEEN_MAX:
            self.dropped += 1
            return
        self._seen.add(what)
        self._exceeded.append(self._announcer.limit_exceeded(query, minute, now, cause))
        self._arrived.set()

    def note_near(self, use: Use, used: int) -> None:
        """Note that the window of ``use`` has ``used`` units now. Does not block."""
        if use.warn is None or used < use.warn.units or use.window in self._near:
            return
        now = self._clock()
        again_at = self._again_at.get(use.window)
        if again_at is not None and now < again_at:
            return
        if self._has_too_many:
            self.dropped += 1
            return
        self._near[use.window] = self._announcer.limit_near(use.window, used, use.warn, now)
        self._arrived.set()

    @property
    def _has_too_many(self) -> bool:
        return len(self._exceeded) + len(self._near) >= WAITING_MAX

    async def run(self) -> NoReturn:
        """Write noted events until cancelled."""
        await every(PAUSE_S, self._write_next, log, "limit_events", first_s=0)

    async def _write_next(self) -> None:
        await self._arrived.wait()
        await self.flush()

    async def flush(self) -> None:
        """Write the waiting events, after those that are being written; drop them if that fails.
        If it is cancelled, the next flush writes them again.
        """
        async with self._writing:
            self._arrived.clear()
            if exceeded := self._exceeded[:]:
                await self._write(self._store.add_limit_exceeded(exceeded), len(exceeded))
                del self._exceeded[: len(exceeded)]
            if near := list(self._near.values()):
                self._remember(await self._write(self._store.add_limit_near(near), len(near)) or {})
                for event in near:
                    del self._near[event.window]

    async def _write(self, writing: Awaitable[_Written], events: int) -> _Written | None:
        try:
            return await writing
        except Exception as error:  # noqa: BLE001 - outermost: no caller waits for these
            self.dropped += events
            with suppress(Exception):
                log.warning("limit_events.dropped", rows=events, reason=str(error))
            return None

    def _remember(self, again_at: Mapping[WindowKey, datetime]) -> None:
        if len(self._again_at) + len(again_at) > SEEN_MAX:
            self._again_at.clear()  # the store knows them
        self._again_at |= again_at
