"""One log line when the database becomes unavailable, and one when it is available again."""

from time import monotonic
from typing import Final

from entitlements.app.log import EventLog
from entitlements.app.ports import Unavailable

log = EventLog(__name__)

QUIET_S: Final = 10.0
"""After so long without a failure an outage is over: reads may pass while writes fail."""


class Outage:
    """What a store's calls came to. However many fail in one outage, two lines tell of it."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._failed_at = 0.0

    def failed(self, reason: str) -> None:
        """A call failed, and later ones may for the same reason."""
        self._failed_at = monotonic()
        if self._began is None:
            self._began = self._failed_at
            log.warning("database.unavailable", reason=reason)

    def answered(self) -> None:
        """A call was answered."""
        if self._began is not None and monotonic() - self._failed_at >= QUIET_S:
            log.info("database.available", after_s=round(self._failed_at - self._began, 1))
            self._began = None


def postponed(log: EventLog, event: str, error: Exception) -> None:
    """Log why work will be tried again. That the database is unavailable was told by the store."""
    if not isinstance(error, Unavailable):
        log.warning(event, reason=str(error))
