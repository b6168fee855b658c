"""One log line when the database becomes unavailable, and one when it is available again."""

from time import monotonic
from typing import Final

from entitlements.app.ports import StoreUnavailable
from entitlements.app.process.log import EventLog

log = EventLog(__name__)

QUIET_S: Final = 10.0
"""An outage ends after so long without a failure: reads can succeed while writes still fail."""


class Outage:
    """Logs the begin and the end of an outage of a store, however many calls fail."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._failed_at = 0.0

    def failed(self, reason: str) -> None:
        """Log the begin of an outage unless one is known."""
        self._failed_at = monotonic()
        if self._began is None:
            self._began = self._failed_at
            log.warning("database.unavailable", reason=reason)

    def answered(self) -> None:
        """Log the end of the outage if no call has failed for `QUIET_S`."""
        if self._began is not None and monotonic() - self._failed_at >= QUIET_S:
            log.info("database.available", after_s=round(self._failed_at - self._began, 1))
            self._began = None


def postponed(log: EventLog, event: str, error: Exception) -> None:
    """Log why work will be retried. The store itself logs that it is unavailable."""
    if not isinstance(error, StoreUnavailable):
        log.warning(event, reason=str(error))
