"""The store on one SQLite file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, Self

import apsw

from entitlements.adapters.sqlite import migrate, rows
from entitlements.adapters.sqlite.acts import SqliteActs
from entitlements.adapters.sqlite.connection import NOT_LET_IN, require_sqlite
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.imports import SqliteImports
from entitlements.adapters.sqlite.inbox import SqliteInbox
from entitlements.adapters.sqlite.keys import SqliteKeys
from entitlements.adapters.sqlite.ledger import SqliteLedger
from entitlements.adapters.sqlite.lifecycle import SqliteLifecycleCalls
from entitlements.adapters.sqlite.limits import SqliteLimits
from entitlements.adapters.sqlite.outbox import SqliteOutbox
from entitlements.adapters.sqlite.policies import SqlitePolicies
from entitlements.adapters.sqlite.reads import SqliteReads
from entitlements.adapters.sqlite.transactions import SqliteTransactions
from entitlements.adapters.sqlite.webhooks import SqliteWebhooks
from entitlements.app.ports import NoDatabase, StoreUnavailable


def system_clock() -> datetime:
    return rows.from_us(time.time_ns() // 1000)


class SqliteStore:
    """The ports on one file, which several processes can share."""

    kind: Final = "SQLite"

    def __init__(self, db: Database) -> None:
        self.db = db
        self.ledger = SqliteLedger(db)
        self.transactions = SqliteTransactions(db)
        self.reads = SqliteReads(db)
        self.acts = SqliteActs(db)
        self.keys = SqliteKeys(db)
        self.policies = SqlitePolicies(db)
        self.limits = SqliteLimits(db)
        self.lifecycle = SqliteLifecycleCalls(db)
        self.imports = SqliteImports(db)
        self.inbox = SqliteInbox(db)
        self.outbox = SqliteOutbox(db)
        self.webhooks = SqliteWebhooks(db)
        self.connections = db.connections
        self.ping = db.ping
        self.close = db.close
        self.migrate = db.migrate

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, clock: Callable[[], datetime] | None = None
    ) -> Self:
        """Open or create the file. ``clock`` replaces the system's. Raises StoreUnavailable,
        NoDatabase.
        """
        require_sqlite(apsw.sqlite_lib_version())
        try:
            return cls(await asyncio.to_thread(Database, path, clock or system_clock))
        except StoreUnavailable as error:
            if isinstance(error.__cause__, NOT_LET_IN):
                raise NoDatabase(str(error)) from error
            raise

    async def check_schema(self) -> None:
        """Check the schema. Raises SchemaMismatch."""
        await self.db.read(migrate.check)
