"""A pool of connections to PostgreSQL, which reconnects by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self, TypeVar

import asyncpg

from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.postgres.connection import (
    LOST,
    NOT_LET_IN,
    CommitUnanswered,
    check,
    commit,
    connect,
    rolled_back_on_error,
)
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import (
    CHECK_S,
    Applied,
    Connections,
    Contended,
    Locked,
    NoDatabase,
    ReadOnly,
    StoreUnavailable,
    TransactionOver,
    WriteRejected,
)
from entitlements.app.process.outage import Outage
from entitlements.ids import is_uuid

T = TypeVar("T")

STALE = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""The plan is of an earlier schema; the driver has dropped it and will prepare a new one."""
CONTENDED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, *STALE)
CLOSED = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""Errors of `LOST` after which the connection is closed; another one may work."""
USELESS = (*CLOSED, TimeoutError, asyncpg.ReadOnlySQLTransactionError)
"""Errors of `LOST` that affect every connection: the server does not respond or is read-only."""
ACQUIRE_S = 5.0
LISTING_S = 7.0
"""The timeout of all other reads."""
READ_AGAIN_WITHIN_S = 1.0
"""A read that fails later than this is not retried: its caller would not wait for it."""
REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""A constraint or type of the database rejected the values."""


class Database:
    """Connections, transactions and reads; the driver's errors become those of the ports."""

    def __init__(
        self, pool: asyncpg.Pool, clock: Callable[[], datetime] | None, *, check_s: float
    ) -> None:
        self.check_s = check_s
        self._pool = pool
        self._clock = clock
        self._waiting = 0
        self._lendable = asyncio.Semaphore(max(1, pool.get_max_size() - 1))
        self._outage = Outage()
        self._late: set[asyncio.Task[Any]] = set()
        """Reads in progress whose callers got an error."""

    def now(self) -> datetime | None:
        """Return the time of a settable clock; None if the database's clock is used."""
        return self._clock() if self._clock else None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Callable[[], datetime] | None = None,
        pool_min: int = 0,
        pool_max: int = 10,
        connect_timeout_s: float = 5,
        check_s: float = CHECK_S,
        statement_cache: bool = True,
    ) -> Self:
        """Create the pool. With ``pool_min`` 0 it connects lazily: while the database is away,
        calls raise StoreUnavailable, not this method. Raises StoreUnavailable if ``pool_min``
        connections cannot be opened, NoDatabase, and AddressUnusable.

        ``clock`` replaces the database's, for tests and simulations. ``check_s`` is the timeout of
        the reads of a check. Without ``statement_cache`` no statement stays prepared.
        """
        check(url)
        pool = asyncpg.create_pool(
            url,
            connect=connect,
            min_size=0,  # the pool would restore more in a task of its own, with log lines
            init_size=pool_min,
            max_size=pool_max,
            timeout=connect_timeout_s,
            command_timeout=12,
            reset=_nothing_to_reset,
            **({} if statement_cache else {"statement_cache_size": 0}),
        )
        try:
            await pool
        except NOT_LET_IN as error:
            raise NoDatabase(str(error)) from error
        except LOST as error:
            raise _unavailable(error) from error
        return cls(pool, clock, check_s=check_s)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def connections(self) -> Connections:
        idle, size = self._pool.get_idle_size(), self._pool.get_size()
        return Connections(
            idle=idle, busy=size - idle, waiting=self._waiting, most=self._pool.get_max_size()
        )

    async def ping(self) -> None:
        if await self._takes_writes():
            return
        # Perhaps only this session is read-only: it predates a failover or a changed setting.
        await self._pool.expire_connections()
        if not await self._takes_writes():
            unwritable = ReadOnly("database: it takes no writes")
            self._outage.failed(str(unwritable))
            raise unwritable

    async def _takes_writes(self) -> bool:
        row = await self.one("takes_writes")
        return bool(row["takes_writes"]) if row else False

    async def named(self, name: str, row_id: str) -> asyncpg.Record | None:
        """Return the row with the id; None also for a text that is not an id."""
        return await self.one(name, row_id) if is_uuid(row_id) else None

    async def one(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        return await self.read(lambda db: db.fetchrow(SQL[name], *arguments))

    async def all(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self.read(lambda db: db.fetch(SQL[name], *arguments))
        return found

    async def listed(self, steps: Callable[[], Steps[Listed]]) -> Listed:
        """Return the rows of a listing, read at one moment."""

        async def read(db: asyncpg.Connection) -> Listed:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                await db.execute(SQL["pin_plans"])
                return await _run(db, steps())

        return await self.read(read)

    async def read(
        self,
        read: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        within_s: float = LISTING_S,
    ) -> T:
        """Return the result of ``read``. Raises StoreUnavailable after ``within_s``.

        A frozen server does not respond to a cancellation either, so a late read is left to end by
        itself.
        """
        reading = asyncio.create_task(self._read_again(read))
        try:
            await asyncio.wait({reading}, timeout=within_s)
        except asyncio.CancelledError:
            reading.cancel()
            raise
        if reading.done():
            return reading.result()
        self._late.add(reading)
        reading.add_done_callback(self._ended_late)
        raise self._failed(TimeoutError(f"no response within {within_s:g} s"))

    def _ended_late(self, reading: asyncio.Task[Any]) -> None:
        self._late.discard(reading)
        if not reading.cancelled():
            reading.exception()

    async def _read_again(self, read: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Return the result of ``read``. It is retried once on a new connection if the server had
        closed the pooled one, as a restart does, or if the plan was of an earlier schema.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self.connection() as db:
                return await read(db)
        except (StoreUnavailable, Contended) as error:
            was_late = loop.time() - started > READ_AGAIN_WITHIN_S
            if was_late or not isinstance(error.__cause__, (*CLOSED, *STALE)):
                raise
        async with self.connection() as db:
            return await read(db)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Run the block in a transaction on a pooled connection."""
        async with self.connection() as db, rolled_back_on_error(db):
            await db.execute("BEGIN")
            yield db
            await commit(db)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[asyncpg.Connection]:
        """As `transaction`, but errors of the block pass unchanged: they are its caller's."""
        async with self._lending(), self._acquired() as db:
            async with self.translated(), rolled_back_on_error(db):
                await db.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            async with rolled_back_on_error(db):
                yield db
            try:
                async with self.translated(), rolled_back_on_error(db):
                    if not db.is_in_transaction():
                        raise TransactionOver
                    await commit(db)
            except WriteRejected as error:  # by a deferred constraint, which is the caller's
                raise error.__cause__ or error from None

    @asynccontextmanager
    async def _lending(self) -> AsyncIterator[None]:
        """Leave one connection of the pool, with which the others create wallets."""
        try:
            async with asyncio.timeout(ACQUIRE_S):
                await self._lendable.acquire()
        except TimeoutError as error:
            raise self._failed(error) from error
        try:
            yield
        finally:
            self._lendable.release()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Take a connection from the pool; the driver's errors become those of the ports."""
        async with self._acquired() as db, self.translated():
            yield db
        self._outage.answered()

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[asyncpg.Connection]:
        self._waiting += 1
        try:
            db = await self._pool.acquire(timeout=ACQUIRE_S)
        except LOST as error:
            raise self._failed(error) from error
        finally:
            self._waiting -= 1
        try:
            yield db
        finally:
            await self._pool.release(db)

    @asynccontextmanager
    async def translated(self) -> AsyncIterator[None]:
        """Convert the driver's errors in the block to those of the ports."""
        try:
            yield
        except asyncpg.LockNotAvailableError as error:
            raise Locked(str(error)) from error
        except CONTENDED as error:
            raise Contended(str(error)) from error
        except CommitUnanswered as error:
            await self._pool.expire_connections()
            raise self._failed(error, applied="unknown") from error
        except LOST as error:
            if isinstance(error, USELESS):
                await self._pool.expire_connections()
            raise self._failed(error) from error
        except REFUSED as error:
            raise WriteRejected(str(error)) from error

    def _failed(self, error: BaseException, *, applied: Applied = "no") -> StoreUnavailable:
        unavailable = _unavailable(error, applied=applied)
        self._outage.failed(str(unavailable))
        return unavailable


async def _run(db: asyncpg.Connection, steps: Steps[Listed]) -> Listed:
    try:
        sql, values = next(steps)
        while True:
            sql, values = steps.send(await db.fetch(sql, *values))
    except StopIteration as end:
        listed: Listed = end.value
        return listed


def _unavailable(error: BaseException, *, applied: Applied = "no") -> StoreUnavailable:
    reason = str(error) or type(error).__name__
    if isinstance(error, asyncpg.InternalClientError):
        reason = "the connection was lost"  # the text is about states of the driver
    return StoreUnavailable(f"database: {reason}", applied=applied)


async def _nothing_to_reset(db: asyncpg.Connection) -> None:
    """Skip the driver's reset, a round trip: every unit of work ends its own transaction."""
