"""Verifies the ledger's invariants on PostgreSQL by SQL."""

from __future__ import annotations

import asyncpg

from entitlements.adapters.named_sql import load
from entitlements.adapters.postgres.connection import connected
from entitlements.adapters.postgres.migrate import check
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.credits.ahead import TOLERATED
from entitlements.app.verify.findings import (
    AHEAD,
    FINDINGS_MAX,
    FLOOR,
    Finding,
    finding,
    overdraft_max,
)

INVARIANTS = {
    name: sql.replace("json_each", "jsonb_array_elements")
    for name, sql in load("entitlements.adapters", "invariants.sql").items()
}


async def verify(url: str) -> list[Finding]:
    """Return every violation, as of one moment; the service can keep running.

    Raises SchemaMismatch, StoreUnavailable, AddressUnusable.
    """
    async with (
        connected(url) as db,
        db.transaction(isolation="repeatable_read", readonly=True),
    ):
        await check(db)
        await db.execute(SQL["pin_verify_plans"])
        return await _findings(db)


async def _findings(db: asyncpg.Connection) -> list[Finding]:
    documents = await db.fetch(SQL["policy_contents"])
    latest = await db.fetchval(SQL["clock"]) + TOLERATED
    bounds = {FLOOR: overdraft_max(row["content"] for row in documents), AHEAD: latest}
    found: list[Finding] = []
    for name, sql in INVARIANTS.items():
        values = (bounds[name],) if name in bounds else ()
        rows = await db.fetch(f"{sql} LIMIT {FINDINGS_MAX}", *values)
        found += [finding(name, tuple(row)) for row in rows]
    return found
