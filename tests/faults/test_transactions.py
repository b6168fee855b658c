"""Transactions of a caller while PostgreSQL hangs or dies: both parts are committed, or neither."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from entitlements import Entitlements
from entitlements.contracts.errors import Unavailable
from entitlements.embedded import migrate
from tests.books import assert_books_balance
from tests.servers import PostgresServer
from tests.waiting import until


@asynccontextmanager
async def opened(server: PostgresServer) -> AsyncIterator[Entitlements]:
    url = server.create_database()
    await migrate(url)
    async with Entitlements.open(url, policy="costs: {essay: 5}") as engine:
        async with engine.transaction() as t:
            await t.execute("CREATE TABLE orders (id text PRIMARY KEY)")
        await engine.adjust(100, subject_type="user", subject_id="ada", reason="purchase")
        yield engine
    await assert_books_balance(url)


async def order(engine: Entitlements, interrupt: Callable[[], object] = lambda: None) -> None:
    async with engine.transaction() as t:
        await t.consume(user_id="ada", metric="essay", key="order-1", correlation_id="order-1")
        await t.execute("INSERT INTO orders VALUES ('order-1') ON CONFLICT DO NOTHING")
        await asyncio.to_thread(interrupt)


async def is_back(engine: Entitlements) -> bool:
    try:
        await engine.balance("ada")
    except Unavailable:
        return False
    return True


async def both(engine: Entitlements) -> tuple[int, int]:
    async with engine.transaction() as t:
        ((orders,),) = await t.execute("SELECT count(*) FROM orders")
    return (await engine.balance("ada")).user_balance, orders


async def test_a_commit_without_an_answer_is_unknown_and_a_repeat_finds_the_result(
    crashable_postgres: PostgresServer,
) -> None:
    async with opened(crashable_postgres) as engine:
        with pytest.raises(Unavailable) as unanswered:
            await order(engine, crashable_postgres.pause)
        crashable_postgres.resume()
        await until(lambda: is_back(engine))

        assert unanswered.value.applied == "unknown"
        assert await both(engine) in {(100, 0), (95, 1)}
        await order(engine)
        assert await both(engine) == (95, 1)


async def test_a_server_that_dies_inside_leaves_nothing(
    crashable_postgres: PostgresServer,
) -> None:
    async with opened(crashable_postgres) as engine:
        with pytest.raises(Unavailable):
            await order(engine, crashable_postgres.kill)
        crashable_postgres.start()
        await until(lambda: is_back(engine))

        assert await both(engine) == (100, 0)
