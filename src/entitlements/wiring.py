"""The stores, limiters and sinks for the configured URLs, built from the concrete adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from entitlements.adapters import named_sql
from entitlements.adapters.kafka.broker import Broker
from entitlements.adapters.memory.limiter import MemoryLimiter, Unlimited
from entitlements.adapters.sqlite import address as sqlite
from entitlements.app.engine import Engine, Store
from entitlements.app.inbox.batch import PolledRecords
from entitlements.app.inbox.status import Group
from entitlements.app.limits.backfill import Recounting
from entitlements.app.limits.limiter import Limiter, SharedLimiter
from entitlements.app.operations.origin import OlderTables
from entitlements.app.outbox.bus import Bus
from entitlements.app.outbox.relay import Destination
from entitlements.app.outbox.sink import Sink
from entitlements.app.policy.cache_copy import PolicyCopy
from entitlements.app.ports import CHECK_S, AddressUnusable, Migrated
from entitlements.app.process.clock import in_ms
from entitlements.app.verify.findings import Finding
from entitlements.contracts.events.topics import INBOUND

DAY_S: Final = 86_400.0
HANDLERS_S: Final = 3.0
"""How long a stopping process waits for a handler that has not returned, in seconds."""


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite database; None for PostgreSQL. Raise AddressUnusable."""
    if not url.startswith("sqlite:"):
        return None
    if why := sqlite.problem(url):
        raise AddressUnusable("the database", why)
    return sqlite.path(url)


async def open_store(
    url: str,
    *,
    clock: Callable[[], datetime] | None = None,
    pool_min: int = 1,
    pool_max: int = 10,
    check_s: float = CHECK_S,
    statement_cache: bool = True,
) -> Store:
    """Open the store of the URL. A SQLite file is migrated automatically.

    ``check_s`` is the deadline for PostgreSQL reads of a check, in seconds. Without
    ``statement_cache``, statements are prepared for each use, as PgBouncer before 1.21 requires.
    Raise SchemaMismatch, StoreUnavailable or AddressUnusable.
    """
    if (path := file_of(url)) is not None:
        from entitlements.adapters.sqlite.store import SqliteStore

        file = await SqliteStore.open(path, clock=clock)
        await file.migrate()
        return file
    from entitlements.adapters.postgres.store import PostgresStore

    store = await PostgresStore.open(
        url,
        clock=clock,
        pool_min=pool_min,
        pool_max=pool_max,
        check_s=check_s,
        statement_cache=statement_cache,
    )
    try:
        await store.check_schema()
    except BaseException:
        await store.close()
        raise
    return store


async def migrate(url: str, service_role: str | None = None) -> Migrated:
    """Migrate the database, and grant a PostgreSQL ``service_role`` the service's privileges."""
    if (path := file_of(url)) is not None:
        from entitlements.adapters.sqlite.store import SqliteStore

        file = await SqliteStore.open(path)
        try:
            return Migrated(await file.migrate(), [])
        finally:
            await file.close()
    from entitlements.adapters.postgres.migrate import migrate_at

    return await migrate_at(url, service_role)


def older_service(url: str) -> AbstractAsyncContextManager[OlderTables]:
    """Return the older service's tables at the URL, open while it is entered.

    Raise AddressUnusable; entering it raises StoreUnavailable.
    """
    if (path := file_of(url)) is not None:
        from entitlements.adapters.sqlite.origin import SqliteOrigin

        return SqliteOrigin.open(path)
    from entitlements.adapters.postgres.origin import PostgresOrigin

    return PostgresOrigin.open(url)


async def verify(url: str) -> list[Finding]:
    """Return the violated invariants of the ledger; the list should be empty."""
    if (path := file_of(url)) is not None:
        from entitlements.adapters.sqlite import verify as in_file

        return await in_file.verify(path)
    from entitlements.adapters.postgres import verify as in_server

    return await in_server.verify(url)


def invariants() -> tuple[str, ...]:
    """Return the names of the invariants that `verify` checks."""
    return tuple(named_sql.load("entitlements.adapters", "invariants.sql"))


class Limiters(NamedTuple):
    """The limiters, as arguments of `engine.running`."""

    local: Limiter
    shared: SharedLimiter | None = None
    recounting: Recounting | None = None


UNLIMITED: Final = Limiters(Unlimited())


async def limiters(
    redis_url: str | None, clock: Callable[[], datetime], stack: AsyncExitStack
) -> Limiters:
    """Return the local limiter, and with ``redis_url`` the shared one, which the stack closes."""
    local = MemoryLimiter(lambda: in_ms(clock()))
    if redis_url is None:
        return Limiters(local, recounting=local)
    from entitlements.adapters.redis.limiter import RedisLimiter

    shared = await stack.enter_async_context(RedisLimiter(redis_url))
    return Limiters(local, shared)


async def policy_copy(redis_url: str | None, stack: AsyncExitStack) -> PolicyCopy | None:
    if redis_url is None:
        return None
    from entitlements.adapters.redis.policy_copy import RedisPolicyCopy

    return await stack.enter_async_context(RedisPolicyCopy(redis_url))


def bus_destination(bus: Bus, retention_s: float = DAY_S) -> Destination:
    """Publish events to subscribers in this process; without any, they count as published."""
    return Destination(
        sink=bus,
        retention_s=retention_s,
        stop_s=HANDLERS_S,
        has_subscribers=lambda: bus.has_subscribers,
    )


def kafka_sink(broker: Broker, client_id: str) -> AbstractAsyncContextManager[Sink]:
    """Return a sink that publishes events to Kafka while it is entered.

    Entering it raises OptionsUnusable; it does not need a reachable broker.
    """
    from entitlements.adapters.kafka.producer import KafkaSink

    return KafkaSink(broker, client_id)


@asynccontextmanager
async def kafka_topics(broker: Broker, prefix: str, partitions: int) -> AsyncIterator[None]:
    """Create missing topics in the background, as soon as Kafka is reachable."""
    from entitlements.adapters.kafka.topics import topic_names, topics_ensured

    making = asyncio.create_task(topics_ensured(broker, topic_names(prefix), partitions=partitions))
    try:
        yield
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


@asynccontextmanager
async def consuming(
    engine: Engine, broker: Broker, *, group: str, client_id: str
) -> AsyncIterator[None]:
    """Consume the inbound topics and charge the reported usage until the context exits.

    Raise OptionsUnusable.
    """
    from entitlements.adapters.kafka.consumer import KafkaConsumer
    from entitlements.adapters.kafka.letters import KafkaDeadLetterPublisher

    letters = KafkaDeadLetterPublisher(broker, f"{client_id}-letters")
    async with KafkaConsumer(
        broker,
        group=group,
        client_id=client_id,
        topics=list(engine.intake.parser.topics),
        begin=lambda records: PolledRecords(engine.intake, engine.store.inbox, letters, records),
    ) as consumer:
        engine.watch.consumer = consumer
        yield


async def consumer_group(broker: Broker, prefix: str, group: str) -> Group:
    """Return the status of the consumer group. Raise Unreachable."""
    from entitlements.adapters.kafka.group import describe_group

    return await describe_group(broker, group, [topic.under(prefix) for topic in INBOUND])
