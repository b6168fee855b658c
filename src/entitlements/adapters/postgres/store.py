"""The store on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Self, TypeVar

import asyncpg

from entitlements.adapters import listing
from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.postgres import migrate, rows
from entitlements.adapters.postgres.connection import (
    LOST,
    NOT_LET_IN,
    CommitUnanswered,
    check,
    commit,
    connect,
    rolled_back_on_error,
)
from entitlements.adapters.postgres.loading import (
    MissingWallets,
    load,
    load_expiries,
    load_open,
    lock,
    owing,
)
from entitlements.adapters.postgres.outbox import PostgresOutbox
from entitlements.adapters.postgres.recording import record, write_receipt
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.webhooks import PostgresWebhooks
from entitlements.app.inbox.store import DeadLetter, LettersQuery, LetterState, Reason, RecordsQuery
from entitlements.app.paging import Page
from entitlements.app.ports import (
    CHECK_S,
    LIMITER_LEASE_MAX_S,
    Activation,
    ApiKey,
    Applied,
    AuditQuery,
    Backlog,
    Conflict,
    Connections,
    Contended,
    Cursor,
    Decide,
    HoldsQuery,
    LimitExceeded,
    Locked,
    NoDatabase,
    OperationsQuery,
    PastUse,
    PolicyVersion,
    ReadOnly,
    Seal,
    Unavailable,
    debts_page,
    unsealed,
)
from entitlements.app.process import failpoints
from entitlements.app.process.outage import Outage
from entitlements.core.ledger.book import Book, Needs
from entitlements.core.ledger.closings import sort_parts
from entitlements.core.model import (
    NEVER,
    AuditEntry,
    Debt,
    Grant,
    Hold,
    Operation,
    Receipt,
    UseRecord,
    WalletKey,
)
from entitlements.core.policy import BurnOrder
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
LISTING_S = 7.0
"""The timeout of all other reads."""
READ_AGAIN_WITHIN_S = 1.0
"""A read that fails later than this is not retried: its caller would not wait for it."""
ACTIVATION_PATIENCE_S = 20
"""Longer than the server lets a batch stay idle in a transaction."""
ACTIVATION_PAUSE_S = 0.1
REFUSED = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""A constraint or type of the database rejected the values."""


class PostgresStore:
    """Ledger and records on one pool of connections; it reconnects by itself."""

    kind: Final = "PostgreSQL"

    def __init__(
        self, pool: asyncpg.Pool, clock: Callable[[], datetime] | None, *, check_s: float = CHECK_S
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._check_s = check_s
        self._waiting = 0
        self._outage = Outage()
        self._late: set[asyncio.Task[Any]] = set()
        """Reads in progress whose callers got an error."""
        self.outbox = PostgresOutbox(self._connection, clock)
        self.webhooks = PostgresWebhooks(self._transaction, self._read, self._listed, clock)

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
        calls raise Unavailable, not this method. Raises Unavailable if ``pool_min`` connections
        cannot be opened, NoDatabase, and AddressUnusable.

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

    async def migrate(self) -> list[str]:
        async with self._connection() as db:
            return await migrate.migrate(db)

    async def check_schema(self) -> None:
        """Check the schema. Raises SchemaMismatch."""
        async with self._connection() as db:
            await migrate.check(db)

    async def commit(
        self, needs: Needs, decide: Decide, *, seal: Seal = unsealed, skip_locked: bool = False
    ) -> None:
        """Commit a batch, with the guarantees of `Ledger.commit`."""
        if skip_locked:
            await self._create_wallets(list(needs.wallets))
        while True:
            try:
                async with self._connection() as db:
                    wanted = await self._attempt(db, needs, decide, seal, skip_locked=skip_locked)
            except MissingWallets as missing:
                await self._create_wallets(missing.keys)
                continue
            if wanted is None:
                return
            needs = wanted

    async def _attempt(
        self,
        db: asyncpg.Connection,
        needs: Needs,
        decide: Decide,
        seal: Seal,
        *,
        skip_locked: bool,
    ) -> Needs | None:
        """Run one transaction; return the new needs if it lacked wallets."""
        async with rolled_back_on_error(db):
            await db.execute(SQL["begin"])
            keys = sorted(needs.wallets)
            wallets, clock = await lock(db, keys, skip_locked=skip_locked)
            if len(wallets) < len(keys) and not skip_locked:
                held = {wallet.key for wallet in wallets}
                raise MissingWallets([key for key in keys if key not in held])
            now = self._clock() if self._clock else clock or await db.fetchval(SQL["clock"])
            while True:
                book = await load(db, needs, wallets, now)
                failpoints.hit("loaded")
                decided = decide(book)
                if not isinstance(decided, Needs):
                    break
                if not decided.wallets <= needs.wallets:
                    await db.execute("ROLLBACK")
                    return decided
                needs = decided
            failpoints.hit("decided")
            if decided is None:
                await db.execute("ROLLBACK")
                return None
            await record(db, decided)
            failpoints.hit("before-commit")
            seal()
            await commit(db)
        failpoints.hit("committed-unanswered")
        return None

    async def _create_wallets(self, keys: list[WalletKey]) -> None:
        """Create empty wallets in a separate transaction; they are harmless, and locked later."""
        async with self._connection() as db:
            await db.execute(SQL["create_wallets"], *rows.columns(sorted(keys), 3))

    async def books(self, keys: Sequence[WalletKey], *, expiring: bool = False) -> Book:
        async def read(db: asyncpg.Connection) -> Book:
            if not expiring:
                return await self._books(db, keys)
            async with db.transaction(isolation="repeatable_read", readonly=True):
                book = await self._books(db, keys)
                await load_expiries(db, book)
                return book

        return await self._read(read, within_s=self._check_s)

    async def opened_books(
        self, keys: Sequence[WalletKey], *, order: BurnOrder, depth: Mapping[WalletKey, int]
    ) -> Book:
        async def read(db: asyncpg.Connection) -> Book:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                book = await self._books(db, keys)
                await load_open(db, book, order, depth)
                return book

        return await self._read(read, within_s=self._check_s)

    async def _books(self, db: asyncpg.Connection, keys: Sequence[WalletKey]) -> Book:
        clock = self._clock() if self._clock else None
        asked = (*rows.columns(keys, 3), clock)
        found = await db.fetch(SQL["read_wallets"], *asked)
        now = found[0]["clock"] if found else clock or await db.fetchval(SQL["clock"])
        book = Book(now=now, policy_version="", policy_content=None)
        book.wallets = {wallet.key: wallet for wallet in map(rows.wallet, found)}
        if any(wallet.is_due(now) for wallet in book.wallets.values()):
            return await self._due_books(db, asked)
        return book

    async def _due_books(self, db: asyncpg.Connection, asked: tuple[Any, ...]) -> Book:
        """Read the wallets again together with their due effects, so that all is of one moment."""
        found = await db.fetch(SQL["read_books"], *asked)
        book = Book(now=found[0]["clock"], policy_version="", policy_content=None)
        for row in found:
            wallet = rows.wallet(row)
            book.wallets[wallet.key] = wallet
            if row[rows.DUE_GRANT] is not None:
                book.put_grant(rows.due_grant(row))
            if row[rows.DUE_HOLD] is not None:
                book.put_hold(rows.due_hold(row))
        return book

    async def operation(self, operation_id: str) -> Operation | None:
        row = await self._named("operation", operation_id)
        return rows.operation(row) if row else None

    async def operation_ids(self, first: str, last: str) -> list[str]:
        return [row["id"] for row in await self._all("operation_ids", first, last)]

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        found = await self._listed(lambda: listing.operations(query, lambda at: at))
        end = found.next
        return Page(
            rows=[rows.operation(row) for row in found.rows],
            next=Cursor(end[0], str(end[-1])) if end else None,
        )

    async def grant(self, grant_id: str) -> Grant | None:
        row = await self._named("grant", grant_id)
        return rows.grant(row) if row else None

    async def hold(self, hold_id: str) -> list[Hold]:
        return sort_parts(await self.holds_named([hold_id]))

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        known = [hold_id for hold_id in ids if is_uuid(hold_id)]
        return [rows.hold(row) for row in await self._all("holds_named", known)]

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        found = await self._listed(lambda: listing.holds(query))
        return found.page(rows.hold)

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        return [
            rows.key_of(row) for row in await self._all("wallet_keys", subject_type, subject_id)
        ]

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        return [row["org_id"] for row in await self._all("orgs_of", user_id, limit)]

    async def debt(self, operation_id: str) -> Debt | None:
        row = await self._named("debt", operation_id)
        return rows.debt(row) if row else None

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        place = (after.created_at, after.id) if after else (None, None)
        found = await self._all("debts_open" if open_only else "debts", *place, limit + 1)
        return debts_page([rows.debt(row) for row in found], limit)

    async def owing(self, keys: Sequence[WalletKey]) -> dict[WalletKey, int]:
        return await self._read(lambda db: owing(db, keys), within_s=self._check_s)

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        known = None if metrics is None else list(metrics)
        found = await self._all("unpriced_work", known, list(without), limit)
        return [row["operation_id"] for row in found]

    async def unpriced_total(self, limit: int) -> int:
        (row,) = await self._all("unpriced_total", limit)
        return int(row["total"])

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        now = self._clock() if self._clock else None
        left_out = rows.columns(sorted(without), 3)
        return [rows.key_of(row) for row in await self._all("due_wallets", now, limit, *left_out)]

    async def api_key(self, secret_sha256: str) -> ApiKey | None:
        row = await self._read(
            lambda db: db.fetchrow(SQL["api_key"], secret_sha256), within_s=self._check_s
        )
        return ApiKey(**row) if row else None

    async def api_keys(self) -> list[ApiKey]:
        return [ApiKey(**row) for row in await self._all("api_keys")]

    async def add_api_key(self, key: ApiKey, audit: AuditEntry) -> None:
        async with self._transaction() as db:
            await db.execute(
                SQL["add_api_key"],
                key.id,
                key.name,
                key.role,
                key.prefix,
                key.secret_sha256,
                key.created_at,
            )
            await db.execute(SQL["write_audit"], *rows.audit_values(audit))

    async def revoke_api_key(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        if not is_uuid(key_id):
            return False
        async with self._transaction() as db:
            status = await db.execute(SQL["revoke_api_key"], key_id, at)
            if status != "UPDATE 1":
                return False
            await db.execute(SQL["write_audit"], *rows.audit_values(audit))
            return True

    async def touch_api_keys(self, used_at: dict[str, datetime]) -> None:
        async with self._connection() as db:
            arrays = rows.columns(sorted(used_at.items()), 2)
            await db.execute(SQL["touch_api_keys"], *arrays)

    async def receipt(self, client: str, key: str) -> Receipt | None:
        row = await self._one("receipt", client, key)
        return rows.receipt(row) if row else None

    async def add_receipt(self, receipt: Receipt) -> None:
        async with self._connection() as db:
            await write_receipt(db, receipt)

    async def add_audit(self, entry: AuditEntry) -> None:
        async with self._connection() as db:
            await db.execute(SQL["write_audit"], *rows.audit_values(entry))

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        found = await self._listed(lambda: listing.audit(query, lambda at: at))
        end = found.next
        return Page(
            rows=[rows.audit_entry(row) for row in found.rows],
            next=Cursor(end[0], str(end[1])) if end else None,
        )

    async def activate_policy(self, version: str, content: str, audit: AuditEntry) -> Activation:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ACTIVATION_PATIENCE_S
        while True:
            try:
                return await self._activate_policy(version, content, audit)
            except Locked:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(ACTIVATION_PAUSE_S)

    async def _activate_policy(self, version: str, content: str, audit: AuditEntry) -> Activation:
        async with self._transaction() as db:
            await db.execute(SQL["lock_policies"])
            is_new = await db.fetchval(SQL["policy_content"], version) is None
            if is_new:
                await db.execute(SQL["retire_policies"])
                now = self._clock() if self._clock else None
                await db.execute(SQL["activate_policy"], version, content, audit.actor, now)
                await db.execute(SQL["write_audit"], *rows.audit_values(audit))
            return Activation(await db.fetchval(SQL["active_policy"]), is_new)

    async def active_policy(self) -> str | None:
        row = await self._one("active_policy")
        return row["version"] if row else None

    async def policy(self, version: str) -> str | None:
        row = await self._one("policy_content", version)
        return row["content"] if row else None

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        found = await self._all("past_uses", list(metrics), window_s, since, until)
        return [PastUse(*row) for row in found]

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        now = self._clock() if self._clock else None
        async with self._transaction() as db:
            await db.execute(SQL["announce_limiter"], name, now, lease_s)
            await db.execute(SQL["limiters_gone"], now, LIMITER_LEASE_MAX_S)
            others: int = await db.fetchval(SQL["other_limiters"], name, now)
        return others

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        # Sorted, so that two processes that write the same rows do not deadlock.
        found = sorted((rows.limit_event_values(event) for event in events), key=lambda r: r[:4])
        async with self._connection() as db:
            await db.execute(SQL["add_limit_exceeded"], *rows.columns(found, 9))

    async def policies(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        return [PolicyVersion(**row) for row in await self._all("policies", prefix, before, limit)]

    async def use_records(self, query: RecordsQuery) -> Page[UseRecord, str]:
        found = await self._listed(lambda: listing.records(query, lambda at: at))
        return found.page(rows.use_record)

    async def add_conflict(self, record: UseRecord) -> None:
        async with self._connection() as db:
            await db.execute(SQL["add_conflict"], *rows.record_values(record))

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        async with self._connection() as db:
            arrays = rows.columns([rows.letter_values(one) for one in letters], 10)
            await db.execute(SQL["add_dead_letters"], *arrays)

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        row = await self._named("dead_letter", letter_id)
        return rows.letter(row) if row else None

    async def dead_letters(self, query: LettersQuery) -> Page[DeadLetter, str]:
        found = await self._listed(lambda: listing.dead_letters(query))
        return found.page(rows.letter)

    async def close_dead_letter(
        self,
        letter_id: str,
        state: LetterState,
        at: datetime,
        audit: AuditEntry,
        receipt: Receipt | None = None,
    ) -> bool:
        async with self._transaction() as db:
            status = await db.execute(SQL["close_dead_letter"], letter_id, state, at)
            if status != "UPDATE 1":
                return False
            await db.execute(SQL["write_audit"], *rows.audit_values(audit))
            await write_receipt(db, receipt)
            return True

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        async with self._connection() as db:
            await db.execute(SQL["note_replay"], letter_id, reason, detail)

    async def open_dead_letters(self) -> int:
        (row,) = await self._all("open_dead_letters")
        return int(row["letters"])

    async def purge(self, limit: int) -> int:
        now = self._clock() if self._clock else None
        async with self._connection() as db:
            await db.execute(SQL["purge_limit_exceeded"], now, limit)
            status = await db.execute(SQL["purge_receipts"], now, limit)
        return int(status.rpartition(" ")[2])

    async def backlog(self) -> Backlog:
        return await self.outbox.backlog()

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
        row = await self._one("takes_writes")
        return bool(row["takes_writes"]) if row else False

    async def _named(self, name: str, row_id: str) -> asyncpg.Record | None:
        """Return the row with the id; None also for a text that is not an id."""
        return await self._one(name, row_id) if is_uuid(row_id) else None

    async def _one(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        return await self._read(lambda db: db.fetchrow(SQL[name], *arguments))

    async def _all(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self._read(lambda db: db.fetch(SQL[name], *arguments))
        return found

    async def _listed(self, steps: Callable[[], Steps[Listed]]) -> Listed:
        """Return the rows of a listing, read at one moment."""

        async def read(db: asyncpg.Connection) -> Listed:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                await db.execute(SQL["pin_plans"])
                return await _run(db, steps())

        return await self._read(read)

    async def _read(
        self,
        read: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        within_s: float = LISTING_S,
    ) -> T:
        """Return the result of ``read``. Raises Unavailable after ``within_s``.

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
            async with self._connection() as db:
                return await read(db)
        except (Unavailable, Contended) as error:
            was_late = loop.time() - started > READ_AGAIN_WITHIN_S
            if was_late or not isinstance(error.__cause__, (*CLOSED, *STALE)):
                raise
        async with self._connection() as db:
            return await read(db)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """Run the block in a transaction on a pooled connection."""
        async with self._connection() as db, rolled_back_on_error(db):
            await db.execute("BEGIN")
            yield db
            await commit(db)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Take a connection from the pool; the driver's errors become those of the ports."""
        self._waiting += 1
        is_waiting = True
        try:
            async with self._pool.acquire(timeout=5) as db:
                self._waiting -= 1
                is_waiting = False
                yield db
            self._outage.answered()
        except asyncpg.LockNotAvailableError as error:
            raise Locked(str(error)) from error
        except CONTENDED as error:
            raise Contended(str(error)) from error
        except CommitUnanswered as error:
            await self._pool.expire_connections()
            raise self._failed(error, applied="unknown") from error
        except LOST as error:
            if not is_waiting and isinstance(error, USELESS):
                await self._pool.expire_connections()
            raise self._failed(error) from error
        except REFUSED as error:
            raise Conflict(str(error)) from error
        finally:
            self._waiting -= is_waiting

    def _failed(self, error: BaseException, *, applied: Applied = "no") -> Unavailable:
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


def _unavailable(error: BaseException, *, applied: Applied = "no") -> Unavailable:
    reason = str(error) or type(error).__name__
    if isinstance(error, asyncpg.InternalClientError):
        reason = "the connection was lost"  # the text is about states of the driver
    return Unavailable(f"database: {reason}", applied=applied)


async def _nothing_to_reset(db: asyncpg.Connection) -> None:
    """Skip the driver's reset, a round trip: every unit of work ends its own transaction."""
