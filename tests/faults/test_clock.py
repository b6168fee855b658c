"""The clock of the database steps forward and back."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.engine import Engine, Store, running
from entitlements.app.process.clock import utc_now
from entitlements.app.verify.findings import AHEAD
from entitlements.observe.health import engine_health
from tests.books import findings
from tests.concurrency.scene import POLICY, consume, given, submit, user
from tests.stores.clerk import Clock

AHEAD_S = 2 * 86_400


async def open_store(url: str, clock: Clock) -> Store:
    if url.startswith("sqlite:///"):
        file = await SqliteStore.open(urlsplit(url).path[1:], clock=clock)
        await file.migrate()
        return file
    return await PostgresStore.open(url, clock=clock)


@asynccontextmanager
async def an_engine(url: str, clock: Clock) -> AsyncIterator[Engine]:
    async with AsyncExitStack() as stack:
        store = await open_store(url, clock)
        stack.push_async_callback(store.close)
        yield await stack.enter_async_context(
            running(store, local=Unlimited(), policy_text=POLICY, policy_source="test", clock=clock)
        )


async def ahead(url: str) -> list[str | None]:
    return [one.wallet for one in await findings(url, of_clock=True) if one.invariant == AHEAD]


async def test_wallets_written_by_a_clock_ahead_are_reported_until_that_time(
    any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    clock.now = utc_now()
    async with an_engine(any_url, clock) as engine:
        await given(engine, user("bob"), 10)
        clock.now += timedelta(seconds=AHEAD_S)
        await given(engine, user("ada"), 10)
        clock.now -= timedelta(seconds=AHEAD_S)
        await submit(engine, consume("bob", 1))
        assert (await engine_health(engine))["clock"].status == "healthy"

        await submit(engine, consume("ada", 1))

        warned = (await engine_health(engine))["clock"]
        assert warned.status == "warning"
        assert warned.message == "1 wallets are ahead of the database's clock; `verify` names them"
        assert [one.getMessage() for one in caplog.records if "ahead_of_clock" in one.getMessage()]
        assert "user:ada" in caplog.text
        assert await ahead(any_url) == ["user:ada/credits"]

        clock.now += timedelta(seconds=AHEAD_S)
        assert (await engine_health(engine))["clock"].status == "healthy"


async def test_a_difference_of_clocks_below_a_minute_is_tolerated(any_url: str) -> None:
    clock = Clock()
    clock.now = utc_now()
    async with an_engine(any_url, clock) as engine:
        clock.now += timedelta(seconds=50)
        await given(engine, user("ada"), 10)
        clock.now -= timedelta(seconds=50)
        await submit(engine, consume("ada", 1))

        assert (await engine_health(engine))["clock"].status == "healthy"
        assert await ahead(any_url) == []
