"""The outbox port: what the relay needs from a database. Both engines implement it.

All events of a subject are in one of `BUCKETS` buckets. A relay publishes the events of the buckets
that it has leased; each lease of a bucket has a higher epoch than the one before.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

from entitlements.app.ports import Backlog, LimitEvent
from entitlements.core.model import AuditEntry, Receipt, WalletKey

BUCKETS: Final = 64
BUS: Final = "bus"
"""The in-process sink. Any other sink has precedence over it."""
NO_SINK: Final = "nobody"
"""As a sink: a relay that marks events without subscribers as published. The bus has precedence."""

Epochs = Mapping[int, int]
"""The epoch of each leased bucket."""


ReceiptOf = Callable[[int], Receipt | None]
"""Returns the receipt to store for an act, given the number of rows it changed."""


def no_receipt(_changed: int) -> None:
    """Store no receipt."""


class Event(Struct, frozen=True, gc=False, kw_only=True):
    """An event that waits to be published."""

    bucket: int
    created_at: datetime
    seq: int
    n: int
    event_id: str
    event_type: str
    key: str
    payload: str
    traceparent: str | None


class Unpublishable(Struct, frozen=True, gc=False, kw_only=True):
    """An event that can never be published, and the number of attempts."""

    event: Event
    reason: str
    attempts: int


class Leases(Struct, frozen=True, kw_only=True):
    """The leases of a relay, and the number of buckets that is its fair share."""

    epochs: dict[int, int]
    share: int


class LeaseLine(Struct, frozen=True, kw_only=True):
    """The lease of one bucket, for operators."""

    bucket: int
    holder: str | None
    epoch: int
    sink: str | None
    expires_at: datetime | None


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """A parked event, for operators."""

    wallet: WalletKey
    seq: int
    event_id: str
    event_type: str
    created_at: datetime
    parked_at: datetime
    reason: str
    attempts: int


class ParkedCursor(Struct, frozen=True):
    """The last row of a page of parked events."""

    parked_at: datetime
    event_id: str


class Outbox(Protocol):
    """Events written with their operations, until they are published and deleted.

    Marking an event as published creates the deliveries of all webhooks that subscribe to it, in
    the same transaction.

    The events of a wallet are in the order of its operations. All methods raise StoreUnavailable
    and Contended.
    """

    async def heartbeat(
        self, relay: str, *, sink: str, lease_s: float, rebalance: bool = True
    ) -> Leases:
        """Send a heartbeat and renew the relay's leases.

        With ``rebalance`` also release buckets above its fair share, and lease free ones below it.
        Relays to the in-process bus have no share if another sink was used before.
        """

    async def release_leases(self, relay: str) -> None:
        """Release all leases of the relay."""

    async def unpublished(
        self, buckets: Iterable[int], *, each: int, at_most: int, without: Sequence[str] = ()
    ) -> list[Event]:
        """Return up to ``each`` of the oldest events of each bucket in turn, without those of some
        keys: for each wallet the first waiting events, without gaps, in their order.
        """

    async def mark_published(
        self,
        relay: str,
        epochs: Epochs,
        published: Sequence[Event],
        refused: Sequence[Unpublishable],
        *,
        keep: bool,
    ) -> set[int]:
        """Mark ``published`` events as published, or delete them unless ``keep``, and park
        ``refused`` ones, but only in buckets still leased under these epochs. Return those buckets.
        """

    async def discard_unsubscribed(self, relay: str, epochs: Epochs, *, at_most: int) -> int:
        """Mark up to ``at_most`` waiting events of the buckets as published, unless a relay with
        subscribers is alive. Return how many.
        """

    async def clean(self, relay: str, epochs: Epochs, *, retention_s: float, limit: int) -> int:
        """Delete up to ``limit`` events published at least ``retention_s`` ago, if bucket 0 is
        leased under its epoch. Return how many.
        """

    async def backlog(self) -> Backlog: ...

    async def limit_events(self, limit: int) -> list[LimitEvent]:
        """Return unpublished events of exceeded and near limits, oldest first."""

    async def mark_limit_events(self, events: Sequence[LimitEvent]) -> None: ...

    async def leases(self) -> list[LeaseLine]:
        """Return the lease of every bucket, in order."""

    async def parked(self, limit: int, after: ParkedCursor | None = None) -> list[ParkedEvent]:
        """Return parked events, the longest parked first."""

    async def retry(
        self, event_id: str | None, audit: AuditEntry, receipt: ReceiptOf = no_receipt
    ) -> int:
        """Retry one parked event, or all of them; return how many. The audit entry is written if
        there are any. Raises Contended if the receipt's key already has an unexpired receipt.
        """

    async def release_sink(self, audit: AuditEntry, receipt: ReceiptOf = no_receipt) -> int:
        """Let a relay to the in-process bus publish the events of another sink's buckets. Return
        the number of buckets. Raises as `retry`.
        """


def bucket_of(subject_id: str) -> int:
    """Return the bucket of the subject's events, the same in every process and engine."""
    return zlib.crc32(subject_id.encode()) % BUCKETS


def is_outward(sink: str) -> bool:
    """Whether the sink's events leave the process."""
    return sink not in (BUS, NO_SINK)


def fair_share(sink: str, alive: Mapping[str, int]) -> int:
    """Return the number of buckets for each relay; ``alive`` counts relays by sink. The relays of
    the highest rank share the buckets equally, and those below have none.
    """
    rivals = 0
    for name, relays in alive.items():
        if _rank(name) > _rank(sink):
            return 0
        rivals += relays if _rank(name) == _rank(sink) else 0
    return -(-BUCKETS // max(1, rivals))


def _rank(sink: str) -> int:
    return 2 if is_outward(sink) else int(sink == BUS)
