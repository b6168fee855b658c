"""Threads that read one SQLite file, each with its own connection."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from entitlements.adapters.sqlite.connection import connect, reading

T = TypeVar("T")


class Readers:
    """Up to ``threads`` transactions at a time; further ones queue for these threads only."""

    def __init__(self, path: str | os.PathLike[str], name: str, threads: int) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"sqlite-{name}")
        self._mine = threading.local()
        self._connections: list[apsw.Connection] = []

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Return the result of ``work`` in a read transaction. Raises StoreUnavailable."""

        def read() -> T:
            db = self._connection()
            with reading(db):
                return work(db)

        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    def _connection(self) -> apsw.Connection:
        db: apsw.Connection | None = getattr(self._mine, "db", None)
        if db is None:
            db = self._mine.db = connect(self._path, read_only=True)
            self._connections.append(db)
        return db

    def close(self) -> None:
        """Wait for running work, then close the connections."""
        self._threads.shutdown()
        for db in self._connections:
            db.close()
