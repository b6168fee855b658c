"""Bodies of the HTTP interface for webhooks. Secrets are only in the answers that make them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from entitlements.contracts.http import PageLimit, Reason

OVERLAP_MAX_S: Final = 604_800

Url = Annotated[str, Meta(min_length=1, max_length=2_048)]
Patterns = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=255)], ...],
    Meta(min_length=1, max_length=50),
]
Description = Annotated[str, Meta(max_length=255)]
DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookRequest(Struct, frozen=True, kw_only=True):
    """``events`` are event types, in which ``*`` stands for anything; ``reason`` stands in the
    audit log.
    """

    url: Url
    events: Patterns = ("*",)
    description: Description | None = None
    reason: Reason | None = None


class WebhookChangeRequest(Struct, frozen=True, kw_only=True):
    """What is left out stays. ``active`` true also ends what had disabled it."""

    url: Url | UnsetType = UNSET
    events: Patterns | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    active: bool | UnsetType = UNSET
    reason: Reason | None = None


class WebhookRotateRequest(Struct, frozen=True, kw_only=True):
    """For ``overlap_seconds`` the secrets before sign, too; with 0 they end at once."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=OVERLAP_MAX_S)] = 86_400
    reason: Reason | None = None


class WebhookRetryRequest(Struct, frozen=True, kw_only=True):
    reason: Reason | None = None


class WebhookDeleteQuery(Struct, frozen=True, kw_only=True):
    reason: Reason | None = None


class WebhookItem(Struct, frozen=True, kw_only=True):
    """``failing_since``: nothing was delivered since then, though it was tried. ``rotating_until``:
    when the last secret that was replaced stops to sign. ``disabled_because``: ``gone`` if it
    answered 410.
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
    """``secret`` is not shown again."""

    webhook: WebhookItem
    secret: str
    correlation_id: str

    def __repr__(self) -> str:
        return f"WebhookSecretResponse(webhook={self.webhook!r})"


class WebhooksResponse(Struct, frozen=True, kw_only=True):
    """Oldest first."""

    webhooks: list[WebhookItem]
    count: int
    correlation_id: str


class WebhookTestResponse(Struct, frozen=True, kw_only=True):
    """What became of a ping. Without an answer ``status`` is null."""

    delivered: bool
    status: int | None
    error: str | None
    event_id: str
    correlation_id: str


class WebhookDeliveriesQuery(Struct, frozen=True, kw_only=True):
    """``cursor`` is left out for the first page, and the answer's ``next_cursor`` for the next."""

    state: DeliveryState | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class WebhookDeliveryItem(Struct, frozen=True, kw_only=True):
    """``next_at``, while it is pending: when it is tried next."""

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
    """Newest first; ``next_cursor`` null: this was the last page."""

    deliveries: list[WebhookDeliveryItem]
    count: int
    next_cursor: str | None
    correlation_id: str
