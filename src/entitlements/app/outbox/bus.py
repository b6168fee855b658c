"""The in-process event bus: a sink that calls the handlers subscribed to an event's type."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec
from msgspec import Struct

from entitlements.app.outbox.sink import Acked, Message, NotAcked, PublishResult, Undeliverable
from entitlements.app.process.log import EventLog

log = EventLog(__name__)

ATTEMPTS_MAX: Final = 10
HANDLER_S: Final = 30.0
"""The timeout of a handler for one event."""
TURN_S: Final = 5.0
"""When a batch has taken this long, the rest of it waits for the next round."""


class BusEvent(Struct, frozen=True, kw_only=True):
    """An event as handlers see it: the envelope, and ``data`` typed by its topic."""

    event_id: str
    event_type: str
    event_timestamp: str
    source_service: str
    schema_version: int
    correlation_id: str
    data: dict[str, Any]
    metadata: dict[str, Any]


Handler = Callable[[BusEvent], Awaitable[object]]

_decode = msgspec.json.Decoder(BusEvent).decode


class Bus:
    """Acknowledges an event once every subscribed handler has returned.

    If a handler raises, the event is delivered again, and before later events of the subject. After
    ``attempts_max`` attempts it is rejected. Each attempt calls all handlers of the event again.
    """

    def __init__(self, *, attempts_max: int = ATTEMPTS_MAX, handler_s: float = HANDLER_S) -> None:
        self._attempts_max = attempts_max
        self._handler_s = handler_s
        self._handlers: list[tuple[Handler, tuple[str, ...]]] = []
        self._failures: Counter[str] = Counter()

    @property
    def has_subscribers(self) -> bool:
        return bool(self._handlers)

    def subscribe(self, handler: Handler, *event_types: str) -> Callable[[], None]:
        """Subscribe the handler to events of these types, where ``*`` matches any text; to all
        events without types. Return a function that ends the subscription.
        """
        subscription = (handler, event_types)
        self._handlers.append(subscription)

        def end() -> None:
            if subscription in self._handlers:
                self._handlers.remove(subscription)

        return end

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Deliver the messages, with the guarantees of `Sink`."""
        now = asyncio.get_running_loop().time
        turn_ends = now() + TURN_S
        results: list[PublishResult] = []
        failed: set[str] = set()
        for message in messages:
            if results and now() >= turn_ends:
                break
            if message.key in failed:
                results.append(NotAcked("an earlier event of its key failed"))
                continue
            result = await self._deliver(message)
            if isinstance(result, NotAcked):
                failed.add(message.key)
            results.append(result)
        return results

    async def _deliver(self, message: Message) -> PublishResult:
        wanted = [one for one, types in tuple(self._handlers) if _matches(message.topic, types)]
        if not wanted:
            return Acked()
        try:
            event = _decode(message.payload)
            for handler in wanted:
                async with asyncio.timeout(self._handler_s):
                    await handler(event)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return self._failed(message, error)  # an inner task of the handler was cancelled
        except Exception as error:  # noqa: BLE001 - outermost: handlers may raise anything
            return self._failed(message, error)
        self._failures.pop(message.event_id, None)
        return Acked()

    def _failed(self, message: Message, error: BaseException) -> PublishResult:
        self._failures[message.event_id] += 1
        reason = f"{type(error).__name__}: {error}"
        log.warning("bus.handler_failed", event_id=message.event_id, reason=reason)
        if self._failures[message.event_id] < self._attempts_max:
            return NotAcked(reason)
        del self._failures[message.event_id]
        return Undeliverable(reason)


def _matches(event_type: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(event_type, pattern) for pattern in patterns)
