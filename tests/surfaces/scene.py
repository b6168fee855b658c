"""The service behind each of its interfaces, so that one test covers all of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import uvicorn

from entitlements import Entitlements, api
from entitlements.app.access.keys import Act, Role, create_key
from entitlements.app.policy.document import default_policy_text
from entitlements.client import AsyncClient, Client
from entitlements.service.compose import System, build, http_app
from entitlements.settings import load
from entitlements.sync import SyncEntitlements
from entitlements.transports.http.listening import bind
from tests.servers import free_port

POLICY = default_policy_text().replace("credit_adjustment: 10/hour", "")


class Clock:
    """A manual clock."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


class Waiting:
    """Calls a synchronous interface in threads, as a threaded program does."""

    def __init__(self, face: SyncEntitlements) -> None:
        self._face = face

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(getattr(self._face, name), *args, **kwargs)

        return call


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(url: str, clock: Clock | None = None) -> AsyncIterator[tuple[System, int, str]]:
    """Run the service on a loopback port; yield its system, its port and an admin's key."""
    port = free_port()
    settings = load(database_url=url, http_port=port)
    async with build(settings, clock=clock) as system:
        act = Act(
            actor="test",
            client="test",
            at=system.clock(),
            new_id=system.engine.new_id,
            correlation_id="test",
        )
        _, secret = await create_key(
            system.engine.store.keys, name="embedded", role=Role.ADMIN, act=act
        )
        sockets = bind("127.0.0.1", port)
        config = uvicorn.Config(
            http_app(system), lifespan="off", log_config=None, timeout_keep_alive=75
        )
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets))
        try:
            yield system, port, secret
        finally:
            server.should_exit = True
            await task
            for one in sockets:
                one.close()


@asynccontextmanager
async def embedded(url: str, clock: Clock) -> AsyncIterator[api.Entitlements]:
    async with Entitlements.open(url, clock=clock) as face:
        yield face


@asynccontextmanager
async def embedded_in_threads(url: str, clock: Clock) -> AsyncIterator[api.Entitlements]:
    face = await asyncio.to_thread(Entitlements.open_sync, url, clock=clock)
    try:
        yield cast("api.Entitlements", Waiting(face))
    finally:
        await asyncio.to_thread(face.close)


@asynccontextmanager
async def over_http(url: str, clock: Clock) -> AsyncIterator[api.Entitlements]:
    async with (
        serving(url, clock) as (_, port, secret),
        AsyncClient(f"http://127.0.0.1:{port}", key=secret) as face,
    ):
        yield face


@asynccontextmanager
async def over_http_in_threads(url: str, clock: Clock) -> AsyncIterator[api.Entitlements]:
    async with serving(url, clock) as (_, port, secret):
        face = Client(f"http://127.0.0.1:{port}", key=secret)
        try:
            yield cast("api.Entitlements", Waiting(face))
        finally:
            await asyncio.to_thread(face.close)
