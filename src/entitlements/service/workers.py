"""The processes that only consume or only publish events."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from entitlements.app import engine
from entitlements.app.outbox.relay import Relay
from entitlements.app.process import failpoints
from entitlements.app.process.clock import utc_now
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import background
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.observe.health import engine_health, relay_health
from entitlements.settings import PREFIX, Settings, SettingsError, unknown_variables

if TYPE_CHECKING:
    from starlette.types import ASGIApp

from entitlements.service.compose import (
    build,
    deliverer_of,
    destination_of,
    open_store,
    reading,
    webhooks_of,
    woken_by,
)
from entitlements.service.serve import ignore_signals, server_of
from entitlements.service.startup import bind_ports, show_store, wait_for_database

log = EventLog(__name__)


async def work_consumer(settings: Settings) -> None:
    """Consume events until a signal; any number of processes can run.

    METRICS_PORT works as in `work_relay`. Raise SettingsError.
    """
    from entitlements.observe.event_metrics import Events
    from entitlements.observe.metrics import show_consumptions
    from entitlements.transports.http.workers import Worker, create_app

    servers = settings.kafka_bootstrap_servers
    if servers is None:
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS: is not set")
    async with (
        _worker_started(settings) as sockets,
        build(settings) as system,
        reading(system, servers),
    ):
        show_store(settings, system.engine.store)
        running = system.engine
        worker = Worker(
            name=settings.service_name,
            environment=settings.environment,
            backlog=lambda: running.watch.backlog,
            relay=None,
            clock=utc_now,
            health=lambda: engine_health(running),
        )
        worker.registry.register(Events(running.intake, running.conflicts, running.watch))
        show_consumptions(worker.registry, running.intake.tallies.consumptions)
        await until_stopped(create_app(worker), settings, sockets)


async def work_relay(settings: Settings) -> None:
    """Publish events until a signal; any number of processes can run.

    If METRICS_PORT is set, it serves probes and metrics.
    """
    async with _worker_started(settings) as sockets:
        if settings.kafka_bootstrap_servers is None:
            log.warning("relay.no_kafka", detail="KAFKA_BOOTSTRAP_SERVERS is not set")
        async with AsyncExitStack() as stack:
            store = await open_store(settings)
            stack.push_async_callback(store.close)
            show_store(settings, store)
            hooks = await stack.enter_async_context(webhooks_of(settings, store.webhooks, utc_now))
            deliverer = deliverer_of(settings, hooks)
            await stack.enter_async_context(deliverer.running())
            destination = woken_by(deliverer, await destination_of(settings, stack))
            relay = await stack.enter_async_context(
                engine.relaying(store, destination, settings.service_name)
            )
            await _work(settings, store, relay, deliverer, sockets)


@asynccontextmanager
async def _worker_started(settings: Settings) -> AsyncIterator[list[socket.socket]]:
    """Set up a worker: logging, the metrics port and the database."""
    from entitlements.observe.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level), ExitStack() as closing:
        for problem in unknown_variables(os.environ):
            log.warning("settings.unknown", detail=problem)
        sockets = _bind_metrics(settings, closing)
        await wait_for_database(settings)
        yield sockets


def _bind_metrics(settings: Settings, closing: ExitStack) -> list[socket.socket]:
    """Bind the metrics port if it is set explicitly, else nothing. Raise SettingsError."""
    if "metrics_port" not in settings.model_fields_set:
        return []
    alone = settings.model_copy(update={"http_port": settings.metrics_port})
    return bind_ports(alone, closing)


async def _work(
    settings: Settings,
    store: engine.Store,
    relay: Relay,
    deliverer: Deliverer,
    sockets: list[socket.socket],
) -> None:
    """Run the relay's probes and statistics until a signal."""
    from entitlements.transports.http.workers import Worker, create_app

    watch = engine.ProcessStats()
    worker = Worker(
        name=settings.service_name,
        environment=settings.environment,
        backlog=lambda: watch.backlog,
        relay=relay,
        deliverer=deliverer,
        clock=utc_now,
        health=lambda: relay_health(store, relay, deliverer),
    )
    async with background(engine.watching(store, watch)):
        await until_stopped(create_app(worker), settings, sockets)


async def until_stopped(app: ASGIApp, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve the app on the sockets, if any, until a signal."""
    if not sockets:
        await _stop_signal()
        return
    ignore_signals()
    await server_of(app, settings).serve(sockets)


async def _stop_signal() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
