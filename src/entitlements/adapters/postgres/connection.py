"""Connections to PostgreSQL, pooled and unpooled."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from entitlements.adapters.postgres import address
from entitlements.app.ports import AddressUnusable, StoreUnavailable, TransactionOver

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
"""Transient errors, which end once the server is back or writable again."""
NOT_LET_IN: Final = (
    socket.gaierror,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""Errors while connecting: unknown host, role or database, or a wrong password."""
REFUSED_OPTION: Final = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)
"""Errors while connecting: options that the driver does not know are sent as server settings."""
_PARAMETER: Final = re.compile(r'parameter "([a-z_.]+)"')
"""Matches an option's name. Other text may be part of a password that lacks percent-encoding."""
NEXT_HOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
)
"""Errors of one host of several, after which the next one is tried."""


def check(url: str) -> None:
    """Validate the URL. Raises AddressUnusable if the driver cannot use it."""
    if why := address.problem(url):
        raise AddressUnusable("the database", why)


async def connect(url: str, *, timeout: float, **options: Any) -> asyncpg.Connection:  # noqa: ASYNC109
    """Connect as the driver does, but without the URL in errors. Raises AddressUnusable.

    Several hosts share the timeout, so that one that does not respond leaves time for the next.
    Unless the URL says otherwise, a writable host is chosen.
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


ABORTED: Final = (
    "was aborted by a statement that failed, and is rolled back: let the error end the block, or"
    " run such a statement after a SAVEPOINT"
)


class CommitUnanswered(Exception):
    """COMMIT was sent, but its response is missing."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause) or type(cause).__name__)


async def commit(db: asyncpg.Connection) -> None:
    """Commit. Raises CommitUnanswered, and TransactionOver if the server rolled back instead."""
    try:
        done = await db.execute("COMMIT")
    except LOST as error:
        raise CommitUnanswered(error) from error
    if done != "COMMIT":
        raise TransactionOver(ABORTED)


def is_open(db: asyncpg.Connection) -> bool:
    """Return whether the connection is open. One that was terminated has left its pool."""
    try:
        return not db.is_closed()
    except asyncpg.InterfaceError:
        return False


@asynccontextmanager
async def rolled_back_on_error(
    db: asyncpg.Connection, rollback: str = "ROLLBACK"
) -> AsyncIterator[None]:
    """Roll back the transaction if the block raises, or what ``rollback`` undoes of it. A server
    that did not respond would not respond to a ROLLBACK either: its connection is closed, which
    also ends the transaction.
    """
    try:
        yield
    except (TimeoutError, CommitUnanswered):
        db.terminate()
        raise
    except BaseException:
        if is_open(db):
            try:
                await db.execute(rollback)
            except (asyncpg.PostgresError, *LOST):
                db.terminate()
            except BaseException:
                db.terminate()
                raise
        raise


@asynccontextmanager
async def connected(url: str, name: str = "database") -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the block. Raises AddressUnusable, StoreUnavailable.

    ``name`` is that of the database in errors.
    """
    check(url)
    try:
        # A pooler may run each statement on another server, which lacks the prepared statements.
        db = await connect(url, timeout=CONNECT_S, statement_cache_size=0)
        try:
            yield db
        finally:
            await db.close()
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise StoreUnavailable(f"{name}: {str(error) or type(error).__name__}") from error
