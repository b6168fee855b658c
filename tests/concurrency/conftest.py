"""Migrated databases, which must pass verification after each test."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.books import assert_books_balance
from tests.tables import sqlite_url


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    yield postgres_url
    asyncio.run(assert_books_balance(postgres_url))


@pytest.fixture(params=["postgres", "sqlite"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of either engine."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path)
    else:
        url = request.getfixturevalue("postgres_url")
    yield url
    asyncio.run(assert_books_balance(url))
