"""Numbered SQL files, applied in order, one transaction each, under a lock."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import asyncpg

from entitlements.adapters.postgres.connecting import connected
from entitlements.app.ports import SchemaMismatch

VERSIONS = (
    "CREATE TABLE IF NOT EXISTS schema_version"
    " (number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
    " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
)


def migrations() -> list[tuple[int, str, str, str]]:
    """Every migration: number, name, SQL, checksum."""
    found = []
    for file in files("entitlements.adapters.postgres").iterdir():
        number = file.name.partition("_")[0]
        if number.isdigit() and file.name.endswith(".sql"):
            text = file.read_text("utf-8")
            checksum = hashlib.sha256(text.encode()).hexdigest()
            found.append((int(number), file.name, text, checksum))
    return sorted(found)


async def migrate_at(url: str, service_role: str | None) -> list[str]:
    """As `migrate`, on a connection of its own, and `restrict` for the role named.

    Raises Unavailable if the database cannot be reached, or refuses; AddressUnusable.
    """
    async with connected(url) as db:
        applied = await migrate(db)
        if service_role is not None:
            await restrict(db, service_role)
        return applied


async def migrate(db: asyncpg.Connection) -> list[str]:
    """Apply what is missing; answers the names. Of two at once the second finds all done."""
    await _create_versions(db)
    applied: list[str] = []
    for number, name, text, checksum in migrations():
        async with db.transaction():
            await db.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
            known = await db.fetchval(
                "SELECT checksum FROM schema_version WHERE number = $1", number
            )
            if known is None:
                await db.execute(text)
                await db.execute(
                    "INSERT INTO schema_version (number, name, checksum) VALUES ($1, $2, $3)",
                    number,
                    name,
                    checksum,
                )
                applied.append(name)
            elif known != checksum:
                message = f"migration {name} differs from the one that was applied"
                raise SchemaMismatch(message)
    return applied


async def check(db: asyncpg.Connection) -> None:
    """Raise SchemaMismatch unless every migration of this program is applied."""
    if await db.fetchval("SELECT to_regclass('schema_version')") is None:
        message = "the database has no tables yet: run `entitlements migrate`"
        raise SchemaMismatch(message)
    found = await db.fetch("SELECT number, checksum FROM schema_version")
    applied = {row["number"]: row["checksum"] for row in found}
    for number, name, _, checksum in migrations():
        if number not in applied:
            message = f"migration {name} is missing: run `entitlements migrate`"
            raise SchemaMismatch(message)
        if applied[number] != checksum:
            message = f"migration {name} differs from the one that was applied"
            raise SchemaMismatch(message)


async def restrict(db: asyncpg.Connection, role: str) -> None:
    """Let ``role`` run the service, but never change or delete operations, records or audit
    entries.
    """
    quoted = '"' + role.replace('"', '""') + '"'
    await db.execute(f"""
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {quoted};
        REVOKE UPDATE, DELETE, TRUNCATE ON credit_operations, audit_log, consumption_records
            FROM {quoted};
        REVOKE DELETE, TRUNCATE ON holds, dead_letters FROM {quoted};
        REVOKE INSERT, UPDATE, DELETE ON schema_version FROM {quoted};
    """)


async def _create_versions(db: asyncpg.Connection) -> None:
    try:
        await db.execute(VERSIONS)
    except (
        asyncpg.UniqueViolationError,
        asyncpg.DuplicateTableError,
        asyncpg.DuplicateObjectError,
    ):
        await db.execute(VERSIONS)  # two at once: the catalogue refused one of them
