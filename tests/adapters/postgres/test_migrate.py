"""Migrations on PostgreSQL: each is applied once, and a changed one is refused."""

import asyncio

import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import check, migrate, migrate_at, migrations
from entitlements.app.ports import SchemaMismatch


async def test_four_concurrent_migrators_apply_each_migration_once(empty_postgres_url: str) -> None:
    applied = await asyncio.gather(*(migrate_at(empty_postgres_url, None) for _ in range(4)))

    names = sorted(name for one in applied for name in one.applied)
    assert names == [name for _, name, _, _ in migrations()]


async def test_an_applied_migration_with_another_checksum_is_refused(
    empty_postgres_url: str,
) -> None:
    await migrate_at(empty_postgres_url, None)
    db = await asyncpg.connect(empty_postgres_url)
    try:
        await check(db)
        await db.execute("UPDATE schema_version SET checksum = 'other' WHERE number = 1")
        for refuses in (check, migrate):
            with pytest.raises(SchemaMismatch, match="differs"):
                await refuses(db)
        await db.execute("DELETE FROM schema_version WHERE number = 1")
        with pytest.raises(SchemaMismatch, match="missing"):
            await check(db)
    finally:
        await db.close()
