"""The Kafka consumer: polls topics in its own thread, and processes batches in the event loop.

While a batch is processed, no further records are polled. So a rebalance never finds anything in
flight but that batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, Self

from entitlements.adapters.kafka.broker import Broker, ErrorLog, options_error
from entitlements.app.inbox.batch import Begin, Place, PolledRecords
from entitlements.app.inbox.intake import RetryLater
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.status import PartitionStatus, State, Status
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

log = EventLog(__name__)

RECORDS_MAX: Final = 500
"""The maximum of records per batch: the size of one commit of the committer."""
POLL_S: Final = 0.25
RETRY_INTERVAL_S: Final = 0.5
OBSERVE_S: Final = 1.0
RESTART_FIRST_S: Final = 1.0
RESTART_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""After this long without a restart, the next restart is quick again."""
CLOSE_S: Final = 20.0
COMMITTED_TIMEOUT_S: Final = 3.0
PROBLEM_TTL_S: Final = 30.0
"""A problem is reported for this long unless it is known to be over."""

DEFAULTS: Final[Mapping[str, Any]] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 16_384,
    "topic.metadata.refresh.interval.ms": 30_000,
    "socket.keepalive.enable": True,
}
REQUIRED: Final[Mapping[str, Any]] = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "allow.auto.create.topics": False,
}


_headers: Final = methodcaller("headers")
"""Called through C, which raises SystemError if the library returns a result and an error together;
the interpreter's own fast calls do not check that.
"""


class KafkaConsumer:
    """A member of a consumer group. It recovers by itself from any failure of the broker, the
    database or the client; offsets are committed only for events that are charged or dead-lettered.
    """

    def __init__(
        self, broker: Broker, *, group: str, client_id: str, topics: Sequence[str], begin: Begin
    ) -> None:
        self._log_error = ErrorLog(client_id)
        self._config = broker.client(
            client_id,
            defaults=DEFAULTS,
            required={
                **REQUIRED,
                "group.id": group,
                "on_commit": self._on_commit,
                "error_cb": self._on_error,
            },
        )
        self._group = group
        self._topics = list(topics)
        self._begin = begin
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-consumer", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._batch: PolledRecords | None = None
        self._is_paused = False
        self._committed: dict[Place, int] = {}
        self._observed_at = 0.0
        self._restarts = 0
        self._problem: tuple[str, float] | None = None
        self.state = State(status=Status.RESTARTING, group=group, turned_at=time.monotonic())

    async def __aenter__(self) -> Self:
        """Start the thread. Raises OptionsUnusable; does not check that a broker is reachable."""
        from confluent_kafka import Consumer, KafkaException

        try:
            Consumer(self._config).close()
        except KafkaException as error:
            raise options_error(error) from None
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish the current batch if that is possible now, and leave the group."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _run(self) -> None:
        """Run consumers until stopped; after an error a new consumer takes over."""
        from confluent_kafka import Consumer

        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                consumer = Consumer(self._config)
                try:
                    self._consume(consumer)
                finally:
                    self._batch, self._is_paused = None, False
                    consumer.close()
            except Exception as error:
                failures = 0 if time.monotonic() - started > STEADY_S else failures
                self._restarts += 1
                log.exception("consumer.restarting", restarts=self._restarts)
                self._note(str(error) or type(error).__name__)
                self._set_status(Status.RESTARTING, turned=False)
                failures += 1
                self._stopping.wait(
                    backoff_s(failures, first_s=RESTART_FIRST_S, most_s=RESTART_MAX_S)
                )
        self._set_status(Status.STOPPED, turned=False)

    def _consume(self, consumer: Consumer) -> None:
        """Poll and process. Raises KafkaException if a new consumer is needed."""
        consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        self._set_status(Status.RUNNING)
        while not self._stopping.is_set():
            records = self._poll(consumer)
            self._observe(consumer)
            if records:
                self._process(consumer, records)

    def _poll(self, consumer: Consumer) -> list[Message]:
        """Return the available records, as soon as there are any."""
        first = consumer.poll(POLL_S)
        if first is None:
            return []
        messages = [first, *consumer.consume(RECORDS_MAX - 1, timeout=0)]
        return [message for message in messages if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        """Return whether it is a record, not an error. Raises KafkaException for a fatal error."""
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            from confluent_kafka import KafkaException

            raise KafkaException(error)
        self._on_error(error)
        return False

    def _process(self, consumer: Consumer, records: Sequence[Message]) -> None:
        """Process the records until all are durable or reassigned, then commit the offsets."""
        self._batch = self._begin([_arrived(record) for record in records])
        while not self._is_done(self._batch):
            self._stay_in_group(consumer)
            if self._stopping.is_set():
                return
        offsets, self._batch = self._batch.offsets(), None
        if self._is_paused:
            self._is_paused = False
            consumer.resume(consumer.assignment())
            log.info("consumer.resumed")
            self._set_status(Status.RUNNING)
        if offsets:
            self._commit(consumer, offsets)

    def _is_done(self, batch: PolledRecords) -> bool:
        """Return whether the batch is done. Other exceptions are bugs and restart the consumer."""
        working = asyncio.run_coroutine_threadsafe(batch.work(), self._loop)
        try:
            working.result()
        except RetryLater as error:
            if not self._is_paused:
                log.info("consumer.paused", reason=str(error))
            self._note(str(error))
            self._set_status(Status.PAUSED)
            return False
        return True

    def _stay_in_group(self, consumer: Consumer) -> None:
        """Stay in the group without reading further until the next attempt."""
        if not self._is_paused:
            self._is_paused = True
            consumer.pause(consumer.assignment())
        until = time.monotonic() + RETRY_INTERVAL_S
        while time.monotonic() < until and not self._stopping.is_set():
            message = consumer.poll(0.1)
            if message is not None and self._is_record(message):
                stray = _arrived(message)
                consumer.seek(_place(stray.topic, stray.partition, stray.offset))
        self._observe(consumer)

    def _commit(self, consumer: Consumer, offsets: Mapping[Place, int]) -> None:
        """Commit asynchronously: records that are read again after a loss are known duplicates."""
        from confluent_kafka import KafkaException

        places = [_place(topic, partition, end) for (topic, partition), end in offsets.items()]
        try:
            consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            self._on_error(error.args[0])
        self._committed |= offsets

    def _on_commit(self, error: KafkaError | None, _places: list[TopicPartition]) -> None:
        if error is None:
            self._problem = None
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        self._note(str(error.str()))
        self._log_error(error)

    def _note(self, problem: str) -> None:
        self._problem = (problem, time.monotonic())

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        from confluent_kafka import KafkaException

        consumer.incremental_assign(places)
        if self._is_paused:
            consumer.pause(places)
        if places:
            log.info("consumer.assigned", partitions=_names(places))
        try:
            known = consumer.committed(places, timeout=COMMITTED_TIMEOUT_S)
        except KafkaException:
            return  # the lag is known after the first read
        self._committed |= {(p.topic, p.partition): max(0, p.offset) for p in known}

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        gone = {(place.topic, place.partition) for place in places}
        if self._batch is not None:
            self._batch.drop(gone)
        self._committed = {p: end for p, end in self._committed.items() if p not in gone}
        consumer.incremental_unassign(places)
        log.info("consumer.revoked", partitions=_names(places))

    def _observe(self, consumer: Consumer) -> None:
        """Record the poll, and periodically the position and lag of each partition."""
        now = time.monotonic()
        if now - self._observed_at < OBSERVE_S:
            self._set_status(self.state.status)
            return
        self._observed_at = now
        places = sorted(consumer.assignment(), key=lambda place: (place.topic, place.partition))
        partitions = tuple(self._partition_status(consumer, place) for place in places)
        self._set_status(self.state.status, partitions=partitions)

    def _partition_status(self, consumer: Consumer, place: TopicPartition) -> PartitionStatus:
        known = self._committed.get((place.topic, place.partition))
        (read,) = consumer.position([place])
        position = read.offset if read.offset >= 0 else known
        ends = consumer.get_watermark_offsets(place, cached=True)
        lag = None
        if position is not None and ends[1] >= 0:
            lag = max(0, ends[1] - max(position, ends[0]))
        return PartitionStatus(
            topic=place.topic, partition=place.partition, position=position, lag=lag
        )

    def _set_status(
        self,
        status: Status,
        *,
        partitions: tuple[PartitionStatus, ...] | None = None,
        turned: bool = True,
    ) -> None:
        was, now = self.state, time.monotonic()
        problem, at = self._problem or (None, now)
        self.state = State(
            status=status,
            group=self._group,
            problem=problem if now - at < PROBLEM_TTL_S else None,
            partitions=was.partitions if partitions is None else partitions,
            restarts=self._restarts,
            turned_at=now if turned else was.turned_at,
        )


def _arrived(message: Message) -> ConsumerRecord:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return ConsumerRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        headers=tuple((name, _bytes(value)) for name, value in _pairs(message)),
    )


def _pairs(message: Message) -> Sequence[tuple[str, str | bytes | None]]:
    """Return the headers; none if the library cannot decode one: a name need not be text."""
    try:
        found: Any = _headers(message)
    except SystemError:
        log.warning("record.headers_unread", topic=message.topic(), offset=message.offset())
        return ()
    return found or ()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _place(topic: str, partition: int, offset: int) -> TopicPartition:
    from confluent_kafka import TopicPartition

    return TopicPartition(topic, partition, offset)


def _names(places: Sequence[TopicPartition]) -> str:
    return ", ".join(f"{place.topic}/{place.partition}" for place in places)
