"""Usage events for finished work, and the balance changes that they cause, over Kafka."""

import asyncio
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import NAMESPACE_OID, uuid5

import msgspec
from msgspec import Struct

from entitlements.contracts.events import CreditBalanceChangedV1, Envelope, ResourceConsumptionV1
from entitlements.contracts.reading import read
from grading.demo.report import Subject
from grading.demo.timings import Timings

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

SERVERS: Final = "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS"
OPTIONS: Final = "ENTITLEMENTS_KAFKA_OPTIONS"
REPORTED: Final = "reported work"
PATIENCE_S: Final = 60
TWICE_EVERY: Final = 5


class NoKafka(RuntimeError):
    """No broker is configured, or it does not respond."""


class BrokerAddress(Struct, frozen=True):
    """The address of Kafka, and the prefix of the demo's topics."""

    servers: str
    options: str
    prefix: str

    @property
    def settings(self) -> dict[str, str]:
        """Return the service's settings: its own topics and group, which are removed afterwards."""
        return {
            SERVERS: self.servers,
            OPTIONS: self.options,
            "ENTITLEMENTS_TOPIC_PREFIX": self.prefix,
            "ENTITLEMENTS_CONSUMER_GROUP": self.prefix,
        }

    def client(self, **options: object) -> dict[str, Any]:
        given = [item.partition("=") for item in re.split(r"(?<!\\),", self.options) if item]
        named = {name.strip(): value.strip().replace("\\,", ",") for name, _, value in given}
        own = {name.replace("_", "."): value for name, value in options.items()}
        return {**named, "bootstrap.servers": self.servers, "log_level": 0, **own}


class ChargedWork(Struct, frozen=True):
    """The payment for one piece of work, from the ledger's events."""

    payer: Subject
    metric: str
    credits: int
    operations: int


@contextmanager
def configured_broker() -> Iterator[BrokerAddress]:
    """Yield the configured broker, with topics that are removed afterwards.

    Raises NoKafka.
    """
    servers = os.environ.get(SERVERS)
    if not servers:
        raise NoKafka(
            f"{SERVERS} names no broker. `make kafka` runs one; "
            f"then: export {SERVERS}=127.0.0.1:9092"
        )
    broker = BrokerAddress(servers, os.environ.get(OPTIONS, ""), f"demo-{secrets.token_hex(4)}")
    _topics(broker)
    try:
        yield broker
    finally:
        _remove_topics(broker)


class UsageEvents:
    """Publishes usage events, and reads who paid for the work."""

    def __init__(self, broker: BrokerAddress, timings: Timings) -> None:
        from confluent_kafka import Producer

        self._broker = broker
        self._timings = timings
        self._producer = Producer(broker.client(acks="all", enable_idempotence=True))
        self._published_at: dict[str, int] = {}
        self._changes: dict[str, dict[str, CreditBalanceChangedV1]] = {}
        self.sent_twice = 0
        self._reading: asyncio.Task[None]
        self._deadline: float | None = None
        """None while more work can be published; then the deadline of the balance changes."""

    async def __aenter__(self) -> Self:
        """Wait for the topics, which the service creates in the background."""
        deadline = monotonic() + PATIENCE_S
        wanted = {self._usage_topic, self._change_topic}
        while not wanted <= await asyncio.to_thread(_topics, self._broker):
            if monotonic() > deadline:
                raise NoKafka(f"the service did not create the topics of {self._broker.prefix}")
            await asyncio.sleep(0.1)
        self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._producer.purge()
        self._deadline = 0.0
        await asyncio.gather(self._reading, return_exceptions=True)

    def publish(self, work: ResourceConsumptionV1) -> None:
        """Publish the work; every fifth piece twice, as after a lost acknowledgement."""
        id = str(uuid5(NAMESPACE_OID, work.processing_id))
        event = Envelope(
            event_id=id,
            event_type=self._usage_topic,
            event_timestamp=work.consumed_at.isoformat(),
            source_service=work.service_name,
            correlation_id=id,
            data=work,
        )
        times = 2 if len(self._published_at) % TWICE_EVERY == 0 else 1
        self.sent_twice += times - 1
        self._published_at[id] = perf_counter_ns()
        for _ in range(times):
            self._producer.produce(self._usage_topic, msgspec.json.encode(event), str(work.user_id))
        self._producer.poll(0)

    async def charged(self) -> list[ChargedWork]:
        """Return who paid how much, once each piece has its balance change. Raises NoKafka."""
        if await asyncio.to_thread(self._producer.flush, PATIENCE_S):
            raise NoKafka("Kafka did not accept the reported work")
        self._deadline = monotonic() + PATIENCE_S
        await self._reading
        return [
            ChargedWork(
                Subject(first.subject.type, first.subject.id),
                first.reason,
                -sum(change.delta for change in changes.values()),
                len(changes),
            )
            for changes in self._changes.values()
            for first in [next(iter(changes.values()))]
        ]

    @property
    def _usage_topic(self) -> str:
        return f"{self._broker.prefix}.resource.consumption.v1"

    @property
    def _change_topic(self) -> str:
        return f"{self._broker.prefix}.entitlements.credit.balance.changed.v1"

    def _read(self) -> None:
        """Read balance changes until all work is published and each piece has one."""
        from confluent_kafka import Consumer

        consumer = Consumer(
            self._broker.client(group_id=self._broker.prefix + "-demo", enable_auto_commit=False)
        )
        try:
            _from_the_start(consumer, self._change_topic)
            while self._deadline is None or len(self._changes) < len(self._published_at):
                if self._deadline is not None and monotonic() > self._deadline:
                    missing = len(self._published_at) - len(self._changes)
                    raise NoKafka(f"no balance changes for {missing} pieces of reported work")
                for record in consumer.consume(500, timeout=0.1):
                    self._add(record)
        finally:
            consumer.close()

    def _add(self, record: "Message") -> None:
        if record.error() is not None:
            return
        change = read(record.value(), CreditBalanceChangedV1).data
        published_at = self._published_at.get(change.correlation_id)
        if published_at is None:
            return
        changes = self._changes.setdefault(change.correlation_id, {})
        if not changes:
            self._timings.add(REPORTED, published_at, perf_counter_ns())
        changes[change.operation_id] = change


def _topics(broker: BrokerAddress) -> set[str]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return set(AdminClient(broker.client()).list_topics(timeout=10).topics)
    except KafkaException as error:
        raise NoKafka(f"no response from {broker.servers}: {error.args[0].str()}") from None


def _remove_topics(broker: BrokerAddress) -> None:
    """Remove the demo's topics if that is allowed; leftovers do no harm."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    with suppress(KafkaException, NoKafka):
        admin = AdminClient(broker.client())
        ours = [name for name in _topics(broker) if name.startswith(f"{broker.prefix}.")]
        removed: Mapping[str, Any] = admin.delete_topics(ours) if ours else {}
        for answer in removed.values():
            answer.result(timeout=10)


def _from_the_start(consumer: "Consumer", topic: str) -> None:
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition

    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
