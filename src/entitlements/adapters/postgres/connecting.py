"""Connections to PostgreSQL, outside of the pool and for it."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from entitlements.adapters.postgres import address
from entitlements.app.ports import AddressUnusable, Unavailable

CONNECT_S: Final = 10
TARGET: Final = "target_session_attrs"
LOST: Final = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""What passes by itself, once the server is back or takes writes again."""
NOT_LET_IN: Final = (
    socket.gaierror,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""While a connection is made: no such host, role or database, or a wrong password."""
REFUSED_OPTION: Final = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)
"""While a connection is made: options that the driver does not know are the server's settings."""
_PARAMETER: Final = re.compile(r'parameter "([a-z_.]+)"')
"""Names an option, unless it may be a part of a password that was not percent-encoded."""
NEXT_HOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
)
"""Of one host of several: the next may do."""


def check(url: str) -> None:
    """Raise AddressUnusable unless the driver understands the URL."""
    if why := address.problem(url):
        raise AddressUnusable("the database", why)


async def connect(url: str, *, timeout: float, **options: Any) -> asyncpg.Connection:  # noqa: ASYNC109
    """Connect as the driver does, but show the URL in no error. Raises AddressUnusable.

    Of several hosts each has its share of the time, so that one that does not answer leaves some
    for the next. Unless the URL says otherwise, the one that takes writes is chosen.
    """
    hosts = address.hosts(url)
    if hosts and not address.has_option(url, TARGET):
        options[TARGET] = "read-write"
    places = [{"host": host, "port": port} for host, port in hosts] or [{}]
    options["timeout"] = timeout / len(places)
    try:
        for place in places[:-1]:
            with suppress(*NEXT_HOST):
                return await asyncpg.connect(url, **place, **options)
        return await asyncpg.connect(url, **places[-1], **options)
    except REFUSED_OPTION as error:
        named = _PARAMETER.search(str(error))
        option = f"the option {named[1]}" if named else "an option"
        raise AddressUnusable("the database", f"has {option}, which the server refuses") from None
    except (asyncpg.ClientConfigurationError, ValueError):
        raise AddressUnusable(
            "the database", "has an option that the driver does not understand"
        ) from None


class CommitUnanswered(Exception):
    """COMMIT was sent, and its answer is missing."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause) or type(cause).__name__)


async def commit(db: asyncpg.Connection) -> None:
    """Raises CommitUnanswered."""
    try:
        await db.execute("COMMIT")
    except LOST as error:
        raise CommitUnanswered(error) from error


@asynccontextmanager
async def rolled_back_on_error(db: asyncpg.Connection) -> AsyncIterator[None]:
    """End the transaction of the block where that raises. A server that did not answer would not
    answer to a ROLLBACK either: its connection is cut, which ends the transaction too.
    """
    try:
        yield
    except (TimeoutError, CommitUnanswered):
        db.terminate()
        raise
    except BaseException:
        if not db.is_closed():
            try:
                await db.execute("ROLLBACK")
            except (asyncpg.PostgresError, *LOST):
                db.terminate()
            except BaseException:
                db.terminate()
                raise
        raise


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for one piece of work. Raises AddressUnusable, Unavailable."""
    check(url)
    try:
        # A pooler may give each statement another server, which does not know those prepared.
        db = await connect(url, timeout=CONNECT_S, statement_cache_size=0)
        try:
            yield db
        finally:
            await db.close()
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise Unavailable(f"database: {str(error) or type(error).__name__}") from error
