"""Transactions on PostgreSQL in which commands are committed with statements of a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from entitlements.adapters.postgres.connection import ABORTED, is_open
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.ledger import PostgresLedger
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import ConnectionUnusable, Decide, Seal, TransactionOver, unsealed
from entitlements.core.ledger.book import Needs

READ_COMMITTED: Final = "read committed"


class PostgresTransaction(PostgresLedger):
    """Implements `OpenTransaction`: each `commit` is a part of the connection's transaction."""

    _rollback = "ROLLBACK TO SAVEPOINT entitlements; RELEASE SAVEPOINT entitlements"

    def __init__(self, db: Database, connection: asyncpg.Connection) -> None:
        super().__init__(db)
        self._connection = connection
        self._end = ""

    async def commit(
        self, needs: Needs, decide: Decide, *, seal: Seal = unsealed, skip_locked: bool = False
    ) -> None:
        self._require_open()
        await self.require_usable()
        await super().commit(needs, decide, seal=seal, skip_locked=skip_locked)

    async def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        self._require_open()
        rows = [tuple(row) for row in await self._connection.fetch(sql, *values)]
        self._require_open()
        return rows

    async def require_usable(self) -> None:
        """Read the settings of the transaction. Raises TransactionOver if it was aborted."""
        async with self._connected() as db:
            try:
                self._end = await db.fetchval(SQL["settings_to_restore"])
            except asyncpg.InFailedSQLTransactionError as error:
                raise TransactionOver(ABORTED) from error

    def _require_open(self) -> None:
        """Raise TransactionOver. Of a closed connection, the driver says what happened."""
        if is_open(self._connection) and not self._connection.is_in_transaction():
            raise TransactionOver

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._db.translated():
            yield self._connection

    async def _begin(self, db: asyncpg.Connection) -> None:
        await db.execute(SQL["begin_inside"])

    async def _commit(self, db: asyncpg.Connection) -> None:
        await db.execute(self._end)


class PostgresTransactions:
    """Implements `Transactions`. A caller's connection is asyncpg's, or SQLAlchemy's on asyncpg."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[PostgresTransaction]:
        async with self._db.lent() as db:
            yield PostgresTransaction(self._db, db)

    @asynccontextmanager
    async def join(self, connection: Any) -> AsyncIterator[PostgresTransaction]:
        db = await _driver_connection(connection)
        if not db.is_in_transaction():
            raise ConnectionUnusable("the connection is in no transaction: begin one first")
        try:
            theirs = await db.fetchrow(SQL["identity"])
        except asyncpg.InFailedSQLTransactionError as error:
            raise ConnectionUnusable(f"its transaction {ABORTED}") from error
        ours = await self._db.one("identity")
        assert ours is not None
        if theirs["place"] != ours["place"]:
            raise ConnectionUnusable("the connection is to another database or schema")
        if theirs["isolation"] != READ_COMMITTED:
            raise ConnectionUnusable(
                f"the transaction is {theirs['isolation']}, but must be {READ_COMMITTED}:"
                " a stricter one cannot see changes that are committed while it waits for a wallet"
            )
        transaction = PostgresTransaction(self._db, db)
        yield transaction
        if is_open(db) and db.is_in_transaction():
            await transaction.require_usable()  # else COMMIT would roll back without an error


async def _driver_connection(given: Any) -> asyncpg.Connection:
    """Return the driver's connection of an asyncpg connection, or of an AsyncSession or
    AsyncConnection of SQLAlchemy, whose transaction it begins.
    """
    if hasattr(given, "is_in_transaction"):
        return given
    if hasattr(given, "get_bind") and hasattr(given, "connection"):
        given = await given.connection()
    if hasattr(given, "get_raw_connection"):
        await given.exec_driver_sql("SELECT 1")  # BEGIN is sent with the first statement
        db = (await given.get_raw_connection()).driver_connection
        if hasattr(db, "is_in_transaction"):
            return db
    raise ConnectionUnusable(
        "the connection must be one of asyncpg, or an AsyncSession or AsyncConnection of SQLAlchemy"
        " on asyncpg"
    )
