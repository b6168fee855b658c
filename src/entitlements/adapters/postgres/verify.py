"""The books on PostgreSQL, proved by SQL."""

from __future__ import annotations

import asyncpg

from entitlements.adapters.named_sql import load
from entitlements.app.verify import FINDINGS_MAX, Finding, finding, overdraft_max

INVARIANTS = {
    name: sql.replace("json_each", "jsonb_array_elements")
    for name, sql in load("entitlements.adapters", "invariants.sql").items()
}


async def verify(url: str) -> list[Finding]:
    """Every violation, as of one moment; the service may go on meanwhile.

    Raises OSError or asyncpg's errors where the database cannot be read.
    """
    db = await asyncpg.connect(url, timeout=10)
    try:
        async with db.transaction(isolation="repeatable_read", readonly=True):
            documents = await db.fetch("SELECT content FROM policies")
            floor = overdraft_max(row["content"] for row in documents)
            found: list[Finding] = []
            for name, sql in INVARIANTS.items():
                values = (floor,) if "$1" in sql else ()
                rows = await db.fetch(f"{sql} LIMIT {FINDINGS_MAX}", *values)
                found += [finding(name, tuple(row)) for row in rows]
            return found
    finally:
        await db.close()
