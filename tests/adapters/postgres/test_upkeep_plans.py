"""Maintenance statements, which run every few seconds, must not scan whole tables."""

import asyncpg
import pytest

from entitlements.adapters.postgres import migrate
from entitlements.adapters.postgres.statements import SQL


@pytest.mark.parametrize(
    ("statement", "values", "condition"),
    [
        ("purge_receipts", (None, 10), "Index Cond: (expires_at <="),
        ("purge_limit_exceeded", (None, 10), "Index Cond: (created_at <"),
        ("purge_limit_near", (None, 10), "Index Cond: (again_at <"),
        ("due_wallets", (None, 10, [], [], []), "Index Cond: (next_due_at"),
    ],
)
async def test_maintenance_finds_its_rows_by_index(
    postgres_url: str, statement: str, values: tuple[int | None, ...], condition: str
) -> None:
    db = await asyncpg.connect(postgres_url)
    try:
        await migrate.migrate(db)
        # The tables are empty, so force the planner to use an index if it can.
        await db.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = await db.fetch(f"EXPLAIN {SQL[statement]}", *values)
    finally:
        await db.close()

    assert any(condition in row[0] for row in plan), plan
