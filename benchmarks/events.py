"""Events in and out: from a usage report to the ledger, and from the ledger to a consumer."""

import http.client
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from random import Random
from statistics import quantiles
from urllib.parse import urlsplit

import asyncpg
import msgspec
from confluent_kafka import Consumer, Producer

from benchmarks.accounting import Observer, metered, tree_cpu_s
from benchmarks.program import Program
from benchmarks.requests import CONSUME
from benchmarks.service import Service
from benchmarks.sides import Lacking
from benchmarks.wallets import SCHOOL, USERS
from benchmarks.wrk import Sample
from entitlements.contracts.events import Envelope, ResourceConsumptionV1
from entitlements.contracts.events.topics import RESOURCE_CONSUMPTION
from entitlements.ids import uuid7
from tests.kafka import Kafka, reader

PATIENCE_S = 120
LOOK_EVERY_S = 0.02
EVENTS_A_SECOND = 4_000
"""The number of events reported per second of a load."""

ANNOUNCED = "entitlements.credit.balance.changed.v1"
RECORDED = "SELECT count(*) FROM consumption_records"
UNSENT = "SELECT count(*) FROM event_outbox WHERE published_at IS NULL AND parked_at IS NULL"
"""Both are read from each side's own checkout, because they name its tables."""

_runs = count(1)


def kafka_settings(kafka: Kafka, prefix: str, *, relay: bool) -> dict[str, str]:
    """Settings of a service with its own topics and consumer group."""
    return {
        "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "ENTITLEMENTS_TOPIC_PREFIX": prefix,
        "ENTITLEMENTS_CONSUMER_GROUP": prefix,
        "ENTITLEMENTS_RELAY_ENABLED": str(relay).lower(),
    }


class Books:
    """The database of a side's service, observed from outside."""

    def __init__(self, observer: Observer, service: Service) -> None:
        self.observer = observer
        self.service = service
        self._recorded = service.side.text(f"{__name__}:RECORDED")
        self._unsent = service.side.text(f"{__name__}:UNSENT")

    def recorded(self) -> int:
        return self._value(self._recorded)

    def unsent(self) -> int:
        return self._value(self._unsent)

    def _value(self, query: str) -> int:
        try:
            return self.observer.value(self.service.database_url, query)
        except asyncpg.SyntaxOrAccessError as error:
            raise Lacking(f"{query}: {error}") from error


def ingest(kafka: Kafka, books: Books, prefix: str, *, subjects: int, seconds: int) -> Sample:
    """Measure from the first report sent to Kafka until the last one is in the ledger."""
    total = EVENTS_A_SECOND * seconds
    reports = [_report(prefix, subjects, number) for number in range(total)]
    topic = RESOURCE_CONSUMPTION.under(prefix)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "compression.type": "lz4"}
    )
    before = books.recorded()
    started = time.perf_counter()
    for key, value in reports:
        producer.produce(topic, value, key)
        producer.poll(0)
    if producer.flush(PATIENCE_S):
        raise RuntimeError("Kafka did not take the reports")
    until(books.recorded, lambda found: found >= before + total)
    return Sample(rate=total / (time.perf_counter() - started), operations=total)


def ship(books: Books, environment: dict[str, str]) -> Sample:
    """Start a relay process to publish what waits, and measure it from its first batch on."""
    waiting = books.unsent()
    service = books.service
    with Program([service.side.program, "worker", "relay"], environment) as worker:
        left = until(books.unsent, lambda found: found < waiting)
        with metered(
            lambda: tree_cpu_s(worker.family()), books.observer, url=service.database_url
        ) as usage:
            started = time.perf_counter()
            until(books.unsent, lambda found: found == 0)
            rate = left / (time.perf_counter() - started)
        return usage.of(Sample(rate=rate, operations=left))


def announce(kafka: Kafka, service: Service, prefix: str, *, seconds: int) -> Sample:
    """Let one client consume, and measure how long after each response its event is received."""
    answered: dict[str, float] = {}
    received: dict[str, float] = {}
    done = threading.Event()
    with reader(kafka.bootstrap, [f"{prefix}.{ANNOUNCED}"], {"fetch.wait.max.ms": 10}) as consumer:
        _skip_to_the_end(consumer)
        listener = threading.Thread(target=_listen, args=(consumer, received, done))
        listener.start()
        try:
            _consume(service, answered, seconds)
            deadline = time.perf_counter() + PATIENCE_S
            while not answered.keys() <= received.keys():
                if time.perf_counter() > deadline:
                    raise RuntimeError("an event did not come")
                time.sleep(LOOK_EVERY_S)
        finally:
            done.set()
            listener.join()
    waits = [max(0.0, received[name] - at) * 1000 for name, at in answered.items()]
    percentiles = quantiles(waits, n=100)
    return Sample(
        rate=len(waits) / seconds,
        operations=len(waits),
        p50_ms=percentiles[49],
        p99_ms=percentiles[98],
    )


def drained(books: Books) -> None:
    """Wait until the relay has nothing left to publish."""
    until(books.unsent, lambda found: found == 0)


def _report(prefix: str, subjects: int, number: int) -> tuple[str, bytes]:
    random = Random(number)
    name = uuid7()
    user_id = f"user-{random.randint(1, subjects)}" if subjects > 1 else "teacher"
    event = Envelope(
        event_id=name,
        event_type=RESOURCE_CONSUMPTION.under(prefix),
        event_timestamp="2026-01-01T00:00:00Z",
        source_service="bench",
        correlation_id=name,
        data=ResourceConsumptionV1(
            entity_id="batch-1",
            entity_type="batch",
            user_id=user_id,
            org_id=None if subjects > 1 else SCHOOL,
            resource_type="cj_comparison",
            quantity=1,
            service_name="bench",
            processing_id=name,
            consumed_at=msgspec.json.decode(b'"2026-01-01T00:00:00Z"', type=_TIME),
        ),
    )
    return user_id, msgspec.json.encode(event)


_TIME = ResourceConsumptionV1.__annotations__["consumed_at"]


def _consume(service: Service, answered: dict[str, float], seconds: int) -> None:
    where = urlsplit(service.url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=10)
    random, run = Random(1), next(_runs)
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
    ends = time.perf_counter() + seconds
    for number in count(1):
        name = f"announce{run}-{os.getpid()}-{number}"
        body = {
            "user_id": f"user-{random.randint(1, USERS)}",
            "metric": "cj_comparison",
            "amount": 1,
            "correlation_id": name,
        }
        connection.request(
            "POST", CONSUME, msgspec.json.encode(body), {**headers, "Idempotency-Key": name}
        )
        answer = connection.getresponse().read()
        answered[name] = time.perf_counter()
        if b'"success":true' not in answer:
            raise RuntimeError(f"consume: {answer!r}")
        if time.perf_counter() > ends:
            break
    connection.close()


class _Data(msgspec.Struct):
    correlation_id: str


class _Event(msgspec.Struct):
    data: _Data


def _listen(consumer: Consumer, received: dict[str, float], done: threading.Event) -> None:
    while not done.is_set():
        for record in consumer.consume(100, timeout=0.01):
            value = record.value()
            if record.error() is None and value is not None:
                event = msgspec.json.decode(value, type=_Event)
                received.setdefault(event.data.correlation_id, time.perf_counter())


def _skip_to_the_end(consumer: Consumer) -> None:
    parts = consumer.assignment()
    for part in parts:
        part.offset = consumer.get_watermark_offsets(part, timeout=10)[1]
    consumer.assign(parts)


def until(
    read: Callable[[], int],
    is_enough: Callable[[int], bool],
    *,
    patience_s: float = PATIENCE_S,
    every_s: float = LOOK_EVERY_S,
) -> int:
    """Return the first value that is enough. Raises RuntimeError if none is in time."""
    deadline = time.perf_counter() + patience_s
    while not is_enough(found := read()):
        if time.perf_counter() > deadline:
            raise RuntimeError(f"still {found} after {patience_s} s")
        time.sleep(every_s)
    return found
