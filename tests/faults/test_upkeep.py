"""Background maintenance survives errors."""

import asyncio
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app import engine
from entitlements.app.credits.upkeep import Upkeep, wallet_name
from entitlements.app.policy.document import default_policy_text
from entitlements.app.ports import Locked, StoreUnavailable, WriteRejected
from entitlements.core.model import WalletKey
from tests.waiting import PATIENCE_S


class Busy:
    """A purge that fails twice and then needs several rounds."""

    def __init__(self) -> None:
        self.rounds = 0
        self.bites = [engine.PURGED_AT_ONCE, engine.PURGED_AT_ONCE, 1]
        self.is_done = asyncio.Event()

    async def purge(self, limit: int) -> int:
        self.rounds += 1
        if self.rounds == 1:
            raise Locked("another process keeps the database file locked")
        if self.rounds == 2:
            raise WriteRejected("a guard disagreed")
        purged = min(limit, self.bites.pop(0))
        if not self.bites:
            self.is_done.set()
            await asyncio.Event().wait()
        return purged


async def test_maintenance_continues_after_failures_and_purges_until_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "UPKEEP_S", 0.001)
    store, busy = await SqliteStore.open(tmp_path / "books.db"), Busy()
    await store.migrate()
    monkeypatch.setattr(store.acts, "purge", busy.purge)

    async with engine.running(
        store, local=Unlimited(), policy_text=default_policy_text(), policy_source="d"
    ):
        async with asyncio.timeout(PATIENCE_S):
            await busy.is_done.wait()
    await store.close()

    assert busy.rounds == 5


class Due:
    """Wallets with due effects, some of which always fail."""

    def __init__(self, failing: int, healthy: int) -> None:
        self.failing = [WalletKey("user", f"a{n:05}", "credits") for n in range(failing)]
        self.due = [*self.failing, *(WalletKey("user", f"b{n}", "credits") for n in range(healthy))]
        self.now = 0.0
        self.tried: list[WalletKey] = []
        self.error: Exception = ValueError("no such reason")

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        left_out = set(without)
        return [key for key in self.due if key not in left_out][:limit]

    async def apply(self, key: WalletKey) -> None:
        self.tried.append(key)
        if key in self.failing:
            raise self.error
        self.due.remove(key)

    def work(self) -> Upkeep[WalletKey]:
        return Upkeep(self.due_wallets, self.apply, lambda: self.now, wallet_name)


async def test_failing_wallets_do_not_delay_others_and_are_retried_with_backoff() -> None:
    scene = Due(failing=600, healthy=300)
    work = scene.work()

    await work.catch_up()
    assert scene.due == scene.failing
    assert Counter(scene.tried).most_common(1)[0][1] == 1

    tries = []
    for seconds in (4.0, 6.0, 10.0, 16.0):
        scene.now, scene.tried = seconds, []
        await work.catch_up()
        tries.append(len(scene.tried))
    assert tries == [0, 600, 0, 600]


async def test_an_unavailable_database_ends_the_round() -> None:
    scene = Due(failing=600, healthy=0)
    scene.error = StoreUnavailable("database: away")

    with pytest.raises(StoreUnavailable):
        await scene.work().catch_up()

    assert len(scene.tried) < 600
