"""What webhooks need from a database and from the network, stated as guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final, Literal, Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry

State = Literal["pending", "delivered", "failed"]


WAIT_MAX_S: Final = 12 * 3_600
"""Longer than any delivery waits for its next attempt."""


class Secret(Struct, frozen=True):
    """Signs until a time; none: until it is replaced."""

    text: str
    until: datetime | None = None

    def __repr__(self) -> str:
        return f"Secret(until={self.until})"


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where events go. ``events`` are patterns of event types, ``secrets`` the newest first.

    ``failing_since``: nothing has been delivered since then, though it was tried.
    """

    id: str
    url: str
    events: tuple[str, ...]
    description: str | None
    secrets: tuple[Secret, ...]
    active: bool = True
    disabled_because: str | None = None
    failing_since: datetime | None = None
    created_at: datetime
    created_by: str

    def signing(self, now: datetime) -> list[str]:
        """The secrets that sign at ``now``."""
        return [one.text for one in self.secrets if one.until is None or now < one.until]


class Delivery(Struct, frozen=True, kw_only=True):
    """One event for one endpoint. ``next_at`` is when it is tried next, while it is pending."""

    endpoint_id: str
    event_id: str
    event_type: str
    state: State
    attempts: int
    next_at: datetime
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class DeliveriesQuery(Struct, frozen=True, kw_only=True):
    """Deliveries of one endpoint; ``after``: the event a page ended with. ``limit`` 1-1000."""

    endpoint_id: str
    state: State | None = None
    limit: int = 100
    after: str | None = None


class Claim(Struct, frozen=True, kw_only=True):
    """A delivery that is ours to try until its lease is over; ``attempt`` counts from 1."""

    endpoint: Endpoint
    event_id: str
    attempt: int
    payload: str


class Attempt(Struct, frozen=True, kw_only=True):
    """What became of one. Without ``retry_in_s`` it is over: delivered, or failed for good.

    ``disable``: the endpoint wants nothing any more.
    """

    endpoint_id: str
    event_id: str
    attempt: int
    delivered: bool
    status: int | None
    error: str | None
    retry_in_s: int | None = None
    disable: bool = False


class Backlog(Struct, frozen=True, kw_only=True):
    """Deliveries that wait; of more than `COUNTED_MAX` only so many are counted. And how many
    active endpoints fail, since when the first of them does.
    """

    COUNTED_MAX: ClassVar[int] = 1_000

    pending: int = 0
    failing: int = 0
    failing_since: datetime | None = None


class WebhookStore(Protocol):
    """Endpoints, and a delivery for each event that one of them wants.

    Deliveries are born in the transaction in which the relay marks their events as published.
    """

    async def add_endpoint(self, endpoint: Endpoint, audit: AuditEntry, *, at_most: int) -> bool:
        """False: there are ``at_most`` already. Raises Conflict if there is one of that URL."""

    async def endpoints(self) -> list[Endpoint]:
        """Oldest first."""

    async def endpoint(self, endpoint_id: str) -> Endpoint | None: ...

    async def change_endpoint(
        self, endpoint_id: str, change: Callable[[Endpoint], Endpoint], audit: AuditEntry
    ) -> Endpoint | None:
        """What ``change`` makes of it, while nobody else can. None: there is none. Raises Conflict
        if there is another of that URL, and whatever ``change`` raises; then nothing is written.
        """

    async def delete_endpoint(self, endpoint_id: str, audit: AuditEntry) -> bool:
        """False: there is none. Its deliveries are never tried again."""

    async def deliveries(self, query: DeliveriesQuery) -> Page[Delivery, str]:
        """Newest first."""

    async def retry_delivery(
        self, endpoint_id: str, event_id: str, audit: AuditEntry
    ) -> Delivery | None:
        """Due now and pending again, whatever became of it before. None: there is none."""

    async def claim_deliveries(
        self, free: Mapping[str, int], free_of_others: int, *, lease_s: int
    ) -> list[Claim]:
        """Due deliveries of active endpoints, up to ``free`` of each, the longest due first.

        Nobody else gets them for ``lease_s``.
        """

    async def record_attempts(self, attempts: Sequence[Attempt], audit: AuditEntry | None) -> int:
        """How many deliveries have failed for good: those too that would be tried again after
        their last day.

        What is not of a delivery's last claim counts for nothing. ``audit`` is written if an
        endpoint was disabled.
        """

    async def tidy_deliveries(self, retention_s: int, limit: int) -> int:
        """Delete up to ``limit`` that are over for longer, or whose endpoint is gone, and let up to
        as many fail whose last day is over; answers how many it was. What would wait for longer
        than `WAIT_MAX_S`, because the clock was set back, is due at once.
        """

    async def is_wanted(self) -> bool:
        """Whether any endpoint is active."""

    async def backlog(self) -> Backlog: ...


class Answered(Struct, frozen=True):
    """The receiver's status code, and its ``Retry-After``."""

    status: int
    retry_after: str | None = None


class NotReached(Struct, frozen=True):
    """No answer, and why; the receiver may have the message all the same."""

    reason: str


class ForbiddenAddress(Exception):
    """The host is not public, so nothing may be sent there."""


class Unresolvable(Exception):
    """The host has no address."""


class Sender(Protocol):
    """Posts to public addresses; follows no redirect, and reads no body."""

    async def require_public(self, url: str) -> None:
        """Raises ForbiddenAddress, Unresolvable."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotReached:
        """Within 10 seconds."""
