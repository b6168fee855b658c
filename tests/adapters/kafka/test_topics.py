"""Topic creation on a real broker."""

import asyncio
import logging
import re

import pytest

from entitlements.adapters.kafka.broker import Broker, OptionsUnusable, Unreachable
from entitlements.adapters.kafka.group import describe_group
from entitlements.adapters.kafka.topics import ensure_topics, topic_names, topics_ensured
from tests.kafka import Kafka, KafkaServer
from tests.servers import free_port


async def test_only_missing_topics_are_created(kafka_server: Kafka, topic_prefix: str) -> None:
    there, new, other = (f"{topic_prefix}.{name}" for name in ("there", "new", "other"))
    kafka_server.create_topic(there, partitions=1)
    broker = Broker(kafka_server.bootstrap)

    assert sorted(await ensure_topics(broker, [there, new, other], partitions=3)) == [new, other]
    assert kafka_server.partitions(new) == kafka_server.partitions(other) == 3
    assert await ensure_topics(broker, [there, new, other], partitions=5) == []

    assert [kafka_server.partitions(name) for name in (there, new, other)] == [1, 3, 3]


async def test_every_consumed_produced_and_dead_letter_topic_is_created(
    kafka_server: Kafka, topic_prefix: str
) -> None:
    names = topic_names(topic_prefix)

    assert await ensure_topics(Broker(kafka_server.bootstrap), names, partitions=1) == names

    assert f"{topic_prefix}.resource.consumption.v1" in names
    assert f"{topic_prefix}.resource.consumption.v1.dlq" in names
    assert f"{topic_prefix}.entitlements.credit.balance.changed.v1" in names
    assert f"{topic_prefix}.entitlements.credit.balance.changed.v1.dlq" not in names


async def test_services_can_create_topics_concurrently(
    kafka_server: Kafka, topic_prefix: str
) -> None:
    names = [f"{topic_prefix}.{number}" for number in range(5)]
    broker = Broker(kafka_server.bootstrap)

    made = await asyncio.gather(*(ensure_topics(broker, names, partitions=1) for _ in range(3)))

    assert sorted(name for by_one in made for name in by_one) == names


async def test_a_topic_that_the_broker_refuses_is_logged_as_a_warning(
    kafka_server: Kafka, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = f"{topic_prefix}/bad", f"{topic_prefix}.good"

    await topics_ensured(Broker(kafka_server.bootstrap), [bad, good], partitions=1)

    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [bad in line for line in warned] == [True]
    assert kafka_server.partitions(good) == 1


async def test_a_broker_that_starts_later_is_waited_for(crashable_kafka: KafkaServer) -> None:
    crashable_kafka.kill()
    broker = Broker(crashable_kafka.bootstrap)
    waiting = asyncio.create_task(topics_ensured(broker, ["late"], partitions=1))
    with pytest.raises(Unreachable):
        await ensure_topics(broker, ["late"], partitions=1)
    assert not waiting.done()

    await asyncio.to_thread(crashable_kafka.start)
    await waiting

    assert crashable_kafka.partitions("late") == 1


@pytest.mark.parametrize("name", ["sasl.pasword", "security.protocol", "message.max.bytes"])
async def test_options_that_the_library_rejects_are_named_without_values(name: str) -> None:
    broker = Broker(f"127.0.0.1:{free_port()}", {name: "31415926535"})

    with pytest.raises(OptionsUnusable, match=re.escape(name)) as refused:
        await ensure_topics(broker, ["x"], partitions=1)

    assert "31415926535" not in str(refused.value) + repr(broker)
    with pytest.raises(OptionsUnusable, match=re.escape(name)):
        await describe_group(broker, "readers", ["x"])
