"""Migrated databases, which must pass verification after each test."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.books import assert_books_balance


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    yield postgres_url
    asyncio.run(assert_books_balance(postgres_url))
