"""The Kafka sink: acknowledged by all in-sync replicas, in order per key, with a timeout."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from entitlements.adapters.kafka.broker import Broker, options_error
from entitlements.app.outbox.sink import Acked, Message, NotAcked, PublishResult, Undeliverable
from entitlements.app.process.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

log = EventLog(__name__)

PUBLISH_TIMEOUT_S: Final = 10.0
"""The timeout of a call; well below a relay's lease, so that no other relay sends its events."""

DOWN_TIMEOUT_S: Final = 3.0
"""The timeout if no broker is reachable: then no sent record can still arrive."""

CLOSE_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.1
ENQUEUED_AT_ONCE: Final = 100
"""Messages enqueued before other tasks of the event loop get a turn."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "linger.ms": 1,
    "partitioner": "murmur2_random",  # as Java's clients choose partitions
    "retry.backoff.ms": 20,
    "socket.keepalive.enable": True,
    "topic.metadata.propagation.max.ms": 1_000,
}
REQUIRED: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    # After one record's timeout, later ones would still be sent, out of order. `publish` has a
    # timeout for all of them, after which the producer is replaced.
    "message.timeout.ms": 0,
}
PERMANENT_ERRORS: Final = frozenset(
    {
        "INVALID_MSG",
        "INVALID_MSG_SIZE",
        "INVALID_RECORD",
        "INVALID_TIMESTAMP",
        "MSG_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
        "TOPIC_EXCEPTION",
    }
)
"""Permanent errors. Missing topics and rights are not among them: operators fix those."""

TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
"""Names that a broker accepts. The library accepts some others, but publishing to them
always fails."""

ACKED: Final = Acked()
TIMED_OUT: Final = NotAcked("not acknowledged in time")
REPLACED: Final = NotAcked("the producer was replaced")
BEHIND: Final = NotAcked("an earlier record of its key failed")


class KafkaSink:
    """Implements `app.sinks.Sink`, also for concurrent calls."""

    def __init__(
        self, broker: Broker, client_id: str, *, timeout_s: float = PUBLISH_TIMEOUT_S
    ) -> None:
        self._config = broker.client(client_id, defaults=DEFAULTS, required=REQUIRED)
        self._timeout_s = timeout_s
        self._session: ProducerSession | None = None

    async def __aenter__(self) -> Self:
        """Create a producer. Raises OptionsUnusable; does not check that a broker is reachable."""
        self._current()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        session = self._current()
        results = await _send(session, messages, deadline)
        if session.is_retired:
            self._replace(session)
        await self._resend_alone(messages, results, deadline)
        return _in_key_order(messages, results)

    async def close(self) -> None:
        """Wait a few seconds for records in flight; then fail the remaining calls."""
        session, self._session = self._session, None
        if session is not None:
            await session.close(CLOSE_TIMEOUT_S)

    def _current(self) -> ProducerSession:
        if self._session is None or self._session.is_retired:
            self._session = ProducerSession(self._config)
        return self._session

    def _replace(self, session: ProducerSession) -> None:
        if self._session is session:
            self._session = None
            log.info("producer.replaced", reason=session.fatal or TIMED_OUT.reason)

    async def _resend_alone(
        self, messages: Sequence[Message], results: list[Result], deadline: float
    ) -> None:
        """Send records again, each in its own batch: a broker rejects a batch as a whole."""
        session: ProducerSession | None = None
        for slot in _in_rejected_batches(messages, results):
            if session is None or session.is_retired:  # an error ends its producer
                session = ProducerSession(self._config)
            (results[slot],) = await _send(session, [messages[slot]], deadline, alone=True)
            if isinstance(results[slot], NotAcked):
                break
        if session is not None:
            session.retire()


async def _send(
    session: ProducerSession, messages: Sequence[Message], deadline: float, *, alone: bool = False
) -> list[Result]:
    """Return the broker's result for each message. After a timeout the line is retired: a producer
    that gave up on a record must not send later ones.
    """
    pending = PendingAcks(len(messages))
    failed: set[str] = set()
    try:
        async with asyncio.timeout_at(deadline):
            for slot, message in enumerate(messages):
                if slot % ENQUEUED_AT_ONCE == ENQUEUED_AT_ONCE - 1:
                    await asyncio.sleep(0)
                if message.key in failed:
                    pending.resolve(slot, BEHIND)
                    continue
                result = await session.enqueue(message, Slot(pending, slot, alone))
                if result is not None:
                    pending.resolve(slot, result)
                if isinstance(result, NotAcked):
                    failed.add(message.key)
            await session.wait_acked(pending)
    except TimeoutError:
        session.retire()
        pending.resolve_rest(TIMED_OUT)
    finally:
        session.forget(pending)
    return pending.results()


class BatchRejected(NotAcked, frozen=True, gc=False):
    """The batch was rejected because of this record or another one in it."""


Result = PublishResult | BatchRejected


class PendingAcks:
    """The pending results of one call; used by the event loop only."""

    def __init__(self, count: int) -> None:
        self._results: list[Result | None] = [None] * count
        self._missing = count
        self.all_resolved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count == 0:
            self.all_resolved.set_result(None)

    def resolve(self, slot: int, result: Result) -> None:
        """Store a result, unless there is one already."""
        if self._results[slot] is not None:
            return
        self._results[slot] = result
        self._missing -= 1
        if self._missing == 0 and not self.all_resolved.done():
            self.all_resolved.set_result(None)

    def resolve_rest(self, result: Result) -> None:
        for slot in range(len(self._results)):
            self.resolve(slot, result)

    def results(self) -> list[Result]:
        return [result for result in self._results if result is not None]


class Slot(NamedTuple):
    """The position of a result; ``alone`` if no other record can have been in its batch."""

    pending: PendingAcks
    number: int
    alone: bool


class ProducerSession:
    """A producer, and the thread that receives the delivery reports."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from confluent_kafka import KafkaException, Producer

        self._log_error: Callable[[KafkaError], None] = config["error_cb"]
        self.is_down = False
        try:
            producer = Producer({**config, "error_cb": self._on_error})
        except KafkaException as error:
            raise options_error(error) from None
        self.fatal: str | None = None
        self.is_retired = False
        self._producer: Producer | None = producer
        self._loop = asyncio.get_running_loop()
        self._reports: list[tuple[Slot, Result]] = []
        self._pending: dict[PendingAcks, None] = {}
        self._room = asyncio.Event()
        self._thread = threading.Thread(
            target=self._poll_reports, name="kafka-producer", daemon=True
        )
        self._thread.start()

    async def enqueue(self, message: Message, slot: Slot) -> Result | None:
        """Enqueue the message, waiting while the queue is full. Return None if a delivery report
        will follow, else the result.
        """
        from confluent_kafka import KafkaException

        if not TOPIC.fullmatch(message.topic):
            return Undeliverable(f"invalid topic name: {message.topic!r}")
        self._pending[slot.pending] = None
        while not self.is_retired and (producer := self._producer) is not None:
            self._room.clear()
            try:
                producer.produce(
                    message.topic,
                    message.payload,
                    message.key,
                    on_delivery=functools.partial(self._delivered, slot),
                    headers=list(message.headers.items()),
                )
            except BufferError:
                await self._room.wait()
            except KafkaException as error:
                return _result_of(error.args[0], alone=True)
            except ValueError as error:
                return Undeliverable(f"cannot be encoded: {error}")
            else:
                return None
        return REPLACED

    async def wait_acked(self, pending: PendingAcks) -> None:
        """Wait for all results. Raises TimeoutError if no broker is reachable."""
        await asyncio.wait({pending.all_resolved}, timeout=DOWN_TIMEOUT_S)
        if self.is_down and not pending.all_resolved.done():
            raise TimeoutError("no broker can be reached")
        await pending.all_resolved

    def forget(self, pending: PendingAcks) -> None:
        self._pending.pop(pending, None)

    def retire(self) -> None:
        """Send nothing more; calls are answered once the thread has seen the last report."""
        self.is_retired = True
        self._room.set()

    async def close(self, timeout_s: float) -> None:
        if self._pending:
            unacked = [pending.all_resolved for pending in self._pending]
            await asyncio.wait(unacked, timeout=timeout_s)
        self.retire()
        await asyncio.to_thread(self._thread.join, timeout_s)

    def _poll_reports(self) -> None:
        """Run the thread. One wake-up of the event loop hands over all reports so far."""
        from confluent_kafka import KafkaException

        producer = self._producer
        assert producer is not None
        while not self.is_retired:
            try:
                producer.poll(POLL_S)
            except KafkaException as error:
                self.fatal = str(error.args[0].str())
                self.is_retired = True
            self._hand_over_reports()
        producer.purge()
        with contextlib.suppress(KafkaException):
            producer.flush(POLL_S)
        self._hand_over_reports()
        self._call(self._resolve_rest)
        # Drop the last reference here: destroying the producer may block, but no event loop.
        self._producer = None

    def _on_error(self, error: KafkaError) -> None:
        self.is_down = self.is_down or error.name() == "_ALL_BROKERS_DOWN"
        self._log_error(error)

    def _delivered(self, slot: Slot, error: KafkaError | None, _record: object) -> None:
        self.is_down = self.is_down and error is not None
        self._reports.append(
            (slot, ACKED if error is None else _result_of(error, alone=slot.alone))
        )

    def _hand_over_reports(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._call(functools.partial(self._resolve, reports))

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, with no calls waiting
            self._loop.call_soon_threadsafe(function)

    def _resolve(self, reports: Iterable[tuple[Slot, Result]]) -> None:
        for slot, result in reports:
            slot.pending.resolve(slot.number, result)
        self._room.set()

    def _resolve_rest(self) -> None:
        self.retire()
        for pending in self._pending:
            pending.resolve_rest(REPLACED)


def _result_of(error: KafkaError, *, alone: bool) -> Result:
    reason = f"{error.name()}: {error.str()}"
    if error.name() not in PERMANENT_ERRORS:
        return NotAcked(reason)
    return Undeliverable(reason) if alone else BatchRejected(reason)


def _in_rejected_batches(messages: Sequence[Message], results: Sequence[Result]) -> list[int]:
    """Return the records whose batches were rejected and whose keys have no earlier failure."""
    failed: set[str] = set()
    rejected: list[int] = []
    for slot, (message, result) in enumerate(zip(messages, results, strict=True)):
        if isinstance(result, BatchRejected):
            if message.key not in failed:
                rejected.append(slot)
        elif isinstance(result, NotAcked):
            failed.add(message.key)
    return rejected


def _in_key_order(messages: Sequence[Message], results: Sequence[Result]) -> list[PublishResult]:
    """Return the results; after a failure of a key, its later records count as failed too."""
    failed: set[str] = set()
    ordered: list[PublishResult] = []
    for message, result in zip(messages, results, strict=True):
        is_late = message.key in failed and isinstance(result, Acked)
        ordered.append(BEHIND if is_late else result)
        if isinstance(result, NotAcked):
            failed.add(message.key)
    return ordered
