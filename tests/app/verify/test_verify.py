"""Every invariant holds after a real history, and a violation is reported by name."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.postgres.verify import INVARIANTS
from entitlements.adapters.sqlite.store import SqliteStore
from tests.app.verify.history import Clock, make
from tests.books import assert_books_balance, findings
from tests.servers import Postgres

SCHOOL = "subject_type = 'org' AND subject_id = 'school'"
PLANTED = {
    name: sql.strip()
    for part in Path(__file__).with_name("violations.sql").read_text().split("-- name: ")[1:]
    for name, _, sql in [part.partition("\n")]
}

UNGUARDED = """
DO $$ DECLARE guard record; BEGIN
    FOR guard IN SELECT conrelid::regclass AS owner, conname FROM pg_constraint WHERE contype = 'c'
        AND connamespace = 'public'::regnamespace
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', guard.owner, guard.conname);
    END LOOP;
END $$
"""
"""Constraints prevent most violations. `verify` must find them where there are no constraints."""

Plant = Callable[[str], Awaitable[None]]


@pytest.fixture(scope="module")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("books") / "template.db"

    async def fill() -> None:
        clock = Clock()
        store = await SqliteStore.open(path, clock=clock)
        await store.migrate()
        await make(store, clock)
        await store.close()

    asyncio.run(fill())
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> str:
    async def fill(url: str) -> None:
        clock = Clock()
        store = await PostgresStore.open(url, clock=clock)
        await store.migrate()
        await make(store, clock)
        await store.close()
        db = await asyncpg.connect(url)
        await db.execute(UNGUARDED)
        await db.close()

    return postgres_server.template("books", lambda url: asyncio.run(fill(url)))


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest) -> tuple[str, Plant]:
    """Return the URL of a database with a history, and a function that runs SQL unguarded.

    The one of PostgreSQL has no constraints from the start, so that its copies can be restored.
    """
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url, lambda sql: _plant_in_postgres(url, sql)
    path = request.getfixturevalue("tmp_path") / "books.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}", lambda sql: _plant_in_sqlite(path, sql)


async def _plant_in_sqlite(path: Path, sql: str) -> None:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA ignore_check_constraints = ON")
    db.execute(sql)
    changed = db.changes()
    db.close()
    assert changed > 0, sql


async def _plant_in_postgres(url: str, sql: str) -> None:
    db = await asyncpg.connect(url)
    try:
        status = await db.execute(sql)
    finally:
        await db.close()
    assert int(status.rpartition(" ")[2]) > 0, sql


async def test_a_real_history_balances(books: tuple[str, Plant]) -> None:
    url, _ = books

    await assert_books_balance(url)


@pytest.mark.parametrize("invariant", PLANTED)
async def test_a_violation_is_found_by_name(books: tuple[str, Plant], invariant: str) -> None:
    url, plant = books
    await plant(PLANTED[invariant])

    found = await findings(url, of_clock=True)

    assert invariant in {finding.invariant for finding in found}
    assert all(finding.expected != finding.found for finding in found)


async def test_a_finding_has_the_difference_and_the_wallet(books: tuple[str, Plant]) -> None:
    url, plant = books
    await plant(f"UPDATE credit_operations SET balance_after = 777 WHERE {SCHOOL} AND delta = -15")

    found = await findings(url)

    mine = [f for f in found if f.invariant == "balance_after_chains" and f.found == "777"]
    assert [(f.wallet, f.expected) for f in mine] == [("org:school/credits", "5")]
    assert mine[0].about


def test_every_invariant_has_a_planted_violation() -> None:
    assert set(PLANTED) == set(INVARIANTS)
