import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from tests.concurrency.scene import consume, engines, grant, submit, user


@pytest.fixture
async def tiny(postgres_url: str) -> str:
    """A database whose statistics date from when its tables had a row or two."""
    await migrate_at(postgres_url, None)
    async with engines(postgres_url) as [engine]:
        await submit(engine, grant(user("ada"), 10))
        await submit(engine, consume("ada", 1, job="j"))
        await submit(engine, consume("ada", 100))
    db = await asyncpg.connect(postgres_url)
    await db.execute("ANALYZE")
    await db.close()
    return postgres_url
