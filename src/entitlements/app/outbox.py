"""What the relay needs from a database, stated as guarantees. Two engines keep them.

All events of a subject are in one of `BUCKETS` buckets. A relay ships those of the buckets that it
holds leases of; each lease that is given has a higher epoch than the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

from entitlements.app.ports import LimitExceeded
from entitlements.core.model import AuditEntry, Receipt, WalletKey

BUCKETS: Final = 64
BUS: Final = "bus"
"""The sink that is in the process itself; it gives way to any other."""
NOBODY: Final = "nobody"
"""As a sink: who passes events over that nobody wants. It gives way even to the bus."""

Epochs = Mapping[int, int]
"""The epoch of each bucket of which a lease is held."""


ReceiptOf = Callable[[int], Receipt | None]
"""Returns what to keep of an act that changed so much."""


def no_receipt(_changed: int) -> None:
    """Return nothing to keep."""


class Event(Struct, frozen=True, gc=False, kw_only=True):
    """An event that waits to be shipped."""

    bucket: int
    created_at: datetime
    seq: int
    n: int
    event_id: str
    event_type: str
    key: str
    payload: str
    traceparent: str | None


class Refusal(Struct, frozen=True, gc=False, kw_only=True):
    """An event that can never be shipped, and how often it was tried."""

    event: Event
    reason: str
    attempts: int


class Leases(Struct, frozen=True, kw_only=True):
    """What a relay holds, and how much of it would be its fair share."""

    epochs: dict[int, int]
    share: int


class LeaseLine(Struct, frozen=True, kw_only=True):
    """One bucket, for operators."""

    bucket: int
    holder: str | None
    epoch: int
    sink: str | None
    expires_at: datetime | None


class ParkedEvent(Struct, frozen=True, kw_only=True):
    """An event that was set aside, for operators."""

    wallet: WalletKey
    seq: int
    event_id: str
    event_type: str
    created_at: datetime
    parked_at: datetime
    reason: str
    attempts: int


class ParkedCursor(Struct, frozen=True):
    """Where a page of parked events ended."""

    parked_at: datetime
    event_id: str


class Outbox(Protocol):
    """Events that were born with their operations, until they are shipped and forgotten.

    Whatever is marked as shipped becomes a delivery of each webhook that wants it, in the same
    transaction.

    Of each wallet they are in the order of its operations. All raise Unavailable and Contended.
    """

    async def tend(self, relay: str, *, sink: str, lease_s: float, settle: bool = True) -> Leases:
        """Say that the relay is alive and renew its leases; with ``settle`` also give back what is
        above its fair share, and take what is free below it.

        Relays into a process's own bus have no share where another sink was used before.
        """

    async def leave(self, relay: str) -> None:
        """Give everything back."""

    async def waiting(
        self, buckets: Iterable[int], *, each: int, at_most: int, without: Sequence[str] = ()
    ) -> list[Event]:
        """Up to ``each`` of the oldest of every bucket in turn, but for those of some keys: of each
        wallet the first that wait, without gaps, in their order.
        """

    async def settle(
        self,
        relay: str,
        epochs: Epochs,
        published: Sequence[Event],
        refused: Sequence[Refusal],
        *,
        keep: bool,
    ) -> set[int]:
        """Mark what was shipped, or delete it unless it is to ``keep``, and park what was refused:
        in the buckets alone whose leases are still held under these epochs, which are answered.
        """

    async def pass_over(self, relay: str, epochs: Epochs, *, at_most: int) -> int:
        """Mark as shipped some of what waits in the buckets, unless a relay is alive that ships to
        somebody. Answers how many.
        """

    async def clean(self, relay: str, epochs: Epochs, *, retention_s: float, limit: int) -> int:
        """Delete up to ``limit`` events that were shipped so long ago, if the lease of bucket 0 is
        held; answers how many.
        """

    async def limit_events(self, limit: int) -> list[LimitExceeded]:
        """Limits that were exceeded and not told of, oldest first."""

    async def limit_events_told(self, events: Sequence[LimitExceeded]) -> None: ...

    async def leases(self) -> list[LeaseLine]:
        """Every bucket, in order."""

    async def parked(self, limit: int, after: ParkedCursor | None = None) -> list[ParkedEvent]:
        """What was set aside, the longest ago first."""

    async def retry(
        self, event_id: str | None, audit: AuditEntry, receipt: ReceiptOf = no_receipt
    ) -> int:
        """Let a parked event, or all of them, be tried again; answers how many. The entry is
        written if there were any. Raises Contended if the key of the receipt has one that has not
        expired.
        """

    async def hand_over(self, audit: AuditEntry, receipt: ReceiptOf = no_receipt) -> int:
        """Let a relay into the process's own bus ship what another sink had; answers of how many
        buckets. Raises as `retry` does.
        """


def is_outward(sink: str) -> bool:
    """Whether its events leave the process."""
    return sink not in (BUS, NOBODY)


def fair_share(sink: str, alive: Mapping[str, int]) -> int:
    """Buckets for each relay, of those alive by their sinks: all of one rank share alike, and those
    below have none.
    """
    rivals = 0
    for name, relays in alive.items():
        if _rank(name) > _rank(sink):
            return 0
        rivals += relays if _rank(name) == _rank(sink) else 0
    return -(-BUCKETS // max(1, rivals))


def _rank(sink: str) -> int:
    return 2 if is_outward(sink) else int(sink == BUS)
