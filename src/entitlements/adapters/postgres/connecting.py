"""Connections to PostgreSQL, outside of the pool and for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from entitlements.adapters.postgres.address import problem
from entitlements.app.ports import AddressUnusable, Unavailable

CONNECT_S = 10


def check(url: str) -> None:
    """Raise AddressUnusable unless the driver understands the URL."""
    if why := problem(url):
        raise AddressUnusable("the database", why)


async def connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
    """As the driver's, but no error shows the URL. Raises AddressUnusable."""
    try:
        return await asyncpg.connect(*arguments, **options)
    except (asyncpg.ClientConfigurationError, ValueError):
        raise AddressUnusable(
            "the database", "has an option that the driver does not understand"
        ) from None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for one piece of work. Raises AddressUnusable, Unavailable."""
    check(url)
    try:
        db = await connect(url, timeout=CONNECT_S)
        try:
            yield db
        finally:
            await db.close()
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise Unavailable(f"database: {str(error) or type(error).__name__}") from error
