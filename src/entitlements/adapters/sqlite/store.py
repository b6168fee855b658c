"""The store on one SQLite file: one writer thread and several reader threads."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

import apsw

from entitlements.adapters.sqlite import inbox, migrate, records, rows
from entitlements.adapters.sqlite.connection import (
    LOCK_WAIT_S,
    NOT_LET_IN,
    connect,
    create_private,
    require_sqlite,
    restrict,
    unsynced,
    writing,
)
from entitlements.adapters.sqlite.loading import load, open_books, owing, read_books
from entitlements.adapters.sqlite.outbox import SqliteOutbox
from entitlements.adapters.sqlite.readers import Readers
from entitlements.adapters.sqlite.recording import record
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.webhooks import SqliteWebhooks
from entitlements.app.inbox.store import DeadLetter, LettersQuery, LetterState, Reason, RecordsQuery
from entitlements.app.paging import Page
from entitlements.app.ports import (
    Activation,
    ApiKey,
    AuditQuery,
    Backlog,
    Cursor,
    Decide,
    HoldsQuery,
    LimitExceeded,
    NoDatabase,
    OperationsQuery,
    PastUse,
    PolicyVersion,
    Seal,
    Unavailable,
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

HISTORY_THREADS = 3
"""The number of concurrent listings: each is bounded, but several can read a long history."""
T = TypeVar("T")
Clock = Callable[[], datetime]


def system_clock() -> datetime:
    return rows.from_us(time.time_ns() // 1000)


class SqliteStore:
    """Ledger and records on one file, which several processes can share.

    ``decide`` is called in the writer's thread: a batch wakes the event loop once, when done.
    """

    kind: Final = "SQLite"

    def __init__(self, path: str | os.PathLike[str], clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._is_current = False
        self._outage = Outage()
        create_private(path)
        self._write_db = connect(path)
        self._checks = Readers(path, "checks", 1)
        self._history = Readers(path, "history", HISTORY_THREADS)
        self._recount = Readers(path, "recount", 1)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        restrict(self._write_db)
        self.outbox = SqliteOutbox(
            self._list, partial(self._write, durably=False), self._write, clock
        )
        self.webhooks = SqliteWebhooks(self._list, self._write, clock)

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, clock: Clock | None = None) -> SqliteStore:
        """Open or create the file. ``clock`` replaces the system's. Raises Unavailable,
        NoDatabase.
        """
        require_sqlite(apsw.sqlite_lib_version())
        try:
            return await asyncio.to_thread(cls, path, clock or system_clock)
        except Unavailable as error:
            if isinstance(error.__cause__, NOT_LET_IN):
                raise NoDatabase(str(error)) from error
            raise

    async def close(self) -> None:
        """Wait for running work, then close the connections."""
        loop = asyncio.get_running_loop()
        for readers in (self._checks, self._history, self._recount):
            await asyncio.to_thread(readers.close)
        await loop.run_in_executor(self._writer, self._write_db.close)
        self._writer.shutdown()

    async def migrate(self) -> list[str]:
        """Apply the missing migrations; return their names. Raises SchemaMismatch."""

        def run() -> list[str]:
            db = connect(self._path)
            try:
                return migrate.migrate(db, rows.to_us(self._clock()))
            finally:
                db.close()

        return await asyncio.get_running_loop().run_in_executor(self._writer, run)

    async def check_schema(self) -> None:
        """Check the schema. Raises SchemaMismatch."""
        await self._read(migrate.check)

    async def commit(
        self,
        needs: Needs,
        decide: Decide,
        *,
        seal: Seal = unsealed,
        skip_locked: bool = False,
    ) -> None:
        """Commit a batch, with the guarantees of `Ledger.commit`. The file has one lock for all
        wallets, so ``skip_locked`` skips none: it only shortens the wait before Locked is raised.
        """
        wait_s = 0.0 if skip_locked else LOCK_WAIT_S
        if await self._write(lambda db: self._commit(db, needs, decide, seal), wait_s):
            failpoints.hit("committed-unanswered")

    def _commit(self, db: apsw.Connection, needs: Needs, decide: Decide, seal: Seal) -> bool:
        """Load, decide, record; return whether there was anything to write."""
        while True:
            now = self._clock()
            book = load(db, needs, now)
            failpoints.hit("loaded")
            batch = decide(book)
            if not isinstance(batch, Needs):
                break
            needs = batch
        failpoints.hit("decided")
        if batch is None:
            return False
        record(db, batch, now)
        failpoints.hit("before-commit")
        seal()
        return True

    async def books(self, keys: Sequence[WalletKey], *, expiring: bool = False) -> Book:
        return await self._read(lambda db: read_books(db, keys, self._clock(), expiring=expiring))

    async def opened_books(
        self, keys: Sequence[WalletKey], *, order: BurnOrder, depth: Mapping[WalletKey, int]
    ) -> Book:
        return await self._read(lambda db: open_books(db, keys, self._clock(), order, depth))

    async def operation(self, operation_id: str) -> Operation | None:
        return await self._read(lambda db: records.operation(db, operation_id))

    async def operation_ids(self, first: str, last: str) -> list[str]:
        return await self._read(lambda db: records.operation_ids(db, first, last))

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        return await self._list(lambda db: records.operations(db, query))

    async def grant(self, grant_id: str) -> Grant | None:
        return await self._read(lambda db: records.grant(db, grant_id))

    async def hold(self, hold_id: str) -> list[Hold]:
        return sort_parts(await self.holds_named([hold_id]))

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        return await self._read(lambda db: records.holds_named(db, ids))

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        return await self._list(lambda db: records.holds(db, query))

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        return await self._read(lambda db: records.wallet_keys(db, subject_type, subject_id))

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        return await self._read(lambda db: records.orgs_of(db, user_id, limit))

    async def debt(self, operation_id: str) -> Debt | None:
        return await self._read(lambda db: records.debt(db, operation_id))

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        return await self._list(
            lambda db: records.debts(db, open_only=open_only, limit=limit, after=after)
        )

    async def owing(self, keys: Sequence[WalletKey]) -> dict[WalletKey, int]:
        return await self._read(lambda db: {key: owing(db, key) for key in keys})

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        return await self._list(lambda db: records.unpriced_work(db, metrics, limit, without))

    async def unpriced_total(self, limit: int) -> int:
        return await self._list(lambda db: records.unpriced_total(db, limit))

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        return await self._list(lambda db: records.due_wallets(db, self._clock(), limit, without))

    async def api_key(self, secret_sha256: str) -> ApiKey | None:
        return await self._read(lambda db: records.api_key(db, secret_sha256))

    async def api_keys(self) -> list[ApiKey]:
        return await self._list(records.api_keys)

    async def add_api_key(self, key: ApiKey, audit: AuditEntry) -> None:
        await self._write(lambda db: records.add_api_key(db, key, audit))

    async def revoke_api_key(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        return await self._write(lambda db: records.revoke_api_key(db, key_id, at, audit))

    async def touch_api_keys(self, used_at: dict[str, datetime]) -> None:
        await self._write(lambda db: records.touch_api_keys(db, used_at))

    async def receipt(self, client: str, key: str) -> Receipt | None:
        return await self._read(lambda db: records.receipt(db, client, key))

    async def add_receipt(self, receipt: Receipt) -> None:
        await self._write(lambda db: records.add_receipt(db, receipt))

    async def add_audit(self, entry: AuditEntry) -> None:
        await self._write(lambda db: records.add_audit(db, entry))

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        return await self._list(lambda db: records.audit(db, query))

    async def activate_policy(self, version: str, content: str, audit: AuditEntry) -> Activation:
        return await self._write(
            lambda db: records.activate_policy(db, version, content, audit, self._clock())
        )

    async def active_policy(self) -> str | None:
        return await self._read(records.active_policy)

    async def policy(self, version: str) -> str | None:
        return await self._read(lambda db: records.policy(db, version))

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        return await self._recount_read(
            lambda db: records.past_uses(db, metrics, window_s, since, until)
        )

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        now = self._clock()
        return await self._write(
            lambda db: records.announce_limiter(db, name, now, lease_s), durably=False
        )

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        await self._write(lambda db: records.add_limit_exceeded(db, events))

    async def policies(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        return await self._list(lambda db: records.policies(db, prefix, before, limit))

    async def use_records(self, query: RecordsQuery) -> Page[UseRecord, str]:
        return await self._list(lambda db: inbox.use_records(db, query))

    async def add_conflict(self, record: UseRecord) -> None:
        await self._write(lambda db: inbox.add_conflict(db, record))

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        await self._write(lambda db: inbox.add_dead_letters(db, letters))

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        return await self._read(lambda db: inbox.dead_letter(db, letter_id))

    async def dead_letters(self, query: LettersQuery) -> Page[DeadLetter, str]:
        return await self._list(lambda db: inbox.dead_letters(db, query))

    async def close_dead_letter(
        self,
        letter_id: str,
        state: LetterState,
        at: datetime,
        audit: AuditEntry,
        receipt: Receipt | None = None,
    ) -> bool:
        def close(db: apsw.Connection) -> bool:
            closed = inbox.close_dead_letter(db, letter_id, state, rows.to_us(at), audit)
            if closed:
                records.add_receipt(db, receipt)
            return closed

        return await self._write(close)

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        await self._write(lambda db: inbox.note_replay(db, letter_id, reason, detail))

    async def open_dead_letters(self) -> int:
        return await self._list(inbox.open_dead_letters)

    async def purge(self, limit: int) -> int:
        return await self._write(lambda db: records.purge(db, self._clock(), limit))

    async def backlog(self) -> Backlog:
        return await self._list(records.backlog)

    def connections(self) -> None:
        """Return None: each thread has its own connection."""

    async def ping(self) -> None:
        await self._read(lambda db: db.execute(SQL["ping"]).fetchall())

    async def _write(
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

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run a short read by keys, which never waits for a listing."""
        return await self._reading(self._checks, work)

    async def _list(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._reading(self._history, work)

    async def _recount_read(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._reading(self._recount, work)

    async def _reading(self, readers: Readers, work: Callable[[apsw.Connection], T]) -> T:
        def run(db: apsw.Connection) -> T:
            self._require_current(db)
            return work(db)

        return await self._answered(readers.run(run))

    async def _answered(self, running: Awaitable[T]) -> T:
        try:
            answer = await running
        except Unavailable as error:
            self._outage.failed(str(error))
            raise
        self._outage.answered()
        return answer

    def _require_current(self, db: apsw.Connection) -> None:
        """Check the schema once: it does not change by itself while the program runs."""
        if not self._is_current:
            migrate.check(db)
            self._is_current = True
