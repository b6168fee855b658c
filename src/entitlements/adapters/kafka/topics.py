"""Creates the topics that the service reads and writes, where it has the right to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final

from entitlements.adapters.kafka.broker import Broker, Unreachable, options_error
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import retry_until_done
from entitlements.contracts.events.topics import DLQ, INBOUND, OUTBOUND

log = EventLog(__name__)

TIMEOUT_S: Final = 3.0
RETRY_INTERVAL_S: Final = 2.0
TRANSIENT_ERRORS: Final = ("NOT_CONTROLLER", "REQUEST_TIMED_OUT", "THROTTLING_QUOTA_EXCEEDED")


def topic_names(prefix: str) -> list[str]:
    """Return the topics that the service reads and writes, and its dead letter topics."""
    read = [topic.under(prefix) for topic in INBOUND]
    written = [topic.under(prefix) for topic in OUTBOUND]
    return [*read, *written, *(name + DLQ for name in read)]


async def topics_ensured(broker: Broker, names: Iterable[str], *, partitions: int) -> None:
    """Ensure that the topics exist; retry while no broker is reachable. Errors are logged."""
    wanted = list(names)
    ensure = partial(ensure_topics, broker, wanted, partitions=partitions)
    try:
        await retry_until_done(
            ensure, on=Unreachable, pause_s=RETRY_INTERVAL_S, log=log, event="topics.postponed"
        )
    except Exception:
        log.exception("topics.failed")


async def ensure_topics(broker: Broker, names: Iterable[str], *, partitions: int) -> list[str]:
    """Create missing topics with the broker's default replication; return the created ones.

    A topic that the service may not create, or that the broker's rules refuse, is logged. Raises
    Unreachable.
    """
    return await asyncio.to_thread(_ensure, broker, list(names), partitions)


def _ensure(broker: Broker, names: list[str], partitions: int) -> list[str]:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    try:
        admin = AdminClient(broker.client("entitlements-service-admin", defaults={}, required={}))
    except KafkaException as error:
        raise options_error(error) from None
    try:
        there = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise Unreachable(str(error.args[0].str())) from None
    missing = [NewTopic(name, partitions, -1) for name in names if name not in there]
    if not missing:
        return []
    created: list[str] = []
    waited_for = admin.create_topics(missing, request_timeout=TIMEOUT_S)
    for name, answer in waited_for.items():
        try:
            answer.result(timeout=2 * TIMEOUT_S)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            # Negative codes come from the library: the broker has not responded.
            if reason.code() < 0 or reason.name() in TRANSIENT_ERRORS:
                raise Unreachable(str(reason.str())) from None
            log.warning("topic.missing", topic=name, reason=str(reason.str()))
        except TimeoutError:
            raise Unreachable("the broker did not confirm the creation of the topics") from None
        else:
            created.append(name)
    log.info("topics.created", topics=", ".join(created), partitions=partitions)
    return created
