"""Connections to Redis from a URL, whose errors show nothing of it."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError

from entitlements.app.ports import AddressUnusable


def connection(url: str, **options: Any) -> AbstractConnection:
    """A connection that is yet to connect; ``options`` replace those of the URL.

    Raises AddressUnusable.
    """
    try:
        given: dict[str, Any] = dict(parse_url(url))
        kind = given.pop("connection_class", Connection)
        given.pop("max_connections", None)
        made: AbstractConnection = kind(**{**given, **options})
    except (RedisError, TypeError, ValueError):
        raise AddressUnusable(
            "Redis", "has an option that the client does not understand"
        ) from None
    return made
