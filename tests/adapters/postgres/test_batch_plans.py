"""A batch's statements keep the plans of their first use: these may not depend on statistics.

PostgreSQL thinks nothing of reading a table whole that had one row when it last looked; and a plan
made then stays until it looks again, however much has come in meanwhile.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.adapters.postgres.statements import SQL
from tests.concurrency.scene import consume, engines, grant, submit, user

BATCH = [
    "lock_wallets",
    "lock_wallets_skipping",
    *(name for name in SQL if name.startswith(("load", "write_", "due_after"))),
    "close_debts",
]
PARAMETERS = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'asked'"
SMALL = {"policies", "audit_log"}


@pytest.fixture
async def tiny(postgres_url: str) -> str:
    """Tables that had a row or two when they were last looked at."""
    await migrate_at(postgres_url, None)
    async with engines(postgres_url) as [engine]:
        await submit(engine, grant(user("ada"), 10))
        await submit(engine, consume("ada", 1, job="j"))
        await submit(engine, consume("ada", 100))
    db = await asyncpg.connect(postgres_url)
    await db.execute("ANALYZE")
    await db.close()
    return postgres_url


@pytest.mark.parametrize("name", BATCH)
async def test_no_plan_of_a_batch_reads_a_table_whole(tiny: str, name: str) -> None:
    db = await asyncpg.connect(tiny)
    try:
        await db.execute(SQL["begin"])
        await db.execute(f"PREPARE asked AS {SQL[name]}")
        (number,) = await db.fetchrow(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'asked'"
        )
        values = ", ".join(["NULL"] * number)
        plan = json.loads(await db.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked({values})"))
    finally:
        await db.close()

    whole = [
        node
        for node in nodes(plan[0]["Plan"])
        if node.get("Relation Name", "policies") not in SMALL
        and node["Node Type"].endswith("Scan")
        and not {"Index Cond", "TID Cond"} & node.keys()
    ]
    assert whole == []


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)
