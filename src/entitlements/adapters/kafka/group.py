"""The broker's view of a consumer group, over all processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from entitlements.adapters.kafka.broker import Broker, Unreachable, options_error
from entitlements.app.inbox.status import Group, GroupPartition

TIMEOUT_S: Final = 5.0
RETRY_INTERVAL_S: Final = 0.2
TRANSIENT_ERRORS: Final = (
    "NOT_COORDINATOR",
    "COORDINATOR_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
)


async def describe_group(broker: Broker, group: str, topics: Sequence[str]) -> Group:
    """Return every partition of the topics and its reader. Raises Unreachable, OptionsUnusable."""
    return await asyncio.to_thread(_describe, broker, group, topics)


def _describe(broker: Broker, group: str, topics: Sequence[str]) -> Group:
    from confluent_kafka import Consumer, KafkaException

    try:
        consumer = Consumer(
            broker.client("entitlements-cli", defaults={}, required={"group.id": group})
        )
    except KafkaException as error:
        raise options_error(error) from None
    try:
        committed = _committed(consumer, _places(consumer, topics))
        members = _members(broker, group)
        partitions = []
        for place in committed:
            low, high = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
            position = max(low, place.offset)
            partitions.append(
                GroupPartition(
                    topic=place.topic,
                    partition=place.partition,
                    position=position,
                    lag=high - position,
                    member=members.get((place.topic, place.partition)),
                )
            )
    except KafkaException as error:
        raise Unreachable(str(error.args[0].str())) from None
    finally:
        consumer.close()
    return Group(name=group, partitions=tuple(partitions))


def _committed(consumer: Any, places: list[Any]) -> list[Any]:
    """Return the group's committed offsets; retry while a broker is starting."""
    from confluent_kafka import KafkaException

    until = time.monotonic() + TIMEOUT_S
    while places:
        try:
            found: list[Any] = consumer.committed(places, timeout=TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].name() not in TRANSIENT_ERRORS or time.monotonic() > until:
                raise
            time.sleep(RETRY_INTERVAL_S)
        else:
            return found
    return []


def _places(consumer: Any, topics: Sequence[str]) -> list[Any]:
    from confluent_kafka import TopicPartition

    known = consumer.list_topics(timeout=TIMEOUT_S).topics
    return [
        TopicPartition(topic, number)
        for topic in topics
        if topic in known
        for number in sorted(known[topic].partitions)
    ]


def _members(broker: Broker, group: str) -> dict[tuple[str, int], str]:
    """Return the member that reads each partition; empty for an unknown group."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(broker.client("entitlements-cli", defaults={}, required={}))
    asked = admin.describe_consumer_groups([group], request_timeout=TIMEOUT_S)[group]
    try:
        found = asked.result(timeout=2 * TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return {}
        raise
    return {
        (place.topic, place.partition): member.client_id
        for member in found.members
        if member.assignment is not None
        for place in member.assignment.topic_partitions
    }
