"""The store's connection pool."""

import asyncpg
import pytest

from entitlements.adapters.postgres import address
from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.ports import StoreUnavailable
from entitlements.core.model import WalletKey
from entitlements.service.compose import open_store
from entitlements.settings import load
from tests.servers import PostgresServer, free_port


async def connections(url: str) -> int:
    """Return the number of other sessions on the same database."""
    db = await asyncpg.connect(url)
    try:
        count: int = await db.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return count
    finally:
        await db.close()


async def test_the_minimum_number_of_connections_is_open_from_the_start(postgres_url: str) -> None:
    migrated = await PostgresStore.open(postgres_url)
    await migrated.migrate()
    await migrated.close()

    store = await open_store(load(database_url=postgres_url, database_pool_min=3))
    try:
        assert await connections(postgres_url) == 3
    finally:
        await store.close()


async def test_a_read_survives_a_restart_that_broke_its_idle_connections(
    crashable_postgres: PostgresServer,
) -> None:
    url = crashable_postgres.create_database()
    await migrate_at(url, None)
    store = await PostgresStore.open(url, pool_min=3)
    try:
        crashable_postgres.restart_immediate()  # blocks the loop, so the pool notices nothing

        assert await store.reads.wallet_keys("user", "ada") == []
        crashable_postgres.restart_immediate()
        assert (await store.reads.books([], expiring=True)).wallets == {}
    finally:
        await store.close()


async def prepared(store: PostgresStore) -> int:
    """Return the number of prepared statements in a session of the store."""
    async with store.db.connection() as db:
        count: int = await db.fetchval("SELECT count(*) FROM pg_prepared_statements")
        return count


@pytest.mark.parametrize("kept", [True, False])
async def test_without_a_statement_cache_no_session_keeps_a_statement(
    postgres_url: str, *, kept: bool
) -> None:
    await migrate_at(postgres_url, None)
    settings = load(database_url=postgres_url, database_statement_cache=kept)
    store = await open_store(settings)
    try:
        for _ in range(2):
            await store.reads.wallet_keys("user", "ada")
            await store.reads.books([WalletKey("user", "ada", "credits")], expiring=True)

        assert isinstance(store, PostgresStore)
        assert (await prepared(store) > 1) is kept
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@a/x", []),
        ("postgresql://u:p@a:1,b/x", [("a", 1), ("b", 5432)]),
        ("postgresql://[::1]:1,[::2]/x?target_session_attrs=any", [("::1", 1), ("::2", 5432)]),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: list[address.Host]) -> None:
    assert address.hosts(url) == hosts
    assert address.has_option(url, "target_session_attrs") is ("?" in url)


async def test_an_unreachable_server_fails_the_opening() -> None:
    with pytest.raises(StoreUnavailable, match="database: "):
        await PostgresStore.open(f"postgresql://u@127.0.0.1:{free_port()}/d", pool_min=1)
