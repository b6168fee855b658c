"""The ledger on PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import asyncpg

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.connection import commit, rolled_back_on_error
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.loading import MissingWallets, load, lock
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_batch
from entitlements.app.ports import Decide, Seal, unsealed
from entitlements.app.process import failpoints
from entitlements.core.ledger.book import Needs
from entitlements.core.model import WalletKey


class PostgresLedger:
    """Implements `Ledger`."""

    _rollback = "ROLLBACK"

    def __init__(self, db: Database) -> None:
        self._db = db

    async def commit(
        self, needs: Needs, decide: Decide, *, seal: Seal = unsealed, skip_locked: bool = False
    ) -> None:
        """Commit a batch, with the guarantees of `Ledger.commit`."""
        if skip_locked:
            await self._create_wallets(list(needs.wallets))
        while True:
            try:
                async with self._connected() as db:
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
        async with rolled_back_on_error(db, self._rollback):
            await self._begin(db)
            keys = sorted(needs.wallets)
            wallets, clock = await lock(db, keys, skip_locked=skip_locked)
            if len(wallets) < len(keys) and not skip_locked:
                held = {wallet.key for wallet in wallets}
                raise MissingWallets([key for key in keys if key not in held])
            now = self._db.now() or clock or await db.fetchval(SQL["clock"])
            while True:
                book = await load(db, needs, wallets, now)
                failpoints.hit("loaded")
                decided = decide(book)
                if not isinstance(decided, Needs):
                    break
                if not decided.wallets <= needs.wallets:
                    await db.execute(self._rollback)
                    return decided
                needs = decided
            failpoints.hit("decided")
            if decided is None:
                await db.execute(self._rollback)
                return None
            await write_batch(db, decided)
            failpoints.hit("before-commit")
            seal()
            await self._commit(db)
        failpoints.hit("committed-unanswered")
        return None

    def _connected(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        return self._db.connection()

    async def _begin(self, db: asyncpg.Connection) -> None:
        await db.execute(SQL["begin"])

    async def _commit(self, db: asyncpg.Connection) -> None:
        await commit(db)

    async def _create_wallets(self, keys: list[WalletKey]) -> None:
        """Create empty wallets in a separate transaction; they are harmless, and locked later."""
        async with self._db.connection() as db:
            await db.execute(SQL["create_wallets"], *rows.columns(sorted(keys), 3))
