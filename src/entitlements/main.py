"""The composition of the service, and the processes and commands that run it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from entitlements import wiring
from entitlements.adapters.kafka.broker import Broker, OptionsUnusable, Unreachable
from entitlements.app import access, engine, failpoints
from entitlements.app.bus import Bus
from entitlements.app.clock import utc_now
from entitlements.app.committer import Overloaded
from entitlements.app.health import engine_health, health, relay_health
from entitlements.app.ingest.state import Group
from entitlements.app.log import EventLog
from entitlements.app.policies import PolicyUnusable, Superseded
from entitlements.app.policy_document import PolicyError, text_of
from entitlements.app.ports import (
    AddressUnusable,
    Conflict,
    Contended,
    Migrated,
    RoleUnusable,
    SchemaMismatch,
    Unavailable,
)
from entitlements.app.proofs import Proofs
from entitlements.app.redaction import masked
from entitlements.app.relay import Relay, Shipping
from entitlements.app.verify import Finding
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.app.webhooks.endpoints import Webhooks
from entitlements.app.webhooks.ports import WebhookStore
from entitlements.ids import uuid7
from entitlements.settings import PREFIX, Settings, SettingsError, load, unknown_variables

if TYPE_CHECKING:
    import uvicorn
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp

    from entitlements.processes import Ties

log = EventLog(__name__)

BOOTSTRAP_FILE = Path("entitlements-admin.key")
STARTUP_PATIENCE_S = 60
HOUR_S: Final = 3_600
DAY_S: Final = 86_400


@dataclass(frozen=True)
class System:
    """The parts of a running service."""

    settings: Settings
    engine: engine.Engine
    access: access.Access
    clock: Callable[[], datetime]
    proofs: Proofs
    webhooks: Webhooks
    deliverer: Deliverer
    """Delivers only while its `running` context is entered, which the caller does."""


async def open_store(
    settings: Settings, *, clock: Callable[[], datetime] | None = None
) -> engine.Store:
    """Open the store of the settings. Raise SchemaMismatch or Unavailable."""
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
    ships: bool = False,
) -> AsyncIterator[System]:
    """Build and run the system. ``clock`` replaces the database's clock, for tests and simulations.

    With ``keep_policy`` the active policy stays active, even if the settings name a file. Without
    ``limited`` rate limits are neither checked nor counted. With ``ships`` it publishes events,
    unless ``relay_enabled`` is off.

    Raise PolicyError, Unavailable, or SchemaMismatch if `migrate` has not run.
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
        hooks = await stack.enter_async_context(_webhooks(settings, store.webhooks, now))
        deliverer = _deliverer(settings, hooks)
        shipping = None
        if ships and settings.relay_enabled:
            shipping = _heard_by(deliverer, await _shipping(settings, stack))
        running = engine.running(
            store,
            shipping=shipping,
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
        )
        parts = await stack.enter_async_context(running)
        everybody = settings.auth == "none"
        gate = access.OpenAccess() if everybody else access.KeyAccess(store, now)
        proofs = Proofs(lambda: wiring.verify(settings.database_url), wiring.invariants(), now)
        yield System(settings, parts, gate, now, proofs, hooks, deliverer)


@asynccontextmanager
async def _webhooks(
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


def _deliverer(settings: Settings, webhooks: Webhooks) -> Deliverer:
    return Deliverer(
        webhooks.store,
        webhooks.sender,
        clock=webhooks.clock,
        new_id=uuid7,
        retention_s=settings.webhook_retention_days * DAY_S,
    )


def _heard_by(deliverer: Deliverer, shipping: Shipping) -> Shipping:
    """Connect the deliverer to the relay: it is woken when events are published.

    With webhooks, the relay does not hold events back when its sink has no subscribers.
    """
    return replace(shipping, is_awaited=lambda: deliverer.is_wanted, shipped=deliverer.wake)


async def _shipping(settings: Settings, stack: AsyncExitStack) -> Shipping:
    """Return the sink: Kafka if configured, else an in-process bus. Raise SettingsError."""
    retention_s = settings.outbox_retention_hours * HOUR_S
    if settings.kafka_bootstrap_servers is None:
        return wiring.bus_shipping(Bus(), retention_s)
    broker = Broker(settings.kafka_bootstrap_servers, settings.kafka_options)
    topics = wiring.kafka_topics(broker, settings.topic_prefix, settings.kafka_topic_partitions)
    await stack.enter_async_context(topics)
    with _naming_the_setting():
        sink = wiring.kafka_sink(broker, settings.producer_client_id)
        entered = await stack.enter_async_context(sink)
    return Shipping(sink=entered, name="kafka", retention_s=retention_s)


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
            committer=system.engine.committer,
            reader=system.engine.reader,
            records=system.engine.store,
            policies=system.engine.policies,
            limits=system.engine.limits,
            limit_events=system.engine.limit_events,
            limit_peers=system.engine.peers,
            unreadable=system.engine.unreadable,
            ahead=system.engine.ahead,
            checks=system.engine.checks,
            holds=system.engine.holds,
            conflicts=system.engine.conflicts,
            inbox=system.engine.store,
            intake=system.engine.intake,
            watch=system.engine.watch,
            access=system.access,
            webhooks=system.webhooks,
            deliverer=system.deliverer,
            settings=system.settings,
            clock=system.clock,
            new_id=system.engine.new_id,
            receipts_retention_s=system.settings.receipts_retention_days * DAY_S,
            counts_operators=system.settings.auth != "none",
            backlog=lambda: system.engine.watch.backlog,
            outbox=system.engine.store.outbox,
            relay=system.engine.relay,
            connections=system.engine.store.connections,
            proofs=system.proofs,
            health=lambda: health(system.engine, system.deliverer),
            registry=registry or CollectorRegistry(),
            metrics=metrics,
            stopping=stopping or asyncio.Event(),
        )
    )


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; accepted requests are finished."""
    from entitlements.transports.http.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level), ExitStack() as closing:
        for problem in unknown_variables(os.environ):
            log.warning("settings.unknown", detail=problem)
        sockets = _bind(settings, closing)
        await _wait_for_database(settings)
        if settings.workers == 1:
            await _serve(settings, sockets)
            return
        from entitlements.processes import supervise

        async with build(settings) as system:
            greeting = await bootstrap(system)
            _show_store(settings, system.engine.store)
        work = partial(_serve_beside, settings, sockets, greeting)
        await supervise(work, sockets, settings.workers)


async def _serve_beside(
    settings: Settings, sockets: list[socket.socket], greeting: Greeting, ties: Ties
) -> None:
    """Serve as one of several processes."""
    from entitlements.transports.http.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level):
        await _serve(settings, sockets, (ties, greeting))


def _bind(settings: Settings, closing: ExitStack) -> list[socket.socket]:
    """Bind all ports of the settings first, so that a port in use fails early.

    Raise SettingsError.
    """
    from entitlements.transports.http.listening import bind

    sockets: list[socket.socket] = []
    names = {settings.metrics_port: "METRICS_PORT", settings.http_port: "HTTP_PORT"}
    for port, name in names.items():
        try:
            bound = bind(settings.http_host, port)
        except OSError as error:
            where = f"{settings.http_host} port {port}"
            reason = f"cannot listen on {where}: {error.strerror}"
            raise SettingsError(f"{PREFIX}{name}: {reason}") from None
        sockets += [closing.enter_context(taken) for taken in bound]
    return sockets


async def _serve(
    settings: Settings,
    sockets: list[socket.socket],
    tied: tuple[Ties, Greeting] | None = None,
) -> None:
    """Serve alone, or as one of several processes, the first of which prints the greeting."""
    from prometheus_client import CollectorRegistry

    every_s = settings.verify_every_hours * HOUR_S
    stopping = asyncio.Event()
    async with (
        AsyncExitStack() as stack,
        build(settings, ships=True) as system,
        consuming(system),
        system.proofs.running(every_s),
        system.deliverer.running(),
    ):
        if tied is None:
            greeting = await bootstrap(system)
            _show_store(settings, system.engine.store)
            app = http_app(system, stopping=stopping)
            server = _server(app, settings, greeting.say, stopping)
        else:
            ties, greeting = tied
            registry = CollectorRegistry()
            await stack.enter_async_context(ties.giving(registry))
            app = http_app(system, registry, ties.metrics, stopping)
            server = _server(app, settings, partial(_ready_beside, ties, greeting), stopping)
        # Objects that exist now live on: exclude them from garbage collection, and collect rarely.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        _heed_signals()
        await server.serve(sockets)


def _ready_beside(ties: Ties, greeting: Greeting) -> None:
    ties.is_ready()
    if ties.is_first:
        greeting.say()


def _server(
    app: ASGIApp,
    settings: Settings,
    is_ready: Callable[[], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> uvicorn.Server:
    """Return the server. ``is_ready`` is called when it accepts requests.

    With ``stopping``, the first SIGTERM sets it and the server continues for ``shutdown_delay_s``
    seconds, so that load balancers notice. A second SIGTERM, or SIGINT, stops it immediately.
    """
    import uvicorn

    from entitlements.transports.http.protocol import BoundedProtocol

    class Server(uvicorn.Server):
        _ends_at: float | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if is_ready is not None:
                is_ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if stopping is None or stopping.is_set() or sig != signal.SIGTERM:
                super().handle_exit(sig, frame)
                return
            stopping.set()
            self._ends_at = monotonic() + settings.shutdown_delay_s

        async def on_tick(self, counter: int) -> bool:
            is_over = self._ends_at is not None and monotonic() >= self._ends_at
            return await super().on_tick(counter) or is_over

    return Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=BoundedProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keepalive_s,
            timeout_graceful_shutdown=15,
        )
    )


def _heed_signals() -> None:
    """Ignore SIGINT and SIGTERM outside of the server.

    The server handles them, and raises them again after it has stopped. By then, accepted commands
    still have to be finished.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _heeded)


@asynccontextmanager
async def consuming(system: System) -> AsyncIterator[None]:
    """Consume events if Kafka is configured and the consumer is enabled in this process.

    Raise SettingsError.
    """
    settings = system.settings
    if settings.kafka_bootstrap_servers is None or not settings.consumer_enabled:
        yield
        return
    async with _reading(system, settings.kafka_bootstrap_servers):
        yield


@asynccontextmanager
async def _reading(system: System, servers: str) -> AsyncIterator[None]:
    """Consume events from the broker. Raise SettingsError."""
    settings = system.settings
    broker = Broker(servers, settings.kafka_options)
    client_id = f"{settings.consumer_group}-{socket.gethostname()}-{os.getpid()}"
    reading = wiring.consuming(
        system.engine, broker, group=settings.consumer_group, client_id=client_id
    )
    topics = wiring.kafka_topics(broker, settings.topic_prefix, settings.kafka_topic_partitions)
    async with AsyncExitStack() as stack:
        with _naming_the_setting():
            await stack.enter_async_context(topics)
            await stack.enter_async_context(reading)
        yield


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    """Convert OptionsUnusable to a SettingsError that names the setting."""
    try:
        yield
    except OptionsUnusable as error:
        raise SettingsError(f"{PREFIX}KAFKA_OPTIONS: {error}") from None


def _heeded(_number: int, _frame: object) -> None:
    """Do nothing: the service is already stopping."""


@asynccontextmanager
async def _working(settings: Settings) -> AsyncIterator[list[socket.socket]]:
    """Set up a worker: logging, the metrics port and the database."""
    from entitlements.transports.http.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level), ExitStack() as closing:
        for problem in unknown_variables(os.environ):
            log.warning("settings.unknown", detail=problem)
        sockets = _bind_metrics(settings, closing)
        await _wait_for_database(settings)
        yield sockets


async def work_consumer(settings: Settings) -> None:
    """Consume events until a signal; any number of processes can run.

    METRICS_PORT works as in `work_relay`. Raise SettingsError.
    """
    from entitlements.transports.http.event_metrics import Events
    from entitlements.transports.http.metrics import show_consumptions
    from entitlements.transports.http.workers import Worker, create_app

    servers = settings.kafka_bootstrap_servers
    if servers is None:
        raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS: is not set")
    async with (
        _working(settings) as sockets,
        build(settings) as system,
        _reading(system, servers),
    ):
        _show_store(settings, system.engine.store)
        reading = system.engine
        worker = Worker(
            name=settings.service_name,
            environment=settings.environment,
            backlog=lambda: reading.watch.backlog,
            relay=None,
            clock=utc_now,
            health=lambda: engine_health(reading),
        )
        worker.registry.register(Events(reading.intake, reading.conflicts, reading.watch))
        show_consumptions(worker.registry, reading.intake.tallies.consumptions)
        await _until_told(create_app(worker), settings, sockets)


async def work_relay(settings: Settings) -> None:
    """Publish events until a signal; any number of processes can run.

    If METRICS_PORT is set, it serves probes and metrics.
    """
    async with _working(settings) as sockets:
        if settings.kafka_bootstrap_servers is None:
            log.warning("relay.no_kafka", detail="KAFKA_BOOTSTRAP_SERVERS is not set")
        async with AsyncExitStack() as stack:
            store = await open_store(settings)
            stack.push_async_callback(store.close)
            _show_store(settings, store)
            hooks = await stack.enter_async_context(_webhooks(settings, store.webhooks, utc_now))
            deliverer = _deliverer(settings, hooks)
            await stack.enter_async_context(deliverer.running())
            shipping = _heard_by(deliverer, await _shipping(settings, stack))
            relay = await stack.enter_async_context(
                engine.relaying(store, shipping, settings.service_name)
            )
            await _work(settings, store, relay, deliverer, sockets)


def _bind_metrics(settings: Settings, closing: ExitStack) -> list[socket.socket]:
    """Bind the metrics port if it is set explicitly, else nothing. Raise SettingsError."""
    if "metrics_port" not in settings.model_fields_set:
        return []
    alone = settings.model_copy(update={"http_port": settings.metrics_port})
    return _bind(alone, closing)


async def _work(
    settings: Settings,
    store: engine.Store,
    relay: Relay,
    deliverer: Deliverer,
    sockets: list[socket.socket],
) -> None:
    """Run the relay's probes and statistics until a signal."""
    from entitlements.transports.http.workers import Worker, create_app

    watch = engine.Watch()
    watching = asyncio.create_task(engine.watching(store, watch))
    try:
        worker = Worker(
            name=settings.service_name,
            environment=settings.environment,
            backlog=lambda: watch.backlog,
            relay=relay,
            deliverer=deliverer,
            clock=utc_now,
            health=lambda: relay_health(store, relay, deliverer),
        )
        await _until_told(create_app(worker), settings, sockets)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _until_told(app: ASGIApp, settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve the app on the sockets, if any, until a signal."""
    if not sockets:
        await _told_to_stop()
        return
    _heed_signals()
    await _server(app, settings).serve(sockets)


async def _told_to_stop() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


async def _wait_for_database(settings: Settings) -> None:
    """Wait for a database that is still starting, for at most a minute."""
    deadline = asyncio.get_running_loop().time() + STARTUP_PATIENCE_S
    told = ""
    while True:
        try:
            store = await open_store(settings)
        except Unavailable as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            if told != (told := str(error)):
                log.warning("database.waiting", reason=told)
            await asyncio.sleep(1)
        else:
            await store.close()
            return


def _show_store(settings: Settings, store: engine.Store) -> None:
    """Log the store, and warn of a SQLite file if the settings suggest a database server."""
    log.info("store.opened", kind=store.kind, url=masked(settings.database_url))
    if wiring.file_of(settings.database_url) is None:
        return
    reasons = {
        "ENVIRONMENT is production": settings.environment == "production",
        "KAFKA_BOOTSTRAP_SERVERS is set": settings.kafka_bootstrap_servers is not None,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        log.warning(
            "store.is_a_file",
            detail=f"{' and '.join(found)}, but credits are stored in a SQLite file on this"
            f" machine: set {PREFIX}DATABASE_URL to a PostgreSQL database",
        )


@dataclass(frozen=True)
class Greeting:
    """The start message of the service; without a ``credential``, all callers are admitted."""

    address: str
    credential: str | None = field(repr=False)
    is_new: bool = False

    def say(self) -> None:
        """Print the message on a terminal, else log it."""
        if sys.stdout.isatty():
            print(self.text(), flush=True)  # noqa: T201
        else:
            log.info("service.started", url=self.address, docs=f"{self.address}/docs")

    def text(self) -> str:
        hello = f"Entitlements at {self.address}, docs at {self.address}/docs."
        if self.credential is None:
            return f"{hello} AUTH=none: every caller is admin."
        if not self.is_new:
            return f"{hello} `entitlements keys create` creates another key."
        return f"{hello} Admin key: {self.credential}\nTry: {self.example()}"

    def example(self) -> str:
        """Return a command that opens an account with its signup bonus."""
        return (
            f"curl -s {self.address}/v1/admin/accounts"
            f' -H "Authorization: Bearer {self.credential}" -H "Content-Type: application/json"'
            """ -d '{"subject_type": "user", "subject_id": "ada"}'"""
        )


async def bootstrap(system: System) -> Greeting:
    """Create an admin key if no key is valid, and show it on the terminal or in a 0600 file.

    Raise SettingsError if the file cannot be written; then no key is created.
    """
    settings = system.settings
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    address = f"http://{host}:{settings.http_port}"
    if settings.auth == "none":
        return Greeting(address, None)
    store = system.engine.store
    if any(key.revoked_at is None for key in await store.api_keys()):
        return Greeting(address, "")
    act = access.Act(
        actor="system",
        client="bootstrap",
        at=system.clock(),
        new_id=system.engine.new_id,
        correlation_id="bootstrap",
    )
    key, secret = access.new_key(name="bootstrap", role=access.Role.ADMIN, act=act)
    if settings.bootstrap_key_file is None and sys.stdout.isatty():
        await access.add_key(store, key, act)
        return Greeting(address, secret, is_new=True)
    path = settings.bootstrap_key_file or BOOTSTRAP_FILE
    # Write before the key is committed: a key that no one can read would lock every caller out.
    _write_private(path, secret + "\n")
    await access.add_key(store, key, act)
    log.warning("key.bootstrapped", detail=f"an admin key was created, in {path}")
    return Greeting(address, f"$(cat {path})", is_new=True)


def _write_private(path: Path, text: str) -> None:
    """Replace the file with one that only its owner can read, and sync it. Raise SettingsError."""
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror}"
        raise SettingsError(f"{PREFIX}BOOTSTRAP_KEY_FILE: {reason}") from None


EXPECTED = (
    Unavailable,
    SchemaMismatch,
    RoleUnusable,
    Contended,
    Conflict,
    Overloaded,
    Superseded,
    PolicyUnusable,
    Unreachable,
    OSError,
)
"""Errors that can happen to any command and are not bugs."""


class Program:
    """The operations of the command line."""

    @asynccontextmanager
    async def open(
        self, database: str | None, *, limited: bool = False, may_create: bool = False
    ) -> AsyncIterator[System]:
        settings = _settings(database)
        _require_file(settings, may_create=may_create)
        async with build(settings, keep_policy=True, limited=limited) as system:
            yield system

    @asynccontextmanager
    async def store(
        self, database: str | None, *, may_create: bool = False
    ) -> AsyncIterator[engine.Store]:
        settings = _settings(database)
        _require_file(settings, may_create=may_create)
        opened = await open_store(settings)
        try:
            yield opened
        finally:
            await opened.close()

    @asynccontextmanager
    async def webhooks(
        self, database: str | None, *, may_create: bool = False
    ) -> AsyncIterator[Webhooks]:
        settings = _settings(database)
        _require_file(settings, may_create=may_create)
        store = await open_store(settings)
        try:
            async with _webhooks(settings, store.webhooks, utc_now) as webhooks:
                yield webhooks
        finally:
            await store.close()

    async def serve(
        self, database: str | None, host: str | None, port: int | None, workers: int | None
    ) -> None:
        # The service logs the warnings that the other commands print.
        await serve(_load(database, http_host=host, http_port=port, workers=workers))

    async def work_consumer(self, database: str | None) -> None:
        await work_consumer(_load(database))

    async def work_relay(self, database: str | None) -> None:
        await work_relay(_load(database))

    async def migrate(self, database: str | None, service_role: str | None) -> Migrated:
        url = _settings(database).database_url
        if wiring.file_of(url) is not None and service_role is not None:
            raise SettingsError("a service role needs PostgreSQL; SQLite has no roles")
        return await wiring.migrate(url, service_role)

    async def verify(self, database: str | None) -> list[Finding]:
        settings = _settings(database)
        _require_file(settings, may_create=False)
        return await wiring.verify(settings.database_url)

    async def consumer_group(self) -> Group:
        settings = _settings(None)
        if settings.kafka_bootstrap_servers is None:
            raise SettingsError(f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS: is not set")
        broker = Broker(settings.kafka_bootstrap_servers, settings.kafka_options)
        prefix, group = settings.topic_prefix, settings.consumer_group
        with _naming_the_setting():
            return await wiring.consumer_group(broker, prefix, group)

    def is_usage(self, error: Exception) -> bool:
        return isinstance(error, SettingsError | PolicyError | AddressUnusable)

    def is_expected(self, error: Exception) -> bool:
        return isinstance(error, EXPECTED)


def _require_file(settings: Settings, *, may_create: bool) -> None:
    """Raise Unavailable if the SQLite file does not exist and must not be created.

    Otherwise a mistyped name would create an empty database.
    """
    path = wiring.file_of(settings.database_url)
    if path is not None and not may_create and not path.exists():
        raise Unavailable(f"there is no database {path}")


def _settings(database: str | None) -> Settings:
    """Load the settings, and print unknown variables to stderr."""
    for problem in unknown_variables(os.environ):
        print(f"entitlements: {problem}", file=sys.stderr)  # noqa: T201
    return _load(database)


def _load(database: str | None, **given: Any) -> Settings:
    """Load the settings of the environment; options of the command line take precedence."""
    given["database_url"] = database
    return load(**{name: value for name, value in given.items() if value is not None})
