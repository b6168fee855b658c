"""The ledger on SQLite."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from entitlements.adapters.sqlite.connection import LOCK_WAIT_S
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.loading import load
from entitlements.adapters.sqlite.writing import write_batch
from entitlements.app.ports import Decide, Seal, unsealed
from entitlements.app.process import failpoints
from entitlements.core.ledger.book import Needs


class SqliteLedger:
    """Implements `Ledger`.

    ``decide`` is called in the writer's thread: a batch wakes the event loop once, when done.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

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

    async def _write(self, work: Callable[[apsw.Connection], bool], wait_s: float, /) -> bool:
        return await self._db.write(work, wait_s)

    def _commit(self, db: apsw.Connection, needs: Needs, decide: Decide, seal: Seal) -> bool:
        """Load, decide, write; return whether there was anything to write."""
        while True:
            now = self._db.clock()
            book = load(db, needs, now)
            failpoints.hit("loaded")
            batch = decide(book)
            if not isinstance(batch, Needs):
                break
            needs = batch
        failpoints.hit("decided")
        if batch is None:
            return False
        write_batch(db, batch, now)
        failpoints.hit("before-commit")
        seal()
        return True
