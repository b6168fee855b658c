"""The process that serves HTTP, alone or beside others."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from entitlements.app.process import failpoints
from entitlements.app.process.log import EventLog
from entitlements.embedded import for_handlers
from entitlements.handling import calling_handlers
from entitlements.settings import Settings, unknown_variables

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from entitlements.service.processes import Ties
from entitlements.service.bootstrap import Greeting, bootstrap
from entitlements.service.compose import HOUR_S, build, consuming, http_app
from entitlements.service.startup import bind_ports, show_store, wait_for_database

log = EventLog(__name__)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; accepted requests are finished."""
    from entitlements.observe.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level), ExitStack() as closing:
        for problem in unknown_variables(os.environ):
            log.warning("settings.unknown", detail=problem)
        sockets = bind_ports(settings, closing)
        await wait_for_database(settings)
        if settings.workers == 1:
            await _serve(settings, sockets)
            return
        from entitlements.service.processes import supervise

        async with build(settings) as system:
            greeting = await bootstrap(system)
            show_store(settings, system.engine.store)
        work = partial(_serve_beside, settings, sockets, greeting)
        await supervise(work, sockets, settings.workers)


async def _serve_beside(
    settings: Settings, sockets: list[socket.socket], greeting: Greeting, ties: Ties
) -> None:
    """Serve as one of several processes."""
    from entitlements.observe.logs import configure

    failpoints.arm_from_environment()
    with configure(settings.log_level):
        await _serve(settings, sockets, (ties, greeting))


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
        build(settings, publishes=True) as system,
        consuming(system),
        system.verifier.running(every_s),
        system.deliverer.running(),
        calling_handlers(system.engine.store.lifecycle, for_handlers(system.engine)),
    ):
        if tied is None:
            greeting = await bootstrap(system)
            show_store(settings, system.engine.store)
            app = http_app(system, stopping=stopping)
            server = server_of(app, settings, greeting.say, stopping)
        else:
            ties, greeting = tied
            registry = CollectorRegistry()
            await stack.enter_async_context(ties.giving(registry))
            app = http_app(system, registry, ties.metrics, stopping)
            server = server_of(app, settings, partial(_ready_beside, ties, greeting), stopping)
        # Objects that exist now live on: exclude them from garbage collection, and collect rarely.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        ignore_signals()
        await server.serve(sockets)


def _ready_beside(ties: Ties, greeting: Greeting) -> None:
    ties.is_ready()
    if ties.is_first:
        greeting.say()


def server_of(
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


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM outside of the server.

    The server handles them, and raises them again after it has stopped. By then, accepted commands
    still have to be finished.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the service is already stopping."""
