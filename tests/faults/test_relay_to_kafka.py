"""From a request to a Kafka record: by the service, by a worker, and through an outage."""

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec
from confluent_kafka import Message

from entitlements.app.engine import Store
from entitlements.wiring import open_store
from tests.faults.service import Service, insist
from tests.kafka import Kafka, KafkaServer
from tests.programs import Program
from tests.servers import free_port
from tests.waiting import PATIENCE_S, until

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOPICS = ("usage.recorded.v1", "credit.balance.changed.v1")


@asynccontextmanager
async def serving(url: str, folder: Path, **environment: str) -> AsyncIterator[Service]:
    policy = folder / "policy.yaml"
    policy.write_text("costs: {cj: 1}\nsignup_bonuses: {user: 1000, org: 0}\n")
    async with Service(url, policy) as service:
        await service.start(ENTITLEMENTS_CONSUMER_ENABLED="false", **environment)
        yield service


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    yield store
    await store.close()


def to(kafka: Kafka, prefix: str) -> dict[str, str]:
    return {
        "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
        "ENTITLEMENTS_TOPIC_PREFIX": prefix,
    }


def names(prefix: str) -> list[str]:
    return [f"{prefix}.entitlements.{topic}" for topic in TOPICS]


async def consume(http: httpx2.AsyncClient, user: str, times: int) -> None:
    await http.post("/v1/admin/accounts", json={"subject_type": "user", "subject_id": user})
    work = {"user_id": user, "metric": "cj", "amount": 1, "correlation_id": "c"}
    for number in range(times):
        await insist(http, f"{quote(user)}-{number}", work)


async def all_shipped(store: Store) -> None:
    async def is_empty() -> bool:
        return (await store.outbox.backlog()).events == 0

    await until(is_empty)


def records(kafka: Kafka, topics: Sequence[str]) -> list[Message]:
    """Return all records of the topics."""
    return kafka.read(*topics, count=sum(kafka.count(topic) for topic in topics))


def seqs(found: Sequence[Message], topic: str) -> dict[str, list[int]]:
    """Return the sequence numbers of balance events by key, first copies only."""
    seen: set[str] = set()
    numbers: dict[str, list[int]] = defaultdict(list)
    for record in found:
        body: Any = msgspec.json.decode(record.value() or b"")
        if record.topic() == topic and body["event_id"] not in seen:
            seen.add(body["event_id"])
            numbers[(record.key() or b"").decode()].append(body["data"]["seq"])
    return numbers


async def test_a_consumption_becomes_records(
    any_url: str, kafka_server: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    usage, balance = names(topic_prefix)
    async with (
        serving(any_url, tmp_path, **to(kafka_server, topic_prefix)) as service,
        httpx2.AsyncClient(base_url=service.url, timeout=30) as http,
        opened(any_url) as store,
    ):
        await consume(http, "åsa", 2)
        await http.post(
            "/v1/entitlements/consume-credits",
            json={"user_id": "åsa", "metric": "cj", "amount": 3, "correlation_id": "c"},
            headers={"traceparent": SPAN},
        )
        await all_shipped(store)
        state = (await http.get("/v1/admin/outbox")).json()
        metrics = (await http.get("/metrics")).text
        health = (await http.get("/healthz")).json()
        assert await service.stopped_by(signal.SIGTERM) == 0

    found = await asyncio.to_thread(records, kafka_server, [usage, balance])
    assert seqs(found, balance) == {"åsa": [1, 2, 3, 4]}
    last = next(one for one in reversed(found) if one.topic() == balance)
    given: Any = last.headers()
    headers = {name: value.decode() for name, value in given}
    body: Any = msgspec.json.decode(last.value() or b"")
    assert headers["traceparent"] == SPAN
    assert (headers["event_id"], headers["event_type"]) == (body["event_id"], balance)
    assert headers["occurred_at"] == body["event_timestamp"]
    assert (state["waiting"], state["parked"]) == (0, 0)
    assert {line["sink"] for line in state["relays"]} == {"kafka"}
    assert "\nentitlements_outbox_buckets 64.0\n" in metrics
    assert "\nentitlements_outbox_published_total 8.0\n" in metrics
    assert health["checks"]["relay"]["status"] == "healthy"


async def test_an_outage_of_the_broker_affects_no_caller_and_loses_nothing(
    url: str, crashable_kafka: KafkaServer, tmp_path: Path
) -> None:
    usage, balance = names("huleedu")
    users = [f"u{n}" for n in range(5)]
    async with (
        serving(url, tmp_path, **to(crashable_kafka, "huleedu")) as service,
        httpx2.AsyncClient(base_url=service.url, timeout=30) as http,
        opened(url) as store,
    ):
        await asyncio.gather(*(consume(http, user, 5) for user in users))
        await all_shipped(store)
        crashable_kafka.kill()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(consume(http, f"{user}-later", 5) for user in users))
        work = {"user_id": "u0", "metric": "cj", "amount": 1, "correlation_id": "c"}
        await insist(http, "during", work)
        crashable_kafka.start()
        await all_shipped(store)
        told = [msgspec.json.decode(line) for line in service.log().splitlines()]

    assert [line["event"] for line in told if line["level"] in ("warning", "error")] == [
        "access.off",
        "kafka.error",
        "relay.failing",
    ]
    found = await asyncio.to_thread(records, crashable_kafka, [usage, balance])
    expected = {user: list(range(1, 7)) for user in users}
    expected |= {f"{user}-later": list(range(1, 7)) for user in users}
    expected["u0"].append(7)
    assert seqs(found, balance) == expected


@contextmanager
def worker(url: str, log: Path, **environment: str) -> Iterator[Program]:
    clean = {name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name}
    process = Program(
        "worker", "relay", "--database", url, environment={**clean, **environment}, log=log
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_worker_publishes_alone_and_stops_gracefully(
    url: str, kafka_server: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    usage, balance = names(topic_prefix)
    port = free_port()
    broker = to(kafka_server, topic_prefix)
    async with (
        serving(url, tmp_path, ENTITLEMENTS_RELAY_ENABLED="false", **broker) as service,
        httpx2.AsyncClient(base_url=service.url, timeout=30) as http,
        opened(url) as store,
    ):
        await consume(http, "ada", 20)
        assert (await store.outbox.backlog()).events > 0
        log = tmp_path / "worker.log"
        with worker(url, log, ENTITLEMENTS_METRICS_PORT=str(port), **broker) as process:
            await all_shipped(store)
            probes = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}")
            async with probes:
                health = await probes.get("/healthz")
                metrics = await probes.get("/metrics")
                assert (await probes.get("/livez")).json() == {"status": "alive"}
                assert (await probes.get("/v1/admin/outbox")).status_code == 404
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
        assert {line.holder for line in await store.outbox.leases()} == {None}

    assert health.json()["checks"]["relay"]["status"] == "healthy"
    assert "entitlements_outbox_published_total 4" in metrics.text
    found = await asyncio.to_thread(records, kafka_server, [usage, balance])
    assert seqs(found, balance) == {"ada": list(range(1, 22))}
    assert len(found) == 41, "no record is repeated"
