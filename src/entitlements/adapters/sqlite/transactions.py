"""Transactions on SQLite in which commands are committed with statements of a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import apsw

from entitlements.adapters.sqlite.connection import savepoint
from entitlements.adapters.sqlite.database import Database, Lent
from entitlements.adapters.sqlite.ledger import SqliteLedger
from entitlements.app.ports import ConnectionUnusable, OpenTransaction


class SqliteTransaction(SqliteLedger):
    """Implements `OpenTransaction`: each `commit` is a savepoint of the writer's transaction."""

    def __init__(self, db: Database, lent: Lent) -> None:
        super().__init__(db)
        self._lent = lent

    async def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._lent.run(lambda db: self._db.execute_others(db, sql, values))

    async def _write(self, work: Callable[[apsw.Connection], bool], _wait_s: float, /) -> bool:
        def run(db: apsw.Connection) -> bool:
            with savepoint(db):
                return work(db)

        return await self._lent.run(run)


class SqliteTransactions:
    """Implements `Transactions`. The file has one writer, so no connection of a caller can join."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[SqliteTransaction]:
        async with self._db.lent() as lent:
            yield SqliteTransaction(self._db, lent)

    def join(self, connection: Any) -> AbstractAsyncContextManager[OpenTransaction]:
        raise ConnectionUnusable(
            f"a SQLite file has one writer, the engine's, which no {type(connection).__name__} can"
            " replace: use transaction() without a connection, and its execute()"
        )
