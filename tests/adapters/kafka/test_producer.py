"""`KafkaSink` against a real broker."""

import asyncio
import logging
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec

import aiokafka
import confluent_kafka
import pytest

from entitlements.adapters.kafka.broker import Broker, OptionsUnusable
from entitlements.adapters.kafka.letters import KafkaDeadLetterPublisher
from entitlements.adapters.kafka.producer import KafkaSink
from entitlements.app.inbox.store import DeadLetter, Reason
from entitlements.app.outbox.sink import Acked, Message, NotAcked, PublishResult, Undeliverable
from entitlements.contracts.events.topics import INBOUND, OUTBOUND
from tests.kafka import Kafka, KafkaServer, reader
from tests.waiting import PATIENCE_S

CLIENT = "entitlements-service-producer"
LONG = b"compresses well " * 200


def a_message(topic: str, key: str, number: int, *, payload: str | None = None) -> Message:
    event_id = f"{key}-{number:06}"
    return Message(
        event_id=event_id,
        topic=topic,
        key=key,
        payload=f'{{"n": {number}}}' if payload is None else payload,
        headers={"event_id": event_id, "source_service": "entitlements_service"},
    )


def noise(size: int) -> str:
    """Return text that compresses to no less than half its size."""
    return random.Random(size).randbytes(size // 2).hex()


def kinds(results: Iterable[PublishResult]) -> list[type[PublishResult]]:
    known = (Acked, Undeliverable, NotAcked)
    return [next(kind for kind in known if isinstance(result, kind)) for result in results]


def event_ids(records: Iterable[confluent_kafka.Message]) -> list[str]:
    return [header(record, "event_id") for record in records]


def header(record: confluent_kafka.Message, name: str) -> str:
    value = dict(record.headers() or [])[name]
    assert isinstance(value, bytes)
    return value.decode()


def first_occurrences(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the event ids of each key in order, without repeats."""
    by_key: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for event_id in ids:
        by_key[event_id.rsplit("-", 1)[0]].setdefault(event_id)
    return {key: list(seen) for key, seen in by_key.items()}


async def relay(sink: KafkaSink, messages: Sequence[Message], *, batch: int = 500) -> None:
    """Publish in order until all messages are acknowledged, as a relay does."""
    unsent = list(messages)
    while unsent:
        results = await sink.publish(unsent[:batch])
        assert Undeliverable not in kinds(results)
        pairs = zip(unsent, results, strict=False)
        kept = [message for message, result in pairs if not isinstance(result, Acked)]
        unsent = kept + unsent[batch:]


@pytest.fixture
async def sink(kafka_server: Kafka) -> AsyncIterator[KafkaSink]:
    """A sink with a timeout that suits a loaded machine."""
    async with KafkaSink(Broker(kafka_server.bootstrap), CLIENT, timeout_s=PATIENCE_S) as opened:
        yield opened


@pytest.fixture
def topic(kafka_server: Kafka, topic_prefix: str) -> str:
    kafka_server.create_topic(topic_prefix, partitions=4)
    return topic_prefix


async def test_a_record_has_key_payload_and_headers(
    sink: KafkaSink, kafka_server: Kafka, topic: str
) -> None:
    message = Message(
        event_id="e-1",
        topic=topic,
        key="skolan-åäö",
        payload='{"data": "é"}',
        headers={"event_id": "e-1", "traceparent": "00-ab-cd-01"},
    )

    assert await sink.publish([message]) == [Acked()]

    (record,) = kafka_server.read(topic, count=1)
    assert record.key() == "skolan-åäö".encode()
    assert record.value() == '{"data": "é"}'.encode()
    assert record.headers() == [("event_id", b"e-1"), ("traceparent", b"00-ab-cd-01")]


async def test_every_key_keeps_its_order(sink: KafkaSink, kafka_server: Kafka, topic: str) -> None:
    messages = [a_message(topic, f"user{n % 20}", n) for n in range(2_000)]
    batches = [messages[at : at + 400] for at in range(0, 2_000, 400)]

    for batch in batches:
        assert set(kinds(await sink.publish(batch))) == {Acked}

    ids = event_ids(kafka_server.read(topic, count=2_000))
    assert first_occurrences(ids) == first_occurrences(m.event_id for m in messages)
    assert kafka_server.count(topic) == 2_000


async def test_an_empty_batch_is_published_immediately(sink: KafkaSink) -> None:
    assert await sink.publish([]) == []


async def test_a_full_queue_is_waited_for(kafka_server: Kafka, topic: str) -> None:
    broker = Broker(kafka_server.bootstrap, {"queue.buffering.max.messages": "50"})
    async with KafkaSink(broker, CLIENT) as sink:
        results = await sink.publish([a_message(topic, "ada", n) for n in range(1_000)])

    assert set(kinds(results)) == {Acked}
    ids = event_ids(kafka_server.read(topic, count=1_000))
    assert ids == [f"ada-{n:06}" for n in range(1_000)]


async def test_a_record_above_the_clients_size_limit_is_refused_and_others_are_sent(
    sink: KafkaSink, kafka_server: Kafka, topic: str
) -> None:
    big = a_message(topic, "ada", 1, payload="x" * 1_000_001)

    results = await sink.publish([a_message(topic, "ada", 0), big, a_message(topic, "ada", 2)])

    assert kinds(results) == [Acked, Undeliverable, Acked]
    assert isinstance(results[1], Undeliverable)
    assert results[1].reason.startswith("MSG_SIZE_TOO_LARGE")
    assert event_ids(kafka_server.read(topic, count=2)) == ["ada-000000", "ada-000002"]


async def test_a_record_that_the_broker_refuses_is_isolated_and_the_producer_replaced(
    sink: KafkaSink, kafka_server: Kafka, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    kafka_server.create_topic(topic_prefix, config={"max.message.bytes": "3000"})
    messages = [a_message(topic_prefix, f"user{n % 3}", n) for n in range(12)]
    messages[4] = a_message(topic_prefix, "user1", 4, payload=noise(9_000))
    caplog.set_level(logging.INFO, "entitlements")

    results = await sink.publish(messages)

    assert kinds(results) == [Undeliverable if n == 4 else Acked for n in range(12)]
    assert "producer.replaced" in [getattr(record, "event", "") for record in caplog.records]
    assert await sink.publish([a_message(topic_prefix, "user1", 12)]) == [Acked()]
    ids = event_ids(kafka_server.read(topic_prefix, count=12))
    expected = [m.event_id for m in messages if m.event_id != "user1-000004"] + ["user1-000012"]
    assert first_occurrences(ids) == first_occurrences(expected)


async def test_a_missing_topic_holds_back_only_its_keys_until_it_is_created(
    sink: KafkaSink, kafka_server: Kafka, topic: str
) -> None:
    missing = f"{topic}.missing"
    messages = [
        a_message(topic, "ada", 0),
        a_message(missing, "ada", 1),
        a_message(topic, "ada", 2),
        a_message(topic, "bob", 3),
    ]

    assert kinds(await sink.publish(messages)) == [Acked, NotAcked, NotAcked, Acked]
    for _ in range(3):
        assert kinds(await sink.publish(messages[1:])) == [NotAcked, NotAcked, Acked]
    assert (
        event_ids(kafka_server.read(topic, count=kafka_server.count(topic))).count("ada-000002")
        == 1
    ), "a message that waits for an earlier one of its key is not sent repeatedly"
    kafka_server.create_topic(missing)
    async with asyncio.timeout(PATIENCE_S):
        await relay(sink, messages[1:3])

    assert event_ids(kafka_server.read(missing, count=1)) == ["ada-000001"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "two words", "a/b", "åäö", "a:b", "a" * 250, "a" * 600, "a\0b"]
)
async def test_an_invalid_topic_name_is_refused_and_others_are_sent(
    sink: KafkaSink, topic: str, name: str
) -> None:
    messages = [
        a_message(topic, "ada", 0),
        a_message(name, "ada", 1),
        a_message(topic, "ada", 2),
        a_message(topic, "bob", 3),
    ]

    results = await sink.publish(messages)

    assert kinds(results) == [Acked, Undeliverable, Acked, Acked], results
    assert isinstance(results[1], Undeliverable)
    assert "topic" in results[1].reason


async def test_a_payload_that_cannot_be_encoded_is_refused_and_others_are_sent(
    sink: KafkaSink, topic: str
) -> None:
    messages = [
        a_message(topic, "ada", 0),
        a_message(topic, "ada", 1, payload="\ud800"),
        a_message(topic, "ada", 2),
    ]

    assert kinds(await sink.publish(messages)) == [Acked, Undeliverable, Acked]


@pytest.fixture
def events(crashable_kafka: KafkaServer) -> str:
    """Return the name of a topic on the crashable broker. The topic does not exist yet."""
    return crashable_kafka.prefix()


async def test_publishing_times_out_while_the_broker_does_not_respond(
    crashable_kafka: KafkaServer, events: str
) -> None:
    crashable_kafka.create_topic(events)
    messages = [a_message(events, "ada", n) for n in range(50)]
    async with KafkaSink(Broker(crashable_kafka.bootstrap), CLIENT, timeout_s=1) as sink:
        await relay(sink, messages[:10])

        crashable_kafka.pause()
        async with asyncio.timeout(PATIENCE_S):
            assert set(kinds(await sink.publish(messages[10:]))) == {NotAcked}
        crashable_kafka.resume()
        await relay(sink, messages[10:])

    seen = event_ids(crashable_kafka.read(events, count=crashable_kafka.count(events)))
    assert first_occurrences(seen) == {"ada": [m.event_id for m in messages]}


async def test_a_producer_that_gave_up_sends_nothing_more(kafka_server: Kafka, topic: str) -> None:
    broker = Broker(kafka_server.bootstrap, {"linger.ms": "900"})
    async with KafkaSink(broker, CLIENT, timeout_s=0.2) as sink:
        assert kinds(await sink.publish([a_message(topic, "ada", 0)])) == [NotAcked]

        with reader(kafka_server.bootstrap, [topic]) as consumer:
            assert await asyncio.to_thread(consumer.poll, 1.5) is None


async def test_nothing_is_lost_or_out_of_order_when_the_broker_is_killed_mid_stream(
    crashable_kafka: KafkaServer, events: str
) -> None:
    crashable_kafka.create_topic(events, partitions=3)
    messages = [a_message(events, f"user{n % 7}", n) for n in range(20_000)]
    async with KafkaSink(Broker(crashable_kafka.bootstrap), CLIENT, timeout_s=2) as sink:
        relaying = asyncio.create_task(relay(sink, messages, batch=100))
        while await asyncio.to_thread(crashable_kafka.count, events) < 500:
            assert not relaying.done()

        await asyncio.to_thread(crashable_kafka.kill)
        assert not relaying.done()
        await asyncio.to_thread(crashable_kafka.start)
        await relaying

    seen = event_ids(crashable_kafka.read(events, count=crashable_kafka.count(events)))
    assert first_occurrences(seen) == first_occurrences(m.event_id for m in messages)


async def test_publishing_fails_quickly_when_no_broker_is_reachable(
    crashable_kafka: KafkaServer, events: str
) -> None:
    crashable_kafka.create_topic(events)
    async with KafkaSink(Broker(crashable_kafka.bootstrap), CLIENT, timeout_s=3_600) as sink:
        await relay(sink, [a_message(events, "ada", 0)])
        crashable_kafka.kill()

        async with asyncio.timeout(PATIENCE_S):
            assert kinds(await sink.publish([a_message(events, "ada", 1)])) == [NotAcked]
        await asyncio.to_thread(crashable_kafka.start)
        await relay(sink, [a_message(events, "ada", 1)])

    assert crashable_kafka.count(events) == 2


async def test_closing_fails_the_calls_in_progress(
    crashable_kafka: KafkaServer, events: str
) -> None:
    crashable_kafka.create_topic(events)
    sink = KafkaSink(Broker(crashable_kafka.bootstrap), CLIENT, timeout_s=2)
    async with sink:
        crashable_kafka.kill()
        waiting = asyncio.create_task(sink.publish([a_message(events, "ada", 0)]))
        await asyncio.sleep(0)

    assert kinds(await waiting) == [NotAcked]


async def test_concurrent_calls_each_get_their_results(
    sink: KafkaSink, kafka_server: Kafka, topic: str
) -> None:
    calls = [
        sink.publish([a_message(topic, f"user{caller}", n) for n in range(100)])
        for caller in range(10)
    ]

    answers = await asyncio.gather(*calls)

    assert Counter(kind for results in answers for kind in kinds(results)) == {Acked: 1_000}
    ids = event_ids(kafka_server.read(topic, count=1_000))
    assert all(seen == sorted(seen) for seen in first_occurrences(ids).values())


async def test_each_error_of_the_library_is_logged_once(
    crashable_kafka: KafkaServer, events: str, caplog: pytest.LogCaptureFixture
) -> None:
    crashable_kafka.kill()
    async with KafkaSink(Broker(crashable_kafka.bootstrap), CLIENT, timeout_s=1) as sink:
        await sink.publish([a_message(events, "ada", 0)])

    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    errors = [line for line in told if line.startswith("kafka.error")]
    assert errors
    assert len(errors) == len({line.split("error=")[1].split()[0] for line in errors})


async def test_options_that_the_library_rejects_prevent_the_start() -> None:
    with pytest.raises(OptionsUnusable, match=r"linger\.ms|queue\.buffering\.max\.ms"):
        async with KafkaSink(Broker("127.0.0.1:9", {"linger.ms": "soon"}), CLIENT):
            pass


async def test_a_client_without_optional_codecs_reads_every_topic(
    kafka_server: Kafka, topic_prefix: str
) -> None:
    assert find_spec("cramjam") is None, "cramjam provides the codecs"
    topics = [topic.under(topic_prefix) for topic in OUTBOUND]
    reported = INBOUND[0].under(topic_prefix)
    letter = DeadLetter(
        id="1",
        topic=reported,
        partition=0,
        offset=0,
        key=b"a",
        value=LONG,
        reason=Reason.MALFORMED,
        detail="no JSON",
        died_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    everywhere = {*topics, f"{reported}.dlq"}
    for topic in everywhere:
        kafka_server.create_topic(topic)
    broker = Broker(kafka_server.bootstrap)

    async with KafkaSink(broker, CLIENT) as sink:
        messages = [a_message(topic, "a", 1, payload=LONG.decode()) for topic in topics]
        assert kinds(await sink.publish(messages)) == [Acked] * len(topics)
    await KafkaDeadLetterPublisher(broker, "letters").send([letter])

    consumer = aiokafka.AIOKafkaConsumer(
        *everywhere, bootstrap_servers=kafka_server.bootstrap, auto_offset_reset="earliest"
    )
    async with consumer, asyncio.timeout(PATIENCE_S):
        read = [await anext(consumer) for _ in everywhere]
    assert {record.topic for record in read} == everywhere
    assert {record.value for record in read} == {LONG}
