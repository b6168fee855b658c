"""The store on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Self

from entitlements.adapters.postgres import migrate
from entitlements.adapters.postgres.acts import PostgresActs
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.imports import PostgresImports
from entitlements.adapters.postgres.inbox import PostgresInbox
from entitlements.adapters.postgres.keys import PostgresKeys
from entitlements.adapters.postgres.ledger import PostgresLedger
from entitlements.adapters.postgres.lifecycle import PostgresLifecycleCalls
from entitlements.adapters.postgres.limits import PostgresLimits
from entitlements.adapters.postgres.outbox import PostgresOutbox
from entitlements.adapters.postgres.policies import PostgresPolicies
from entitlements.adapters.postgres.reads import PostgresReads
from entitlements.adapters.postgres.transactions import PostgresTransactions
from entitlements.adapters.postgres.webhooks import PostgresWebhooks
from entitlements.app.ports import CHECK_S


class PostgresStore:
    """The ports on one pool of connections."""

    kind: Final = "PostgreSQL"

    def __init__(self, db: Database) -> None:
        self.db = db
        self.ledger = PostgresLedger(db)
        self.transactions = PostgresTransactions(db)
        self.reads = PostgresReads(db)
        self.acts = PostgresActs(db)
        self.keys = PostgresKeys(db)
        self.policies = PostgresPolicies(db)
        self.limits = PostgresLimits(db)
        self.lifecycle = PostgresLifecycleCalls(db)
        self.imports = PostgresImports(db)
        self.inbox = PostgresInbox(db)
        self.outbox = PostgresOutbox(db)
        self.webhooks = PostgresWebhooks(db)
        self.connections = db.connections
        self.ping = db.ping
        self.close = db.close

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
        """Open the store, as `Database.open` does."""
        return cls(
            await Database.open(
                url,
                clock=clock,
                pool_min=pool_min,
                pool_max=pool_max,
                connect_timeout_s=connect_timeout_s,
                check_s=check_s,
                statement_cache=statement_cache,
            )
        )

    async def migrate(self) -> list[str]:
        async with self.db.connection() as db:
            return await migrate.migrate(db)

    async def check_schema(self) -> None:
        """Check the schema. Raises SchemaMismatch."""
        async with self.db.connection() as db:
            await migrate.check(db)
