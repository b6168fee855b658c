"""Connections to Redis from a URL, with errors that do not show the URL.

Sockets have no timeout of redis-py, whatever the URL says: redis-py uses `asyncio.wait_for`, which
loses a cancellation before Python 3.12. Callers use `asyncio.timeout`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from entitlements.app.ports import AddressUnusable

_UNKNOWN: Final = re.compile(r"unexpected keyword argument '([a-z_]+)'")
"""Matches an option's name. Other text may be part of a password that lacks percent-encoding."""
UNTIMED: Final = {"socket_timeout": None, "socket_connect_timeout": None}


def connection(url: str, **options: Any) -> AbstractConnection:
    """Return a connection that is not yet connected; ``options`` override those of the URL.

    Raises AddressUnusable.
    """
    try:
        given: dict[str, Any] = dict(parse_url(url))
        kind = given.pop("connection_class", Connection)
        given.pop("max_connections", None)
        made: AbstractConnection = kind(**{**given, **options, **UNTIMED})
    except TypeError as error:
        named = _UNKNOWN.search(str(error))
        option = f"the option {named[1]}" if named else "an option"
        raise AddressUnusable(
            "Redis", f"has {option}, which the client redis-py does not know"
        ) from None
    except (RedisError, ValueError):
        raise AddressUnusable(
            "Redis", "has an option with a value that the client redis-py does not understand"
        ) from None
    return made


def client(url: str) -> Redis:
    """Return a client that tries each command once. Raises AddressUnusable."""
    connection(url)  # validates the URL: a pool would raise only on first use
    pool = ConnectionPool.from_url(url)
    pool.connection_kwargs |= {**UNTIMED, "retry": Retry(NoBackoff(), 0)}
    return Redis.from_pool(pool)
