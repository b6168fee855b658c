"""Events from a real broker are charged once, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from entitlements.adapters.kafka.broker import Broker
from entitlements.adapters.kafka.consumer import KafkaConsumer
from entitlements.adapters.kafka.letters import KafkaDeadLetterPublisher
from entitlements.app.engine import Engine
from entitlements.app.inbox.batch import PolledRecords
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.status import Status
from entitlements.app.inbox.store import LettersQuery
from tests.app.inbox import raw
from tests.app.inbox.events import CONSUMPTION, Sent, Story, envelope, produce, use
from tests.app.inbox.scene import (
    QUICK,
    a_consumer,
    an_engine,
    assert_told,
    give_all,
    is_paused,
    make_topics,
    until_read,
)
from tests.books import assert_books_balance
from tests.kafka import Kafka, KafkaServer
from tests.servers import PostgresServer
from tests.tables import migrate
from tests.waiting import until


def migrated(server: PostgresServer) -> str:
    """Return the URL of a migrated database."""
    url = server.create_database()
    migrate(url)
    return url


async def test_a_stream_with_repeats_is_charged_once_and_malformed_events_are_dead_lettered(
    kafka_server: Kafka, topic_prefix: str, url: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=50, seed=1).tell(2_000)
    await make_topics(kafka_server.bootstrap, topic_prefix)
    await give_all(url, topic_prefix, 50)
    produce(kafka_server.bootstrap, topic, story.sent)

    async with a_consumer(url, kafka_server.bootstrap, topic_prefix) as engine:
        await until_read(url, story)
        consumer = engine.watch.consumer
        assert consumer is not None
        await until(lambda: sum(one.lag or 0 for one in consumer.state.partitions) == 0)

    await assert_told(url, story)
    copies = kafka_server.read(f"{topic}.dlq", count=len(story.malformed))
    assert sorted((m.key(), m.value()) for m in copies) == sorted(
        (one.key.encode(), one.value) for one in story.malformed
    )
    assert all(("x-dlq-reason", b"malformed") in (m.headers() or ()) for m in copies)
    assert engine.conflicts.by_metric.total() == story.results["conflict"]
    await assert_books_balance(url)


async def test_an_unavailable_database_pauses_it_and_dead_letters_nothing(
    kafka_server: Kafka, topic_prefix: str, crashable_postgres: PostgresServer
) -> None:
    url = await asyncio.to_thread(migrated, crashable_postgres)
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=20, seed=2).tell(1_200)
    await make_topics(kafka_server.bootstrap, topic_prefix, partitions=3)
    await give_all(url, topic_prefix, 20)
    half = len(story.sent) // 2
    produce(kafka_server.bootstrap, topic, story.sent[:half])

    async with a_consumer(url, kafka_server.bootstrap, topic_prefix) as engine:
        await until(lambda: engine.intake.tallies.events.total() > 0)
        await asyncio.to_thread(crashable_postgres.kill)
        produce(kafka_server.bootstrap, topic, story.sent[half:])
        await until(lambda: is_paused(engine))
        await asyncio.to_thread(crashable_postgres.start)
        await until(lambda: not is_paused(engine))
        await until_read(url, story)

    await assert_told(url, story)
    await assert_books_balance(url)


async def test_a_record_with_unreadable_headers_is_processed(
    kafka_server: Kafka, topic_prefix: str, url: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    await make_topics(kafka_server.bootstrap, topic_prefix, partitions=1)
    await give_all(url, topic_prefix, 1)
    for number in range(2):
        value = envelope(topic, use("u0", 1, processing_id=f"p{number}"))
        raw.produce(kafka_server.bootstrap, topic, value, {b"\xff": b"no text", b"n": b"1"})

    async with a_consumer(url, kafka_server.bootstrap, topic_prefix) as engine:
        await until(lambda: engine.intake.tallies.events["credit", "charged"] == 2)


async def test_without_a_dead_letter_topic_the_database_keeps_them_and_consumption_continues(
    kafka_server: Kafka, topic_prefix: str, url: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    kafka_server.create_topic(topic, partitions=1)
    await give_all(url, topic_prefix, 1)
    unreadable, readable = Sent("u0", b"{}"), Sent("u0", envelope(topic, use("u0", 3)))
    produce(kafka_server.bootstrap, topic, [unreadable, readable])

    async with a_consumer(url, kafka_server.bootstrap, topic_prefix) as engine:
        await until(lambda: engine.intake.tallies.events["credit", "charged"] == 1)
        (letter,) = (await engine.store.inbox.dead_letters(LettersQuery())).rows

    assert letter.value == b"{}"


async def test_it_waits_for_a_killed_broker(crashable_kafka: KafkaServer, url: str) -> None:
    topic = f"prefix.{CONSUMPTION}"
    story = Story(topic, users=20, seed=3).tell(600)
    await make_topics(crashable_kafka.bootstrap, "prefix", partitions=2)
    await give_all(url, "prefix", 20)
    half = len(story.sent) // 2
    produce(crashable_kafka.bootstrap, topic, story.sent[:half])

    async with a_consumer(url, crashable_kafka.bootstrap, "prefix") as engine:
        await until(lambda: engine.intake.tallies.events.total() > 0)
        await asyncio.to_thread(crashable_kafka.kill)
        await asyncio.to_thread(crashable_kafka.start)
        produce(crashable_kafka.bootstrap, topic, story.sent[half:])
        await until_read(url, story)
        consumer = engine.watch.consumer
        assert consumer is not None
        assert consumer.state.restarts == 0

    await assert_told(url, story)


async def test_consumers_that_join_and_leave_share_the_topic_and_charge_nothing_twice(
    kafka_server: Kafka, topic_prefix: str, url: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=50, seed=4).tell(3_000)
    await make_topics(kafka_server.bootstrap, topic_prefix)
    await give_all(url, topic_prefix, 50)
    third = len(story.sent) // 3
    one, two, three = (a_consumer(url, kafka_server.bootstrap, topic_prefix) for _ in range(3))

    async with two as second:
        async with one as first:
            produce(kafka_server.bootstrap, topic, story.sent[:third])
            await until(lambda: shares(first, second) == [9, 9])
            produce(kafka_server.bootstrap, topic, story.sent[third : 2 * third])
        async with three as third_one:
            produce(kafka_server.bootstrap, topic, story.sent[2 * third :])
            await until(lambda: shares(second, third_one) == [9, 9])
            await until_read(url, story)

    await assert_told(url, story)


def shares(*engines: Engine) -> list[int]:
    """Return the number of partitions of each consumer."""
    return [len(one.watch.consumer.state.partitions) for one in engines if one.watch.consumer]


async def test_a_consumer_that_fails_restarts_at_its_position(
    kafka_server: Kafka, topic_prefix: str, url: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=5, seed=5).tell(50)
    await make_topics(kafka_server.bootstrap, topic_prefix, partitions=1)
    await give_all(url, topic_prefix, 5)
    produce(kafka_server.bootstrap, topic, story.sent)
    failures = iter([ValueError("a mistake of ours")])

    async with an_engine(url, topic_prefix) as engine:
        letters = KafkaDeadLetterPublisher(Broker(kafka_server.bootstrap), "test-letters")

        def begin(records: Sequence[ConsumerRecord]) -> PolledRecords:
            for failure in failures:
                raise failure
            return PolledRecords(engine.intake, engine.store.inbox, letters, records)

        async with KafkaConsumer(
            Broker(kafka_server.bootstrap, QUICK),
            group=topic_prefix,
            client_id="test",
            topics=[topic],
            begin=begin,
        ) as consumer:
            await until_read(url, story)
            state = consumer.state

    assert (state.restarts, state.status) == (1, Status.RUNNING)
    assert consumer.state.status is Status.STOPPED
    await assert_told(url, story)
