"""The composition of the service from its settings."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from entitlements import wiring
from entitlements.adapters.kafka.broker import Broker, OptionsUnusable
from entitlements.app import engine
from entitlements.app.access import keys
from entitlements.app.outbox.bus import Bus
from entitlements.app.outbox.relay import Destination
from entitlements.app.policy.document import text_of
from entitlements.app.process.clock import utc_now
from entitlements.app.process.log import EventLog
from entitlements.app.verify.schedule import Verifier
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.app.webhooks.endpoints import Webhooks
from entitlements.app.webhooks.store import WebhookStore
from entitlements.ids import uuid7
from entitlements.settings import PREFIX, Settings, SettingsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp


log = EventLog(__name__)

HOUR_S: Final = 3_600
DAY_S: Final = 86_400


@dataclass(frozen=True)
class System:
    """The parts of a running service."""

    settings: Settings
    engine: engine.Engine
    access: keys.Access
    clock: Callable[[], datetime]
    verifier: Verifier
    webhooks: Webhooks
    deliverer: Deliverer
    """Delivers only while its `running` context is entered, which the caller does."""


async def open_store(
    settings: Settings, *, clock: Callable[[], datetime] | None = None
) -> engine.Store:
    """Open the store of the settings. Raise SchemaMismatch or StoreUnavailable."""
    return await wiring.open_store(
        settings.database_url,
        clock=clock,
        pool_min=settings.database_pool_min,
        pool_max=settings.database_pool_max,
        check_s=settings.check_deadline_s,
        statement_cache=settings.database_statement_cache,
    )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    clock: Callable[[], datetime] | None = None,
    keep_policy: bool = False,
    limited: bool = True,
    publishes: bool = False,
    operators_limited: bool = True,
) -> AsyncIterator[System]:
    """Build and run the system. ``clock`` replaces the database's clock, for tests and simulations.

    With ``keep_policy`` the active policy stays active, even if the settings name a file. Without
    ``limited`` rate limits are neither checked nor counted. With ``publishes`` it publishes events,
    unless ``relay_enabled`` is off. With ``operators_limited``, the rate limit of adjustments holds
    for callers with API keys.

    Raise PolicyError, StoreUnavailable, or SchemaMismatch if `migrate` has not run.
    """
    now = clock or utc_now
    async with AsyncExitStack() as stack:
        store = await open_store(settings, clock=clock)
        stack.push_async_callback(store.close)
        counting = wiring.UNLIMITED
        if limited and settings.rate_limit_enabled:
            counting = await wiring.limiters(settings.redis_url, now, stack)
        # Without a file the active policy stays active; only a new database gets the default.
        file = None if keep_policy else settings.policy_file
        text = text_of(file) if file is not None else None
        copy = None if keep_policy else await wiring.policy_copy(settings.redis_url, stack)
        hooks = await stack.enter_async_context(webhooks_of(settings, store.webhooks, now))
        deliverer = deliverer_of(settings, hooks)
        destination = None
        if publishes and settings.relay_enabled:
            destination = woken_by(deliverer, await destination_of(settings, stack))
        running = engine.running(
            store,
            destination=destination,
            local=counting.local,
            shared=counting.shared,
            recounting=counting.recounting,
            policy_text=text,
            policy_source=str(file),
            policy_file=file,
            policy_copy=copy,
            policy_copy_ttl_s=settings.policy_cache_ttl,
            topic_prefix=settings.topic_prefix,
            source_service=settings.service_name,
            deadline_s=settings.command_deadline_s,
            clock=now,
            receipts_retention_s=settings.receipts_retention_days * DAY_S,
            counts_operators=operators_limited and settings.auth != "none",
        )
        parts = await stack.enter_async_context(running)
        everybody = settings.auth == "none"
        gate = keys.OpenAccess() if everybody else keys.KeyAccess(store.keys, now)
        verifier = Verifier(lambda: wiring.verify(settings.database_url), wiring.invariants(), now)
        yield System(settings, parts, gate, now, verifier, hooks, deliverer)


@asynccontextmanager
async def webhooks_of(
    settings: Settings, store: WebhookStore, clock: Callable[[], datetime]
) -> AsyncIterator[Webhooks]:
    from entitlements.adapters.http.sender import HttpSender

    async with HttpSender(allow_private=settings.webhook_allow_private) as sender:
        yield Webhooks(
            store=store,
            sender=sender,
            clock=clock,
            allow_http=settings.webhook_allow_http,
            source_service=settings.service_name,
            topic_prefix=settings.topic_prefix,
        )


def deliverer_of(settings: Settings, webhooks: Webhooks) -> Deliverer:
    return Deliverer(
        webhooks.store,
        webhooks.sender,
        clock=webhooks.clock,
        new_id=uuid7,
        retention_s=settings.webhook_retention_days * DAY_S,
    )


def woken_by(deliverer: Deliverer, destination: Destination) -> Destination:
    """Connect the deliverer to the relay: it is woken when events are published.

    With webhooks, the relay does not hold events back when its sink has no subscribers.
    """
    return replace(
        destination, has_webhooks=lambda: deliverer.is_wanted, on_published=deliverer.wake
    )


async def destination_of(settings: Settings, stack: AsyncExitStack) -> Destination:
    """Return the sink: Kafka if configured, else an in-process bus. Raise SettingsError."""
    retention_s = settings.outbox_retention_hours * HOUR_S
    if settings.kafka_bootstrap_servers is None:
        return wiring.bus_destination(Bus(), retention_s)
    broker = Broker(settings.kafka_bootstrap_servers, settings.kafka_options)
    topics = wiring.kafka_topics(broker, settings.topic_prefix, settings.kafka_topic_partitions)
    await stack.enter_async_context(topics)
    with naming_the_setting():
        sink = wiring.kafka_sink(broker, settings.producer_client_id)
        entered = await stack.enter_async_context(sink)
    return Destination(sink=entered, name="kafka", retention_s=retention_s)


@asynccontextmanager
async def consuming(system: System) -> AsyncIterator[None]:
    """Consume events if Kafka is configured and the consumer is enabled in this process.

    Raise SettingsError.
    """
    settings = system.settings
    if settings.kafka_bootstrap_servers is None or not settings.consumer_enabled:
        yield
        return
    async with reading(system, settings.kafka_bootstrap_servers):
        yield


@asynccontextmanager
async def reading(system: System, servers: str) -> AsyncIterator[None]:
    """Consume events from the broker. Raise SettingsError."""
    settings = system.settings
    broker = Broker(servers, settings.kafka_options)
    client_id = f"{settings.consumer_group}-{socket.gethostname()}-{os.getpid()}"
    reading = wiring.consuming(
        system.engine, broker, group=settings.consumer_group, client_id=client_id
    )
    topics = wiring.kafka_topics(broker, settings.topic_prefix, settings.kafka_topic_partitions)
    async with AsyncExitStack() as stack:
        with naming_the_setting():
            await stack.enter_async_context(topics)
            await stack.enter_async_context(reading)
        yield


@contextmanager
def naming_the_setting() -> Iterator[None]:
    """Convert OptionsUnusable to a SettingsError that names the setting."""
    try:
        yield
    except OptionsUnusable as error:
        raise SettingsError(f"{PREFIX}KAFKA_OPTIONS: {error}") from None


def http_app(
    system: System,
    registry: CollectorRegistry | None = None,
    metrics: Callable[[], Awaitable[bytes]] | None = None,
    stopping: asyncio.Event | None = None,
) -> ASGIApp:
    """Return the ASGI app. ``metrics`` serves scrapes in place of the registry.

    After ``stopping`` is set, the readiness probe fails.
    """
    from prometheus_client import CollectorRegistry

    from entitlements.transports.http.app import create_app
    from entitlements.transports.http.service import Service

    return create_app(
        Service(
            engine=system.engine,
            access=system.access,
            webhooks=system.webhooks,
            deliverer=system.deliverer,
            verifier=system.verifier,
            settings=system.settings,
            registry=registry or CollectorRegistry(),
            metrics=metrics,
            stopping=stopping or asyncio.Event(),
        )
    )
