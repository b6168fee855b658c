"""Events in and out: reported use into the books, and what the books announce to a consumer."""

import asyncio
import http.client
import os
import subprocess
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

from benchmarks.requests import CONSUME
from benchmarks.service import PROGRAM, Service
from benchmarks.wallets import SCHOOL, USERS
from benchmarks.wrk import Sample
from entitlements.contracts.events import Envelope, ResourceConsumptionV1
from entitlements.contracts.events.topics import RESOURCE_CONSUMPTION
from entitlements.ids import uuid7
from tests.kafka import Kafka, reader

PATIENCE_S = 120
LOOK_EVERY_S = 0.02
EVENTS_A_SECOND = 4_000
"""So many are reported for each second that a load should take."""

ANNOUNCED = "entitlements.credit.balance.changed.v1"
RECORDED = "SELECT count(*) FROM consumption_records"
UNSENT = "SELECT count(*) FROM event_outbox WHERE published_at IS NULL AND parked_at IS NULL"

_runs = count(1)


def kafka_settings(kafka: Kafka, prefix: str, *, relay: bool) -> dict[str, str]:
    """What a service is told; it has its topics and its group for itself."""
    return {
        "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "ENTITLEMENTS_TOPIC_PREFIX": prefix,
        "ENTITLEMENTS_CONSUMER_GROUP": prefix,
        "ENTITLEMENTS_RELAY_ENABLED": str(relay).lower(),
    }


def ingest(kafka: Kafka, database_url: str, prefix: str, *, subjects: int, seconds: int) -> Sample:
    """From the first report's way to Kafka until the last is in the books."""
    total = EVENTS_A_SECOND * seconds
    reports = [_report(prefix, subjects, number) for number in range(total)]
    topic = RESOURCE_CONSUMPTION.under(prefix)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "linger.ms": 5, "compression.type": "lz4"}
    )
    before = asyncio.run(_value(database_url, RECORDED))
    started = time.perf_counter()
    for key, value in reports:
        producer.produce(topic, value, key)
        producer.poll(0)
    if producer.flush(PATIENCE_S):
        raise RuntimeError("Kafka did not take the reports")
    asyncio.run(_until(database_url, RECORDED, lambda found: found >= before + total))
    return Sample(rate=total / (time.perf_counter() - started))


def ship(environment: dict[str, str], database_url: str) -> Sample:
    """Let a relay of its own send what waits, and see how fast it went from its first batch on."""
    waiting = asyncio.run(_value(database_url, UNSENT))
    with subprocess.Popen(
        [PROGRAM, "worker", "relay"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            left = asyncio.run(_until(database_url, UNSENT, lambda found: found < waiting))
            started = time.perf_counter()
            asyncio.run(_until(database_url, UNSENT, lambda found: found == 0))
            return Sample(rate=left / (time.perf_counter() - started))
        finally:
            worker.terminate()


def announce(kafka: Kafka, service: Service, prefix: str, *, seconds: int) -> Sample:
    """One client consumes; how long after each answer a consumer has the event in its hands."""
    answered: dict[str, float] = {}
    heard: dict[str, float] = {}
    done = threading.Event()
    with reader(kafka.bootstrap, [f"{prefix}.{ANNOUNCED}"], {"fetch.wait.max.ms": 10}) as consumer:
        _skip_to_the_end(consumer)
        listener = threading.Thread(target=_listen, args=(consumer, heard, done))
        listener.start()
        try:
            _consume(service, answered, seconds)
            deadline = time.perf_counter() + PATIENCE_S
            while not answered.keys() <= heard.keys():
                if time.perf_counter() > deadline:
                    raise RuntimeError("an event did not come")
                time.sleep(LOOK_EVERY_S)
        finally:
            done.set()
            listener.join()
    waits = [max(0.0, heard[name] - at) * 1000 for name, at in answered.items()]
    percentiles = quantiles(waits, n=100)
    return Sample(rate=len(waits) / seconds, p50_ms=percentiles[49], p99_ms=percentiles[98])


def drained(database_url: str) -> None:
    """Wait until the relay has nothing left to send."""
    asyncio.run(_until(database_url, UNSENT, lambda found: found == 0))


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


class _Told(msgspec.Struct):
    correlation_id: str


class _Event(msgspec.Struct):
    data: _Told


def _listen(consumer: Consumer, heard: dict[str, float], done: threading.Event) -> None:
    while not done.is_set():
        for record in consumer.consume(100, timeout=0.01):
            value = record.value()
            if record.error() is None and value is not None:
                event = msgspec.json.decode(value, type=_Event)
                heard.setdefault(event.data.correlation_id, time.perf_counter())


def _skip_to_the_end(consumer: Consumer) -> None:
    parts = consumer.assignment()
    for part in parts:
        part.offset = consumer.get_watermark_offsets(part, timeout=10)[1]
    consumer.assign(parts)


async def _value(url: str, query: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval(query)
        return found
    finally:
        await connection.close()


async def _until(url: str, query: str, is_enough: Callable[[int], bool]) -> int:
    deadline = time.perf_counter() + PATIENCE_S
    connection = await asyncpg.connect(url)
    try:
        while not is_enough(found := await connection.fetchval(query)):
            if time.perf_counter() > deadline:
                raise RuntimeError(f"{query}: still {found} after {PATIENCE_S} s")
            await asyncio.sleep(LOOK_EVERY_S)
        return int(found)
    finally:
        await connection.close()
