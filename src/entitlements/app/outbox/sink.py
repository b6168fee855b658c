"""The sink port: where the relay publishes events. The relay handles order and retries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """An event to publish. ``headers`` are those of the topic's records, ``payload`` is JSON."""

    event_id: str
    topic: str
    key: str
    payload: str
    headers: dict[str, str]


class Acked(Struct, frozen=True, gc=False):
    """The receiver has acknowledged the event."""


class NotAcked(Struct, frozen=True, gc=False):
    """The event was perhaps not delivered; a retry may succeed."""

    reason: str


class Undeliverable(Struct, frozen=True, gc=False):
    """The event can never be delivered; a retry is pointless."""

    reason: str


PublishResult = Acked | NotAcked | Undeliverable


class Sink(Protocol):
    """Publishes events at least once."""

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Publish the messages in order. Return a result for each, or only for the first ones (at
        least one) if these take all the time.

        Messages of a key are delivered in the given order; after one fails, no later one of its key
        counts as delivered. Returns within a bounded time, even if the receiver is unreachable.
        """
