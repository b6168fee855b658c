"""Listings use an index, whatever the tables were like when a connection first planned them.

From the sixth execution on PostgreSQL can keep a generic plan. It must neither scan a whole table
nor sort more than the rows of one instant.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from string import Template
from typing import Any

import asyncpg
import pytest

from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.postgres.statements import SQL
from tests.adapters.listings import ID, LOOKUPS, cases
from tests.adapters.postgres.test_plans import nodes

FILL = Template(Path(__file__).with_name("listings.sql").read_text("utf-8"))


@pytest.fixture(params=["without statistics", "statistics of two rows", "statistics of many rows"])
async def db(request: pytest.FixtureRequest, tiny: str) -> AsyncIterator[asyncpg.Connection]:
    """A database with many rows, with or without statistics about them."""
    db = await asyncpg.connect(tiny)
    try:
        await db.execute("DELETE FROM credit_operations; DELETE FROM credit_balances")
        if request.param == "without statistics":
            await db.execute("DELETE FROM pg_statistic; UPDATE pg_class SET reltuples = -1")
        await db.execute(FILL.substitute(id=ID, rows=2_000))
        if request.param == "statistics of many rows":
            await db.execute("ANALYZE")
        yield db
    finally:
        await db.close()


async def used(db: asyncpg.Connection, steps: Steps[Listed]) -> set[str]:
    """Return the indexes that the seventh execution of each statement reads, and other nodes."""
    found = set()
    try:
        sql, values = next(steps)
        while True:
            await db.execute("BEGIN")
            await db.execute(SQL["pin_plans"])
            rows = await db.fetch(sql, *values)
            for node in await kept_plan(db, sql, len(values)):
                is_read = node["Node Type"].endswith("Scan") and "Relation Name" in node
                if is_read or node["Node Type"] == "Sort":
                    found.add(node.get("Index Name", node["Node Type"]))
            await db.execute("ROLLBACK; DEALLOCATE asked")
            sql, values = steps.send(rows)
    except StopIteration:
        return found


async def kept_plan(db: asyncpg.Connection, sql: str, count: int) -> list[dict[str, Any]]:
    await db.execute(f"PREPARE asked AS {sql}")
    bound = f"({', '.join(['NULL'] * count)})" if count else ""
    for _ in range(6):
        await db.execute(f"EXECUTE asked{bound}")
    answer = await db.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked{bound}")
    return list(nodes(json.loads(answer)[0]["Plan"]))


async def test_listings_use_the_index_of_their_filters(db: asyncpg.Connection) -> None:
    found, meant = {}, {}
    for case in cases(lambda at: at):
        found[case.label] = await used(db, case.steps) - (LOOKUPS - {case.walks})
        meant[case.label] = {case.walks}

    assert found == meant


@pytest.mark.parametrize("name", ["debts", "debts_open"])
async def test_debts_are_read_by_the_index_of_their_order(
    db: asyncpg.Connection, name: str
) -> None:
    await db.execute("BEGIN")
    await db.execute(SQL["pin_plans"])
    plan = await kept_plan(db, SQL[name].rstrip(";"), 3)
    await db.execute("ROLLBACK")

    indexes = {"debts": {"debts_open", "debts_closed"}, "debts_open": {"debts_open"}}
    scans = [node for node in plan if node.get("Relation Name") == "debts"]
    assert {node.get("Index Name") for node in scans} == indexes[name]
