"""PostgreSQL that is read-only for a while, and failover to a standby."""

import asyncio
from collections.abc import Iterator
from functools import partial

import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.engine import Engine
from entitlements.app.ports import ReadOnly, StoreUnavailable
from entitlements.core.outcomes import Consumed
from entitlements.observe.health import engine_health
from tests.books import assert_books_balance
from tests.concurrency.scene import balance, consume, engines, given, submit, user
from tests.servers import PostgresServer, StandbyServer
from tests.waiting import until


async def ask_admin(server: PostgresServer, *statements: str) -> None:
    db = await asyncpg.connect(server.admin_url)
    try:
        for statement in statements:
            await db.execute(statement)
    finally:
        await db.close()


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'books'"


async def takes_writes(engine: Engine) -> bool:
    try:
        outcome = await submit(engine, consume("ada", 1), deadline_s=0.5)
    except StoreUnavailable:
        return False
    return isinstance(outcome, Consumed) and outcome.success


async def database_says(engine: Engine) -> tuple[str, str]:
    check = (await engine_health(engine))["database"]
    return check.status, check.message


async def test_read_only_sessions_are_replaced_once_writes_are_possible_again(
    crashable_postgres: PostgresServer,
) -> None:
    server = crashable_postgres
    url = server.create_database("books")
    await migrate_at(url, None)
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        read_only = "ALTER DATABASE books SET default_transaction_read_only = on"
        await ask_admin(server, read_only, CUT)

        assert not await takes_writes(engine)
        assert await balance(engine, user("ada")) == 100, "reads still work"
        assert await database_says(engine) == ("unhealthy", "the database takes no writes")

        # Fill the pool with sessions opened in between, which stay read-only.
        await asyncio.gather(*(balance(engine, user("ada")) for _ in range(8)))
        await ask_admin(server, "ALTER DATABASE books RESET default_transaction_read_only")

        outcome = await submit(engine, consume("ada", 1))
        assert isinstance(outcome, Consumed)
        assert await database_says(engine) == ("healthy", "PostgreSQL")
    await assert_books_balance(url)


async def test_the_health_check_replaces_read_only_sessions(
    crashable_postgres: PostgresServer,
) -> None:
    server = crashable_postgres
    url = server.create_database("books")
    await migrate_at(url, None)
    async with engines(url) as [engine]:
        read_only = "ALTER DATABASE books SET default_transaction_read_only = on"
        await ask_admin(server, read_only, CUT)
        assert (await database_says(engine))[0] == "unhealthy"

        await ask_admin(server, "ALTER DATABASE books RESET default_transaction_read_only")

        assert await database_says(engine) == ("healthy", "PostgreSQL")


@pytest.fixture
def standby(crashable_postgres: PostgresServer) -> Iterator[StandbyServer]:
    with StandbyServer(crashable_postgres) as server:
        yield server


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_the_standby_takes_over_when_it_is_promoted(
    crashable_postgres: PostgresServer,
    standby: StandbyServer,
    end: str,
) -> None:
    """It works even if the primary, named first, accepts connections but does not respond."""
    primary = crashable_postgres
    url = primary.create_database("books")
    both = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/books"
    await migrate_at(both, None)
    async with engines(both) as [engine]:
        await given(engine, user("ada"), 100)
        await until(partial(standby.has_all_of, primary))

        (primary.pause if end == "frozen" else primary.kill)()
        assert not await takes_writes(engine)
        await asyncio.to_thread(standby.promote)

        await until(partial(takes_writes, engine))
        await until(lambda: says_healthy(engine))
        assert await balance(engine, user("ada")) < 100
        primary.resume()
    assert url != standby.url("books")
    await assert_books_balance(standby.url("books"))


async def says_healthy(engine: Engine) -> bool:
    return (await database_says(engine))[0] == "healthy"


async def test_a_standby_that_is_named_first_is_skipped(
    crashable_postgres: PostgresServer, standby: StandbyServer
) -> None:
    primary = crashable_postgres
    url = primary.create_database("books")
    await migrate_at(url, None)
    await until(partial(standby.has_all_of, primary))

    both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/books"
    async with engines(both) as [engine]:
        await given(engine, user("ada"), 100)

    wanted = await PostgresStore.open(f"{both}?target_session_attrs=standby")
    try:
        with pytest.raises(ReadOnly):
            await wanted.ping()
    finally:
        await wanted.close()
