"""What the broker knows of a consumer group, whichever processes its members are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from entitlements.adapters.kafka.broker import Broker, Unreachable, unusable
from entitlements.app.ingest.state import Group, GroupPartition

PATIENCE_S: Final = 5.0
AGAIN_S: Final = 0.2
PASSING: Final = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS")


async def group_standing(broker: Broker, group: str, topics: Sequence[str]) -> Group:
    """Every partition of the topics, and who reads it. Raises Unreachable, OptionsUnusable."""
    return await asyncio.to_thread(_standing, broker, group, topics)


def _standing(broker: Broker, group: str, topics: Sequence[str]) -> Group:
    from confluent_kafka import Consumer, KafkaException

    try:
        consumer = Consumer(broker.client("entitlements-cli", usual={}, ours={"group.id": group}))
    except KafkaException as error:
        raise unusable(error) from None
    try:
        committed = _committed(consumer, _places(consumer, topics))
        members = _members(broker, group)
        partitions = []
        for place in committed:
            low, high = consumer.get_watermark_offsets(place, timeout=PATIENCE_S)
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
    """Where the group reads on. A broker that has just begun is asked again."""
    from confluent_kafka import KafkaException

    until = time.monotonic() + PATIENCE_S
    while places:
        try:
            found: list[Any] = consumer.committed(places, timeout=PATIENCE_S)
        except KafkaException as error:
            if error.args[0].name() not in PASSING or time.monotonic() > until:
                raise
            time.sleep(AGAIN_S)
        else:
            return found
    return []


def _places(consumer: Any, topics: Sequence[str]) -> list[Any]:
    from confluent_kafka import TopicPartition

    known = consumer.list_topics(timeout=PATIENCE_S).topics
    return [
        TopicPartition(topic, number)
        for topic in topics
        if topic in known
        for number in sorted(known[topic].partitions)
    ]


def _members(broker: Broker, group: str) -> dict[tuple[str, int], str]:
    """Who reads which partition; nobody in a group that never was."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(broker.client("entitlements-cli", usual={}, ours={}))
    asked = admin.describe_consumer_groups([group], request_timeout=PATIENCE_S)[group]
    try:
        found = asked.result(timeout=2 * PATIENCE_S)
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
