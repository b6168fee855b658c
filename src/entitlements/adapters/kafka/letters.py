"""Publishes dead letters to their topics, unchanged, with the reason in headers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from entitlements.adapters.kafka.broker import Broker
from entitlements.app.inbox.store import DeadLetter
from entitlements.app.ports import StoreUnavailable
from entitlements.app.process.log import EventLog
from entitlements.contracts.events.topics import DLQ

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

log = EventLog(__name__)

TIMEOUT_S: Final = 10.0
REQUIRED: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "message.timeout.ms": 8_000,
    "topic.metadata.propagation.max.ms": 3_000,
}
PERMANENT_ERRORS: Final = frozenset(
    {
        "INVALID_MSG",
        "INVALID_MSG_SIZE",
        "INVALID_RECORD",
        "MSG_SIZE_TOO_LARGE",
        "TOPIC_AUTHORIZATION_FAILED",
        "TOPIC_EXCEPTION",
        "UNKNOWN_TOPIC_OR_PART",
        "_UNKNOWN_TOPIC",
    }
)
"""Errors that no retry fixes, or only after an operator's action. The letter stays in the database,
and processing continues.
"""


class KafkaDeadLetterPublisher:
    """Implements `DeadLetterPublisher`; the producer is created with the first letter."""

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._config = broker.client(client_id, defaults={}, required=REQUIRED)
        self._producer: Producer | None = None

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        await asyncio.to_thread(self._send, letters)

    def _send(self, letters: Sequence[DeadLetter]) -> None:
        from confluent_kafka import KafkaException, Producer

        if self._producer is None:
            self._producer = Producer(self._config)
        results: list[str | None] = []
        """The error of each letter by the library's name; None: it was acknowledged."""

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            results.append(error.name() if error is not None else None)

        for letter in letters:
            try:
                self._producer.produce(
                    f"{letter.topic}{DLQ}",
                    value=letter.value,
                    key=letter.key,
                    headers=headers_of(letter),
                    on_delivery=on_delivery,
                )
            except KafkaException as error:
                results.append(error.args[0].name())
            except BufferError:
                results.append("QUEUE_FULL")
        self._producer.flush(TIMEOUT_S)
        results += ["NO_ANSWER"] * (len(letters) - len(results))
        self._raise_transient({name for name in results if name is not None})

    def _raise_transient(self, reasons: set[str]) -> None:
        if permanent := reasons & PERMANENT_ERRORS:
            log.error("letter.not_on_topic", reasons=", ".join(sorted(permanent)))
        if transient := reasons - PERMANENT_ERRORS:
            self._producer = None  # it may have failed fatally
            raise StoreUnavailable(f"dead letter topic: {', '.join(sorted(transient))}")


def headers_of(letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """Return the event's own headers, then the reason and the source."""
    return [
        *letter.headers,
        ("x-dlq-reason", letter.reason.value),
        ("x-dlq-detail", letter.detail),
        ("x-dlq-topic", letter.topic),
        ("x-dlq-partition", str(letter.partition)),
        ("x-dlq-offset", str(letter.offset)),
        ("x-dlq-at", letter.died_at.isoformat()),
    ]
