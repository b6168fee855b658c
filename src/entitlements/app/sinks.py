"""Where events go that the relay ships. The relay keeps their order and tries again; a sink only
carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Message(Struct, frozen=True, gc=False, kw_only=True):
    """One event on its way. ``headers`` are those of the topic's records, ``payload`` is JSON."""

    event_id: str
    topic: str
    key: str
    payload: str
    headers: dict[str, str]


class Taken(Struct, frozen=True, gc=False):
    """It is safe with whoever keeps it now."""


class Failed(Struct, frozen=True, gc=False):
    """It may pass later, and may have passed already."""

    reason: str


class Refused(Struct, frozen=True, gc=False):
    """It can never be sent, however often it is tried."""

    reason: str


Fate = Taken | Failed | Refused


class Sink(Protocol):
    """Takes events at least once."""

    async def publish(self, messages: Sequence[Message]) -> list[Fate]:
        """What became of each message, in their order; of the first ones alone, one at least, where
        those take up its time.

        Messages of one key are taken in the order given, and none is after one of its key that
        failed. Answers within a bounded time, also where nobody can be reached.
        """
