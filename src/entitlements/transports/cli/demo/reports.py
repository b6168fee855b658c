"""Finished work reported over Kafka, and its balance changes, read back from Kafka."""

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

from entitlements.app.process.clock import utc_now
from entitlements.contracts.events import CreditBalanceChangedV1, Envelope, ResourceConsumptionV1
from entitlements.contracts.events.topics import RESOURCE_CONSUMPTION
from entitlements.contracts.reading import read
from entitlements.core.model import Subject
from entitlements.ids import uuid7
from entitlements.transports.cli.demo.api import Clock

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

SERVERS: Final = "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS"
OPTIONS: Final = "ENTITLEMENTS_KAFKA_OPTIONS"
REPORTED: Final = "reported work"
PATIENCE_S: Final = 60
TWICE_EVERY: Final = 5


class NoKafka(RuntimeError):
    """No broker is configured, or it does not respond."""


class Broker(Struct, frozen=True):
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


class Announced(Struct, frozen=True):
    """The result of one piece of work, from the ledger's events."""

    payer: Subject
    metric: str
    credits: int
    operations: int


@contextmanager
def kafka() -> Iterator[Broker]:
    """Yield the configured broker, with topics that are removed afterwards.

    Raises NoKafka.
    """
    servers = os.environ.get(SERVERS)
    if not servers:
        raise NoKafka(
            f"{SERVERS} names no broker. `make kafka` runs one; "
            f"then: export {SERVERS}=127.0.0.1:9092"
        )
    broker = Broker(servers, os.environ.get(OPTIONS, ""), f"demo-{secrets.token_hex(4)}")
    _topics(broker)
    try:
        yield broker
    finally:
        _remove_topics(broker)


class Reports:
    """Reports work, and then returns who paid for it."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        from confluent_kafka import Producer

        self._broker = broker
        self._clock = clock
        self._producer = Producer(broker.client(acks="all", enable_idempotence=True))
        self._told_at: dict[str, int] = {}
        self._changes: dict[str, dict[str, CreditBalanceChangedV1]] = {}
        self.sent_twice = 0
        self._following: asyncio.Task[None]
        self._stop_by: float | None = None
        """None while more work can be reported; then the deadline of the announcements."""

    async def __aenter__(self) -> Self:
        """Wait for the topics, which the service creates in the background."""
        deadline = monotonic() + PATIENCE_S
        wanted = {self._told, self._announced}
        while not wanted <= await asyncio.to_thread(_topics, self._broker):
            if monotonic() > deadline:
                raise NoKafka(f"the service did not create the topics of {self._broker.prefix}")
            await asyncio.sleep(0.1)
        self._following = asyncio.create_task(asyncio.to_thread(self._follow))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._producer.purge()
        self._stop_by = 0.0
        await asyncio.gather(self._following, return_exceptions=True)

    def tell(self, work: ResourceConsumptionV1, key: str) -> None:
        """Report the work; every fifth piece twice, as after a lost acknowledgement."""
        name = str(uuid5(NAMESPACE_OID, key))
        now = utc_now()
        event = Envelope(
            event_id=uuid7(),
            event_type=self._told,
            event_timestamp=now.isoformat(),
            source_service=work.service_name,
            correlation_id=name,
            data=work,
        )
        times = 2 if len(self._told_at) % TWICE_EVERY == 0 else 1
        self.sent_twice += times - 1
        self._told_at[name] = perf_counter_ns()
        for _ in range(times):
            self._producer.produce(self._told, msgspec.json.encode(event), str(work.user_id))
        self._producer.poll(0)

    async def announced(self) -> list[Announced]:
        """Return who paid how much, once each piece has been announced. Raises NoKafka."""
        if await asyncio.to_thread(self._producer.flush, PATIENCE_S):
            raise NoKafka("Kafka did not accept the reported work")
        self._stop_by = monotonic() + PATIENCE_S
        await self._following
        return [
            Announced(
                Subject(first.subject.type, first.subject.id),
                first.reason,
                -sum(change.delta for change in changes.values()),
                len(changes),
            )
            for changes in self._changes.values()
            for first in [next(iter(changes.values()))]
        ]

    @property
    def _told(self) -> str:
        return RESOURCE_CONSUMPTION.under(self._broker.prefix)

    @property
    def _announced(self) -> str:
        return f"{self._broker.prefix}.entitlements.credit.balance.changed.v1"

    def _follow(self) -> None:
        """Read announcements until all work is reported and each piece has one."""
        from confluent_kafka import Consumer

        consumer = Consumer(
            self._broker.client(group_id=self._broker.prefix + "-demo", enable_auto_commit=False)
        )
        try:
            _from_the_start(consumer, self._announced)
            while self._stop_by is None or len(self._changes) < len(self._told_at):
                if self._stop_by is not None and monotonic() > self._stop_by:
                    missing = len(self._told_at) - len(self._changes)
                    raise NoKafka(f"nothing was announced for {missing} pieces of reported work")
                for record in consumer.consume(500, timeout=0.1):
                    self._hear(record)
        finally:
            consumer.close()

    def _hear(self, record: "Message") -> None:
        if record.error() is not None:
            return
        change = read(record.value(), CreditBalanceChangedV1).data
        told_at = self._told_at.get(change.correlation_id)
        if told_at is None:
            return
        changes = self._changes.setdefault(change.correlation_id, {})
        if not changes:
            self._clock.add(REPORTED, told_at, perf_counter_ns())
        changes[change.operation_id] = change


def _topics(broker: Broker) -> set[str]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return set(AdminClient(broker.client()).list_topics(timeout=10).topics)
    except KafkaException as error:
        raise NoKafka(f"no response from {broker.servers}: {error.args[0].str()}") from None


def _remove_topics(broker: Broker) -> None:
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
