"""What runs beside the requests outlives what goes wrong."""

import asyncio
from pathlib import Path

import pytest

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.sqlite.store import SqliteStore, system_clock
from entitlements.app import engine
from entitlements.app.policy_document import default_policy_text
from entitlements.app.ports import Conflict, Locked
from entitlements.core.model import WalletKey
from tests.waiting import PATIENCE_S


class Busy(SqliteStore):
    """Fails in two rounds, then has more to purge than one bite takes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, system_clock)
        self.rounds = 0
        self.bites = [engine.PURGED_AT_ONCE, engine.PURGED_AT_ONCE, 1]
        self.is_done = asyncio.Event()

    async def due_wallets(self, limit: int) -> list[WalletKey]:
        self.rounds += 1
        if self.rounds == 1:
            raise Locked("another process keeps the database file locked")
        if self.rounds == 2:
            raise Conflict("a guard disagreed")
        return await super().due_wallets(limit)

    async def purge(self, limit: int) -> int:
        purged = min(limit, self.bites.pop(0))
        if not self.bites:
            self.is_done.set()
            await asyncio.Event().wait()
        return purged


async def test_upkeep_goes_on_after_a_failure_and_purges_until_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "UPKEEP_S", 0.001)
    store = Busy(tmp_path / "books.db")
    await store.migrate()

    async with engine.running(
        store, local=Unlimited(), policy_text=default_policy_text(), policy_source="d"
    ):
        async with asyncio.timeout(PATIENCE_S):
            await store.is_done.wait()
    await store.close()

    assert store.rounds == 3
