"""One SQLite file: one writer thread and several reader threads."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import datetime
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.sqlite import migrate, rows
from entitlements.adapters.sqlite.connection import (
    LOCK_WAIT_S,
    connect,
    create_private,
    restrict,
    unsynced,
    writing,
)
from entitlements.adapters.sqlite.readers import Readers
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.ports import StoreUnavailable, TransactionOver
from entitlements.app.process.outage import Outage

HISTORY_THREADS = 3
"""The number of concurrent listings: each is bounded, but several can read a long history."""
LENT_WAIT_S = 6.0
"""How long a caller's transaction waits for others of this process, one of which may be its own."""
T = TypeVar("T")

_PARAMETER = re.compile(
    r"""('[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/)|\$(\d+)(?!\w)""", re.DOTALL
)
"""Matches ``$1``, and quoted text and comments, which can contain it."""


class Lent:
    """The writer's thread while a caller has its transaction: it runs the caller's work."""

    def __init__(self) -> None:
        self._steps: SimpleQueue[Callable[[apsw.Connection], None] | None] = SimpleQueue()

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run work in the transaction. It is finished even if the caller is cancelled."""
        done: Future[T] = Future()

        def step(db: apsw.Connection) -> None:
            try:
                _require_open(db)
                done.set_result(work(db))
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                done.set_exception(error)

        done.set_running_or_notify_cancel()
        self._steps.put(step)
        return await asyncio.wrap_future(done)

    def end(self) -> None:
        self._steps.put(None)

    def serve(self, db: apsw.Connection) -> None:
        """Run the steps until the end."""
        while (step := self._steps.get()) is not None:
            step(db)


class _RolledBack(Exception):
    """The caller's block raised."""


class Database:
    """Transactions in threads, each with its own connection. Processes can share the file."""

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], datetime]) -> None:
        self.path = path
        self.clock = clock
        self._is_current = False
        self._outage = Outage()
        create_private(path)
        self._write_db = connect(path)
        self._checks = Readers(path, "checks", 1)
        self._books = Readers(path, "books", 1)
        self._history = Readers(path, "history", HISTORY_THREADS)
        self._recount = Readers(path, "recount", 1)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._is_others = False
        restrict(self._write_db, others=lambda: self._is_others)

    async def close(self) -> None:
        """Wait for running work, then close the connections."""
        loop = asyncio.get_running_loop()
        for readers in (self._checks, self._books, self._history, self._recount):
            await asyncio.to_thread(readers.close)
        await loop.run_in_executor(self._writer, self._write_db.close)
        self._writer.shutdown()

    def connections(self) -> None:
        """Return None: each thread has its own connection."""

    async def ping(self) -> None:
        await self.all("ping")

    def now(self) -> int:
        """Return the clock's time as it is stored."""
        return rows.to_us(self.clock())

    async def migrate(self) -> list[str]:
        """Apply the missing migrations; return their names. Raises SchemaMismatch."""

        def run() -> list[str]:
            db = connect(self.path)
            try:
                return migrate.migrate(db, self.now())
            finally:
                db.close()

        return await asyncio.get_running_loop().run_in_executor(self._writer, run)

    def execute_others(
        self, db: apsw.Connection, sql: str, values: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        """Execute a statement that is not the engine's, in a transaction of the writer."""
        self._is_others = True
        try:
            return db.execute(_numbered(sql), values, can_cache=False).fetchall()
        finally:
            self._is_others = False

    async def one(self, name: str, *values: Any) -> Any:
        """Return the first row of a short read by keys."""
        return await self.read(lambda db: db.execute(SQL[name], values).fetchone())

    async def all(self, name: str, *values: Any) -> list[Any]:
        """Return the rows of a short read by keys."""
        return await self.read(lambda db: db.execute(SQL[name], values).fetchall())

    async def many(self, name: str, *values: Any) -> list[Any]:
        """Return the rows of a longer read."""
        return await self.history(lambda db: db.execute(SQL[name], values).fetchall())

    async def listed(self, steps: Callable[[], Steps[Listed]]) -> Listed:
        """Return the rows of a listing, read at one moment."""
        return await self.history(lambda db: _run(db, steps()))

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a short read by keys, which never waits for a listing."""
        return await self._reading(self._checks, work)

    async def books(self, work: Callable[[apsw.Connection], T]) -> T:
        """Read wallets more closely than a check does; checks do not wait for it."""
        return await self._reading(self._books, work)

    async def history(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a longer read."""
        return await self._reading(self._history, work)

    async def recount(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._reading(self._recount, work)

    async def write(
        self,
        work: Callable[[apsw.Connection], T],
        wait_s: float = LOCK_WAIT_S,
        *,
        durably: bool = True,
    ) -> T:
        """Run one transaction. Without ``durably``, only the next durable one writes it to disk."""

        def run() -> T:
            db = self._write_db
            self._require_current(db)
            with nullcontext() if durably else unsynced(db), writing(db, wait_s):
                return work(db)

        running = asyncio.get_running_loop().run_in_executor(self._writer, run)
        return await self._answered(running)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Lent]:
        """Lend the writer's transaction for the block, whose errors pass unchanged. Other writes
        of this process wait in their order. Raises StoreUnavailable if those before it take longer
        than `LENT_WAIT_S`.
        """
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()
        lent = Lent()
        is_wanted = False

        def run() -> None:
            db = self._write_db
            self._require_current(db)
            with writing(db):
                loop.call_soon_threadsafe(_set, begun)
                lent.serve(db)
                if not is_wanted:
                    raise _RolledBack
                _require_open(db)

        running = loop.run_in_executor(self._writer, run)
        try:
            await asyncio.wait(
                {running, begun}, timeout=LENT_WAIT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if begun.done() and not running.done():
                yield lent
                is_wanted = True
        finally:
            lent.end()
            if begun.done() or running.done():
                with suppress(_RolledBack):
                    await self._answered(running)
            else:  # its turn comes later, perhaps only when the caller has returned, and is empty
                running.add_done_callback(_retrieve)
        if not running.done():
            raise StoreUnavailable("another transaction of this process has not ended")

    async def _reading(self, readers: Readers, work: Callable[[apsw.Connection], T]) -> T:
        def run(db: apsw.Connection) -> T:
            self._require_current(db)
            return work(db)

        return await self._answered(readers.run(run))

    async def _answered(self, running: Awaitable[T]) -> T:
        try:
            answer = await running
        except StoreUnavailable as error:
            self._outage.failed(str(error))
            raise
        self._outage.answered()
        return answer

    def _require_current(self, db: apsw.Connection) -> None:
        """Check the schema once: it does not change by itself while the program runs."""
        if not self._is_current:
            migrate.check(db)
            self._is_current = True


def _numbered(sql: str) -> str:
    """Return the statement with parameters ``?1``. SQLite binds ``$1``, which is a name to it, in
    the order of appearance.
    """
    return _PARAMETER.sub(lambda found: found[1] or f"?{found[2]}", sql)


def _require_open(db: apsw.Connection) -> None:
    if not db.in_transaction:
        raise TransactionOver


def _retrieve(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _run(db: apsw.Connection, steps: Steps[Listed]) -> Listed:
    try:
        sql, values = next(steps)
        while True:
            # ?1 binds a value by its number, $1 in the order of appearance.
            found = db.execute(sql.replace("$", "?"), values).fetchall()
            sql, values = steps.send(found)
    except StopIteration as end:
        listed: Listed = end.value
        return listed
