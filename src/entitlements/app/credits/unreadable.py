"""Wallets and holds that this process could not read, for operators."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from entitlements.app.ports import Unreadable
from entitlements.app.process.log import EventLog

log = EventLog(__name__)

REMEMBERED_S = 600.0
LOGGED_EVERY_S = 60.0


class UnreadableLog:
    """Logs each unreadable name at most once a minute, and counts the names of ten minutes."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._logged: dict[str, float] = {}

    def note(self, error: Unreadable) -> None:
        now = self._clock()
        for name in error.names:
            self._seen[name] = now
            if now - self._logged.get(name, -LOGGED_EVERY_S) >= LOGGED_EVERY_S:
                self._logged[name] = now
                log.error("records.unreadable", name=name, reason=repr(error.__cause__))

    @property
    def count(self) -> int:
        """The number of names in the last ten minutes."""
        since = self._clock() - REMEMBERED_S
        self._seen = {name: at for name, at in self._seen.items() if at > since}
        self._logged = {name: at for name, at in self._logged.items() if name in self._seen}
        return len(self._seen)
