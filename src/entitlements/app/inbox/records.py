"""A consumed record, and its possible results."""

from __future__ import annotations

from msgspec import Struct

from entitlements.app.inbox.store import Headers, Reason
from entitlements.core.outcomes import AccountOpened, UsageIngested


class ConsumerRecord(Struct, frozen=True, gc=False, kw_only=True):
    """A consumed record, and its place in the log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name."""
        return dict(self.headers).get(name)


class DeadLettered(Struct, frozen=True, gc=False, kw_only=True):
    """The event cannot be processed, now or later. The detail quotes nothing of the event."""

    reason: Reason
    detail: str


IngestResult = UsageIngested | AccountOpened | DeadLettered
