"""The tables of an older service in a SQLite file, read in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import apsw

from entitlements.adapters.sqlite.connection import connect, unavailable
from entitlements.adapters.sqlite.statements import SQL

T = TypeVar("T")


class SqliteOrigin:
    """Implements `OlderTables`. The file is read in a thread of its connection."""

    def __init__(self, db: apsw.Connection, thread: ThreadPoolExecutor) -> None:
        self._db = db
        self._thread = thread

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """Open the file for reading. Raises StoreUnavailable."""
        with ThreadPoolExecutor(1, thread_name_prefix="sqlite-origin") as thread:
            loop = asyncio.get_running_loop()
            db = await loop.run_in_executor(thread, lambda: connect(path, read_only=True))
            tables = cls(db, thread)
            try:
                await tables._run(lambda: db.execute("BEGIN"))
                yield tables
            finally:
                await loop.run_in_executor(thread, db.close)

    async def columns(self, table: str) -> Collection[str]:
        return await self._run(
            lambda: [str(row[0]) for row in self._db.execute(SQL["origin_columns"], (table,))]
        )

    async def rows(
        self, table: str, columns: Sequence[str], size: int
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        names = ", ".join(columns)
        cursor = await self._run(lambda: self._db.execute(f"SELECT {names} FROM {table}"))
        while page := await self._run(lambda: list(islice(cursor, size))):
            yield [dict(zip(columns, row, strict=True)) for row in page]

    async def _run(self, work: Callable[[], T]) -> T:
        def run() -> T:
            with unavailable():
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)
