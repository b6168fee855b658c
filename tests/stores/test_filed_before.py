"""Unpriced work that the previous version recorded is a debt after the migration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from entitlements.adapters.postgres import migrate as postgres
from entitlements.adapters.postgres.connection import connected
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite import migrate as sqlite
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.engine import Store
from entitlements.core.model import WalletKey
from tests.stores.clerk import Clock

UNPRICED_WORK: Final = "unpriced_work"
"""The migration's name without its number."""
FAILED: Final = """
INSERT INTO credit_operations (subject_type, subject_id, credit_type, seq, id, kind, user_id,
    metric, quantity, amount, delta, balance_after, owed, draws, consumed_from, correlation_id,
    operation_status, reason, policy_version, actor, client, created_at, effective_at)
VALUES ('user', 'ada', 'credits', {seq}, '{id}', 'consume', 'ada', 'odd', 4, 0, 0, 0, {owed}, '[]',
    'none', 'c', 'failed', '{reason}', '1', 'a', 'c', {at}, {at})
"""
DEBT: Final = """
INSERT INTO debts (subject_type, subject_id, credit_type, operation_id, owed, metric, created_at)
VALUES ('user', 'ada', 'credits', '{id}', 5, 'odd', {at})
"""
UNPRICED: Final = "0198c1f2-8a52-7c1e-9d5e-000000000001"
OWING: Final = "0198c1f2-8a52-7c1e-9d5e-000000000002"


def rows(at: str) -> list[str]:
    return [
        FAILED.format(seq=1, id=UNPRICED, owed=0, reason="policy_denied", at=at),
        FAILED.format(seq=2, id=OWING, owed=5, reason="insufficient_credits", at=at),
        DEBT.format(id=OWING, at=at),
    ]


def before(found: list[Any], number: Callable[[Any], int], name: Callable[[Any], str]) -> list[Any]:
    """Return the migrations before the one that added unpriced work."""
    (ours,) = (number(one) for one in found if UNPRICED_WORK in name(one))
    return [one for one in found if number(one) < ours]


async def filed_in_sqlite(path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    older = before(sqlite.migrations(), lambda one: one.version, lambda one: one.name)
    store = await SqliteStore.open(path, clock=Clock())
    with monkeypatch.context() as past:
        past.setattr(sqlite, "migrations", lambda: older)
        await store.migrate()
    db = apsw.Connection(str(path))
    for row in rows("1000000"):
        db.execute(row)
    db.close()
    await store.migrate()
    return store


async def filed_in_postgres(url: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    older = before(postgres.migrations(), lambda one: one[0], lambda one: one[1])
    with monkeypatch.context() as past:
        past.setattr(postgres, "migrations", lambda: older)
        await postgres.migrate_at(url, None)
    async with connected(url) as db:
        for row in rows("now()"):
            await db.execute(row)
    store = await PostgresStore.open(url)
    await store.migrate()
    return store


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_unpriced_work_of_the_previous_version_is_listed_as_a_debt_without_a_price(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "sqlite":
        store = await filed_in_sqlite(tmp_path / "books.db", monkeypatch)
    else:
        store = await filed_in_postgres(request.getfixturevalue("empty_postgres_url"), monkeypatch)

    listed = (await store.reads.debts(open_only=True, limit=9)).rows
    priceable = await store.reads.unpriced_work(["odd"], 9)
    await store.close()

    assert [(debt.operation_id, debt.owed) for debt in listed] == [(UNPRICED, None), (OWING, 5)]
    assert {debt.wallet for debt in listed} == {WalletKey("user", "ada", "credits")}
    assert priceable == [UNPRICED]
