"""Databases with tables, whose books must balance when a test is done."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.books import assert_books_balance
from tests.concurrency.conftest import migrate
from tests.servers import Postgres


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> str:
    return postgres_server.template("ingest", migrate)


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    yield postgres_url
    asyncio.run(assert_books_balance(postgres_url))
