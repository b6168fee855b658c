"""An empty store of each engine, whose ledger must pass verification after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from tests.books import assert_books_balance
from tests.stores.clerk import Clerk, Clock, Store, a_clerk
from tests.tables import sqlite_url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Store]:
    opened: SqliteStore | PostgresStore
    if request.param == "sqlite":
        url = sqlite_url(tmp_path)
        opened = await SqliteStore.open(tmp_path / "books.db", clock=clock)
    else:
        url = request.getfixturevalue("postgres_url")
        opened = await PostgresStore.open(url, clock=clock)
    await opened.migrate()
    yield opened
    await opened.close()
    await assert_books_balance(url)


@pytest.fixture
async def clerk(store: Store, clock: Clock) -> Clerk:
    return await a_clerk(store, clock)
