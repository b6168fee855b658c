"""Verifies the ledger's invariants in a SQLite file by SQL."""

from __future__ import annotations

import asyncio
import os

from entitlements.adapters.named_sql import load
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.connection import connect, reading
from entitlements.adapters.sqlite.migrate import check
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.credits.ahead import TOLERATED
from entitlements.app.process.clock import utc_now
from entitlements.app.verify.findings import (
    AHEAD,
    FINDINGS_MAX,
    FLOOR,
    Finding,
    finding,
    overdraft_max,
)

INVARIANTS = load("entitlements.adapters", "invariants.sql")


async def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Return every violation, as of one moment; the service can keep running. Raises
    SchemaMismatch, StoreUnavailable.
    """
    return await asyncio.to_thread(_verify, path)


def _verify(path: str | os.PathLike[str]) -> list[Finding]:
    db = connect(path, read_only=True)
    try:
        with reading(db):
            check(db)
            documents = db.execute(SQL["policy_contents"]).fetchall()
            floor = overdraft_max(str(content) for (content,) in documents)
            bounds = {FLOOR: floor, AHEAD: rows.to_us(utc_now() + TOLERATED)}
            found: list[Finding] = []
            for name, sql in INVARIANTS.items():
                values = {"1": bounds[name]} if name in bounds else {}
                violations = db.execute(f"{sql} LIMIT {FINDINGS_MAX}", values).fetchall()
                found += [finding(name, row) for row in violations]
            return found
    finally:
        db.close()
