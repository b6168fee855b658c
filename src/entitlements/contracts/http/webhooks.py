"""HTTP bodies for webhooks. A secret is only in the response of the request that creates it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from entitlements.contracts.http.fields import PageLimit, Reason

OVERLAP_MAX_S: Final = 604_800

Url = Annotated[str, Meta(min_length=1, max_length=2_048)]
Patterns = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=255)], ...],
    Meta(min_length=1, max_length=50),
]
Description = Annotated[str, Meta(max_length=255)]
DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookRequest(Struct, frozen=True, kw_only=True):
    """A new webhook. ``events`` are patterns of event types, in which ``*`` matches any text.

    ``reason`` is stored in the audit log.
    """

    url: Url
    events: Patterns = ("*",)
    description: Description | None = None
    reason: Reason | None = None


class WebhookChangeRequest(Struct, frozen=True, kw_only=True):
    """A change of a webhook. Omitted fields keep their values.

    ``active`` true also clears the reason that disabled it.
    """

    url: Url | UnsetType = UNSET
    events: Patterns | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    active: bool | UnsetType = UNSET
    reason: Reason | None = None


class WebhookRotateRequest(Struct, frozen=True, kw_only=True):
    """A rotation of the secret. Earlier secrets keep signing for ``overlap_seconds``.

    With 0 they end immediately.
    """

    overlap_seconds: Annotated[int, Meta(ge=0, le=OVERLAP_MAX_S)] = 86_400
    reason: Reason | None = None


class WebhookRetryRequest(Struct, frozen=True, kw_only=True):
    reason: Reason | None = None


class WebhookDeleteQuery(Struct, frozen=True, kw_only=True):
    reason: Reason | None = None


class WebhookItem(Struct, frozen=True, kw_only=True):
    """A webhook.

    ``failing_since``: every attempt since then has failed. ``rotating_until``: when the last
    replaced secret stops signing. ``disabled_because``: ``gone`` if the endpoint answered 410.
    """

    id: str
    url: str
    events: list[str]
    description: str | None
    active: bool
    disabled_because: str | None
    failing_since: datetime | None
    rotating_until: datetime | None
    created_at: datetime
    created_by: str


class WebhookResponse(Struct, frozen=True, kw_only=True):
    webhook: WebhookItem
    correlation_id: str


class WebhookSecretResponse(Struct, frozen=True, kw_only=True):
    """A webhook with its signing secret, which is not shown again."""

    webhook: WebhookItem
    secret: str
    correlation_id: str

    def __repr__(self) -> str:
        return f"WebhookSecretResponse(webhook={self.webhook!r})"


class WebhooksResponse(Struct, frozen=True, kw_only=True):
    """Webhooks, oldest first."""

    webhooks: list[WebhookItem]
    count: int
    correlation_id: str


class WebhookTestResponse(Struct, frozen=True, kw_only=True):
    """The result of a test delivery. ``status`` is null if the endpoint sent no response."""

    delivered: bool
    status: int | None
    error: str | None
    event_id: str
    correlation_id: str


class WebhookDeliveriesQuery(Struct, frozen=True, kw_only=True):
    """Omit ``cursor`` for the first page; pass ``next_cursor`` of the response for the next."""

    state: DeliveryState | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class WebhookDeliveryItem(Struct, frozen=True, kw_only=True):
    """A delivery. While it is pending, ``next_at`` is the time of the next attempt."""

    event_id: str
    event_type: str
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class WebhookDeliveryResponse(Struct, frozen=True, kw_only=True):
    delivery: WebhookDeliveryItem
    correlation_id: str


class WebhookDeliveriesResponse(Struct, frozen=True, kw_only=True):
    """Deliveries, newest first. ``next_cursor`` is null on the last page."""

    deliveries: list[WebhookDeliveryItem]
    count: int
    next_cursor: str | None
    correlation_id: str
