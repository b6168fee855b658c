"""The webhook ports: what webhooks need from a database and from the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final, Literal, Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry

State = Literal["pending", "delivered", "failed"]


WAIT_MAX_S: Final = 12 * 3_600
"""Longer than any delivery waits for its next attempt."""
GIVE_UP_AFTER: Final = timedelta(days=3)
"""The age at which a delivery that never succeeded has failed."""
ENDPOINTS_KEPT: Final = timedelta(hours=1)
"""A transaction that saw an endpoint before it was deleted may add deliveries for this long."""


class Secret(Struct, frozen=True):
    """A secret that signs until a time; without one, until it is replaced."""

    text: str
    until: datetime | None = None

    def __repr__(self) -> str:
        return f"Secret(until={self.until})"


class Endpoint(Struct, frozen=True, kw_only=True):
    """A receiver of events. ``events`` are patterns of event types; ``secrets``, newest first.

    ``failing_since`` is set if no attempt has succeeded since then.
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
        """Return the secrets that sign at ``now``."""
        return [one.text for one in self.secrets if one.until is None or now < one.until]


class Delivery(Struct, frozen=True, kw_only=True):
    """One event for one endpoint. ``next_at`` is the time of the next attempt, while pending."""

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
    """Deliveries of an endpoint; ``after``: last event of the previous page. ``limit`` 1-1000."""

    endpoint_id: str
    state: State | None = None
    limit: int = 100
    after: str | None = None


class Claim(Struct, frozen=True, kw_only=True):
    """A delivery that this process has leased for an attempt; ``attempt`` counts from 1."""

    endpoint: Endpoint
    event_id: str
    attempt: int
    payload: str


class Attempt(Struct, frozen=True, kw_only=True):
    """The result of an attempt. Without ``retry_in_s`` it is final: delivered or failed.

    ``disable``: the endpoint asked to receive no more events.
    """

    endpoint_id: str
    event_id: str
    attempt: int
    delivered: bool
    status: int | None
    error: str | None
    retry_in_s: int | None = None
    disable: bool = False


class DeliveryBacklog(Struct, frozen=True, kw_only=True):
    """The number of waiting deliveries, counted up to `COUNTED_MAX`, the number of active endpoints
    that fail, and since when the first of them does.
    """

    COUNTED_MAX: ClassVar[int] = 1_000

    pending: int = 0
    failing: int = 0
    failing_since: datetime | None = None


class WebhookStore(Protocol):
    """Stores endpoints, and a delivery for each event and endpoint that subscribes to it.

    Deliveries are created in the transaction in which the relay marks their events as published.
    """

    async def add_endpoint(self, endpoint: Endpoint, audit: AuditEntry, *, at_most: int) -> bool:
        """Add an endpoint. Return False if ``at_most`` exist. Raises WriteRejected if its URL
        exists.
        """

    async def endpoints(self) -> list[Endpoint]:
        """Return all endpoints, oldest first."""

    async def endpoint(self, endpoint_id: str) -> Endpoint | None: ...

    async def change_endpoint(
        self, endpoint_id: str, change: Callable[[Endpoint], Endpoint], audit: AuditEntry
    ) -> Endpoint | None:
        """Apply ``change`` under a lock and return the new endpoint; None if it does not exist.
        Raises WriteRejected if another one has its URL, and any error of ``change``; then nothing
        is written.
        """

    async def delete_endpoint(self, endpoint_id: str, audit: AuditEntry) -> bool:
        """Delete an endpoint; its deliveries are not retried. Return False if it does not exist."""

    async def deliveries(self, query: DeliveriesQuery) -> Page[Delivery, str]:
        """Return deliveries, newest first."""

    async def retry_delivery(
        self, endpoint_id: str, event_id: str, audit: AuditEntry
    ) -> Delivery | None:
        """Make a delivery pending and due now, in any state. Return None if it does not exist."""

    async def claim_deliveries(
        self, free: Mapping[str, int], free_of_others: int, *, lease_s: int
    ) -> list[Claim]:
        """Lease due deliveries of active endpoints, up to ``free`` of each, longest due first.

        No other process gets them for ``lease_s``.
        """

    async def save_attempts(self, attempts: Sequence[Attempt], audit: AuditEntry | None) -> int:
        """Record attempts; return how many deliveries have failed for good, including those whose
        next attempt would be after their last day.

        Attempts that are not of a delivery's last claim are ignored. ``audit`` is written if an
        endpoint was disabled.
        """

    async def tidy_deliveries(self, retention_s: int, limit: int) -> int:
        """Delete up to ``limit`` deliveries that ended at least ``retention_s`` ago or whose
        endpoint is deleted, and fail up to as many whose last day is over; return the number.
        Deliveries that would wait for longer than `WAIT_MAX_S`, because the clock was set back,
        become due at once.
        """

    async def is_wanted(self) -> bool:
        """Return whether any endpoint is active."""

    async def backlog(self) -> DeliveryBacklog: ...


class Answered(Struct, frozen=True):
    """The receiver's status code and ``Retry-After``."""

    status: int
    retry_after: str | None = None


class NotReached(Struct, frozen=True):
    """No response, and why; the receiver may have got the message."""

    reason: str


class ForbiddenAddress(Exception):
    """The host's address is not public; nothing may be sent there."""


class Unresolvable(Exception):
    """The host has no address."""


class Sender(Protocol):
    """Posts to public addresses; follows no redirects and reads no bodies."""

    async def require_public(self, url: str) -> None:
        """Check the URL's host. Raises ForbiddenAddress, Unresolvable."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes
    ) -> Answered | NotReached:
        """Post with a timeout of 10 seconds."""
