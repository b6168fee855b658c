"""The tables of an older service on PostgreSQL, read in one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from entitlements.adapters.postgres.connection import connected
from entitlements.adapters.postgres.statements import SQL

SCHEMA: Final = "schema"
"""The option of the URL that names the schema of the tables."""


class PostgresOrigin:
    """Implements `OlderTables`."""

    def __init__(self, db: asyncpg.Connection, schema: str | None) -> None:
        self._db = db
        self._schema = schema

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Open the database for reading; the URL can have the option ``schema``. Raises
        AddressUnusable, StoreUnavailable.
        """
        address, schema = _split(url)
        async with (
            connected(address, "older service") as db,
            db.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield cls(db, schema)

    async def columns(self, table: str) -> Collection[str]:
        return [row["name"] for row in await self._db.fetch(SQL["origin_columns"], self._at(table))]

    async def rows(
        self, table: str, columns: Sequence[str], size: int
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        names = ", ".join(map(_quoted, columns))
        cursor = await self._db.cursor(f"SELECT {names} FROM {self._at(table)}")
        while page := await cursor.fetch(size):
            yield page

    def _at(self, table: str) -> str:
        parts = (self._schema, table) if self._schema is not None else (table,)
        return ".".join(map(_quoted, parts))


def _split(url: str) -> tuple[str, str | None]:
    """Return the URL without the option ``schema``, and its value."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    schema = next((value for name, value in options if name == SCHEMA), None)
    if schema is None:
        return url, None
    kept = [(name, value) for name, value in options if name != SCHEMA]
    return parts._replace(query=urlencode(kept)).geturl(), schema


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
