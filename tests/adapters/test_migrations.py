from pathlib import Path

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres import migrate as postgres
from entitlements.adapters.sqlite import connection
from entitlements.adapters.sqlite import migrate as sqlite
from entitlements.app.ports import SchemaMismatch
from entitlements.wiring import migrate


@pytest.mark.parametrize(
    "names",
    [
        [name for _, name, _, _ in postgres.migrations()],
        [migration.name for migration in sqlite.migrations()],
    ],
    ids=["postgres", "sqlite"],
)
def test_migration_numbers_have_no_gaps_and_no_repeats(names: list[str]) -> None:
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


FOREIGN = (
    "CREATE TABLE credit_balances (id integer PRIMARY KEY, amount integer)",
    "CREATE TABLE schema_version (version integer)",
)


@pytest.mark.parametrize("sql", FOREIGN)
async def test_tables_of_another_program_in_postgresql_are_not_touched(
    empty_postgres_url: str, sql: str
) -> None:
    db = await asyncpg.connect(empty_postgres_url)
    try:
        await db.execute(sql)
        with pytest.raises(SchemaMismatch, match="use another database, or a separate schema"):
            await migrate(empty_postgres_url)
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert await db.fetchval(tables) == 1

        await db.execute("CREATE SCHEMA entitlements")
        await migrate(f"{empty_postgres_url}?options=-csearch_path%3Dentitlements")

        assert await db.fetchval(tables) == 1
    finally:
        await db.close()


@pytest.mark.parametrize("sql", FOREIGN)
async def test_tables_of_another_program_in_a_sqlite_file_are_not_touched(
    tmp_path: Path, sql: str
) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute(sql)
    other.close()

    with pytest.raises(SchemaMismatch, match="use another file; nothing was changed"):
        await migrate(f"sqlite:///{path}")

    db = connection.connect(path, read_only=True)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone() == (1,)
    db.close()
