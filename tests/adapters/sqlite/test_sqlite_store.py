"""SQLite only: several processes share a file, and guards keep its history."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from entitlements.adapters import listing
from entitlements.adapters.rights import RIGHTS
from entitlements.adapters.sqlite import connection, migrate
from entitlements.adapters.sqlite.connection import (
    connect,
    create_private,
    require_sqlite,
    restrict,
)
from entitlements.adapters.sqlite.migrate import migrations
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.ports import (
    AuditQuery,
    Locked,
    OperationsQuery,
    SchemaMismatch,
    StoreUnavailable,
)
from entitlements.app.process import failpoints
from tests.logs import captured_logs
from tests.stores.clerk import (
    NOON,
    SCHOOL,
    TEACHER,
    Clerk,
    Clock,
    a_policy,
    an_activation,
    consume,
    give,
)
from tests.waiting import PATIENCE_S

PROCESSES = 3
GRANTS = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.db"


async def a_clerk(path: Path) -> Clerk:
    """Return a clerk with its own store, as in another process."""
    clock = Clock()
    store = await SqliteStore.open(path, clock=clock)
    await store.migrate()
    policy = a_policy()
    await store.policies.activate(policy.version, "costs: {cj: 1}", an_activation())
    return Clerk(store, clock, policy)


@pytest.fixture
async def clerk(path: Path) -> AsyncIterator[Clerk]:
    clerk = await a_clerk(path)
    yield clerk
    await clerk.store.close()


def execute(path: Path, *statements: str) -> None:
    db = apsw.Connection(str(path))
    for statement in statements:
        db.execute(statement)
    db.close()


async def test_another_process_sees_what_was_committed(path: Path, clerk: Clerk) -> None:
    rival = await a_clerk(path)
    await clerk.do(give(10))

    await rival.do(consume(4))

    assert (await clerk.store.reads.books([TEACHER])).wallets[TEACHER].balance == 6
    await rival.store.close()


async def test_another_process_waits_for_a_loaded_wallet(path: Path, clerk: Clerk) -> None:
    rival = await a_clerk(path)
    await clerk.do(give(10))
    could_write: list[bool] = []
    failpoints.on("loaded", lambda: could_write.append(other_can_write(path)))

    try:
        outcomes = await asyncio.gather(clerk.do(consume(10)), rival.do(consume(10)))
    finally:
        failpoints.clear()

    assert could_write == [False, False]
    paid = [outcome for (outcome,) in outcomes if getattr(outcome, "success", False)]
    assert len(paid) == 1
    assert (await clerk.store.reads.books([TEACHER])).wallets[TEACHER].balance == 0
    await rival.store.close()


def other_can_write(path: Path) -> bool:
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN IMMEDIATE")
    except apsw.BusyError:
        return False
    finally:
        db.close()
    return True


def give_one_by_one(path: Path) -> None:
    async def run() -> None:
        clerk = await a_clerk(path)
        for _ in range(GRANTS):
            await clerk.do(give(1, SCHOOL), consume(1, org_id="school"))
            await clerk.do(give(5, SCHOOL))
        await clerk.store.close()

    asyncio.run(run())


def test_processes_can_share_a_file_that_does_not_exist_yet(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=give_one_by_one, args=(path,)) for _ in range(PROCESSES)]

    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    db = apsw.Connection(str(path))
    wallets = db.execute("SELECT balance, version FROM credit_balances WHERE version > 0")
    assert wallets.fetchall() == [(PROCESSES * GRANTS * 5, PROCESSES * GRANTS * 3)]
    db.close()


async def test_a_file_that_stays_locked_raises_locked(path: Path, clerk: Clerk) -> None:
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    command = give(10)

    with pytest.raises(Locked):
        await clerk.store.ledger.commit(clerk.needs(command), lambda _: None, skip_locked=True)
    balance = (await clerk.store.reads.books([TEACHER])).wallets  # reads do not wait

    holder.execute("ROLLBACK")
    holder.close()
    await clerk.do(command)
    assert balance == {}
    assert (await clerk.store.reads.books([TEACHER])).wallets[TEACHER].balance == 10


async def test_a_batch_outwaits_a_short_lock(path: Path, clerk: Clerk) -> None:
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    slices = 2 * connection.BUSY_SLICE_MS / 1000

    waiting = asyncio.create_task(clerk.do(give(10)))
    done, _ = await asyncio.wait([waiting], timeout=slices)
    holder.execute("ROLLBACK")
    holder.close()
    await waiting

    assert not done
    assert (await clerk.store.reads.books([TEACHER])).wallets[TEACHER].balance == 10


@pytest.mark.parametrize("failpoint", ["loaded", "decided", "mid-record", "before-commit"])
async def test_a_batch_that_fails_leaves_no_trace(clerk: Clerk, failpoint: str) -> None:
    await clerk.do(give(10))
    spent = consume(4)

    def break_off() -> None:
        raise KeyError(failpoint)

    failpoints.on(failpoint, break_off)
    try:
        with pytest.raises(KeyError):
            await clerk.do(spent)
    finally:
        failpoints.clear()

    assert await clerk.store.reads.operation(spent.id) is None
    await clerk.do(spent)
    assert (await clerk.store.reads.books([TEACHER])).wallets[TEACHER].balance == 6


SQLITE_RIGHTS = {table: rights for table, rights in RIGHTS.items() if not rights.lock}


@pytest.mark.parametrize("table", SQLITE_RIGHTS)
async def test_every_kind_of_statement_is_refused_but_for_those_that_are_listed(
    path: Path, clerk: Clerk, table: str
) -> None:
    rights = RIGHTS[table]
    db = connect(path)
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    restrict(db, others=lambda: False)
    changing = {one: f"UPDATE {table} SET {one} = {one} WHERE false" for one in columns}
    inserting = f"INSERT INTO {table} SELECT * FROM {table} WHERE false"
    deleting = f"DELETE FROM {table} WHERE false"
    tried = {
        *changing.values(),
        inserting,
        deleting,
        f"SELECT 1 FROM {table} WHERE false",
        f"REPLACE INTO {table} SELECT * FROM {table} WHERE false",
        f"CREATE INDEX another ON {table} ({columns[0]})",
        f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT 1; END",
        f"ALTER TABLE {table} ADD COLUMN added",
        f"ALTER TABLE {table} RENAME TO another",
        f"DROP TABLE {table}",
    }

    passed = {statement for statement in tried if is_allowed(db, statement)}

    db.close()
    listed = {changing[one] for one in rights.update} | {f"SELECT 1 FROM {table} WHERE false"}
    listed |= {inserting, inserting.replace("INSERT", "REPLACE")} if rights.insert else set()
    listed |= {deleting} if rights.delete else set()
    assert passed == listed


def is_allowed(db: apsw.Connection, statement: str) -> bool:
    """Return whether the connection has the right, and roll the statement back."""
    db.execute("SAVEPOINT tried")
    try:
        db.execute(statement)
    except apsw.AuthError:
        return False
    else:
        return True
    finally:
        db.execute("ROLLBACK TO tried; RELEASE tried")


async def test_every_table_has_its_rights_listed(path: Path, clerk: Clerk) -> None:
    db = connect(path, read_only=True)
    found = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    db.close()

    assert found == set(SQLITE_RIGHTS)


async def test_the_service_cannot_delete_history(clerk: Clerk) -> None:
    await clerk.do(give(10))
    store = clerk.store
    assert isinstance(store, SqliteStore)

    with pytest.raises(apsw.AuthError):
        await store.db.write(lambda db: db.execute("DELETE FROM credit_operations"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_balances SET held = -1",
        "UPDATE credit_balances SET overdraft = -1",
        "UPDATE credit_balances SET version = -1",
        "UPDATE credit_balances SET balance = -1",
        "UPDATE credit_balances SET balance = 1000000000000001",
        "UPDATE grants SET remaining = -1, live = 0",
        "UPDATE grants SET remaining = quantity + 1",
        "UPDATE grants SET held = remaining + 1",
        "UPDATE grants SET held = -1",
        "UPDATE grants SET priority = 101",
        "UPDATE grants SET live = 0",
        "UPDATE grants SET expires_at = granted_at",
        "UPDATE credit_operations SET amount = -1, delta = 0",
        "UPDATE credit_operations SET operation_status = 'done'",
        "UPDATE credit_operations SET delta = delta + 1",
        "UPDATE credit_operations SET owed = 1",
        "UPDATE credit_operations SET id = 'same'",
        "UPDATE credit_operations SET amount = 'many'",
        "UPDATE policies SET active = 2",
    ],
)
async def test_the_schema_rejects_invalid_values(path: Path, clerk: Clerk, statement: str) -> None:
    await clerk.do(give(10), give(5))

    with pytest.raises(apsw.ConstraintError):
        execute(path, statement)


async def test_a_file_without_schema_is_refused(path: Path) -> None:
    store = await SqliteStore.open(path)

    with pytest.raises(SchemaMismatch, match="run `entitlements migrate`"):
        await store.ping()

    assert await store.migrate() == [migration.name for migration in migrations()]
    assert await store.migrate() == []
    await store.ping()
    await store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "INSERT INTO schema_version VALUES (9999, '', '', 0)",
            "use a newer program",
        ),
        ("UPDATE schema_version SET checksum = 'x'", "another checksum"),
    ],
)
async def test_a_foreign_schema_is_refused(
    path: Path, clerk: Clerk, statement: str, message: str
) -> None:
    execute(path, statement)
    store = await SqliteStore.open(path)

    with pytest.raises(SchemaMismatch, match=message):
        await store.reads.books([TEACHER])
    with pytest.raises(SchemaMismatch, match=message):
        await store.migrate()

    await store.close()


async def test_a_migration_that_fails_is_undone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migrate.Migration(9999, "9999_broken.sql", "CREATE TABLE half (a); SELECT nonsense;")
    monkeypatch.setattr(migrate, "migrations", lambda: [*migrations(), broken])
    store = await SqliteStore.open(path)

    with pytest.raises(apsw.SQLError):
        await store.migrate()

    await store.close()
    db = apsw.Connection(str(path))
    applied = [number for (number,) in db.execute("SELECT number FROM schema_version ORDER BY 1")]
    assert applied == [migration.version for migration in migrations()]
    assert not db.table_exists("main", "half")
    db.close()


def test_a_file_that_is_not_a_database_is_unavailable(path: Path) -> None:
    path.write_text("not a database\n" * 100)

    with pytest.raises(StoreUnavailable):
        asyncio.run(SqliteStore.open(path))


async def test_a_folder_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(tmp_path / "missing" / "books.db")


async def test_a_confirmed_write_survives_a_kill(path: Path, tmp_path: Path, clerk: Clerk) -> None:
    await clerk.do(give(10))

    # A copy of the file and its log equals what a killed process leaves.
    for name in ("books.db", "books.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    left = await SqliteStore.open(tmp_path / "copy-books.db")

    assert (await left.reads.books([TEACHER])).wallets[TEACHER].balance == 10
    await left.close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2"])
def test_a_sqlite_library_with_the_wal_bug_is_refused(version: str) -> None:
    with pytest.raises(RuntimeError, match="too old"):
        require_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0"])
def test_a_sqlite_library_without_the_wal_bug_is_accepted(version: str) -> None:
    require_sqlite(version)


async def test_the_default_clock_is_the_systems(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.migrate()

    first = (await store.reads.books([])).now
    second = (await store.reads.books([])).now

    assert first <= second
    assert second.tzinfo is not None
    await store.close()


async def test_checks_and_listings_do_not_wait_for_each_other(
    clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recount and the audit listings block until ``let_go`` is set."""
    let_go = threading.Event()
    store = clerk.store
    assert isinstance(store, SqliteStore)
    recount = store.db.recount

    def slow(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *asked: let_go.wait(PATIENCE_S) and read(*asked)

    monkeypatch.setattr(store.db, "recount", lambda work: recount(slow(work)))
    monkeypatch.setattr(listing, "audit", slow(listing.audit))
    held = [
        asyncio.create_task(store.limits.past_uses(["cj"], window_s=60, since=NOON)),
        asyncio.create_task(store.acts.audit(AuditQuery())),
        asyncio.create_task(store.acts.audit(AuditQuery())),
    ]
    try:
        async with asyncio.timeout(PATIENCE_S / 2):
            assert (await store.reads.books([TEACHER])).wallets == {}
            assert (await store.reads.operations(OperationsQuery())).rows == []
            assert await store.policies.active() is not None
        assert not any(task.done() for task in held)
    finally:
        let_go.set()
        await asyncio.gather(*held)


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_a_new_file_and_its_wal_files_are_private_to_the_owner(
    path: Path, clerk: Clerk
) -> None:
    await clerk.do(give(10))

    assert modes(path.parent) == {"books.db": 0o600, "books.db-shm": 0o600, "books.db-wal": 0o600}


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_file_open_to_others_is_logged_once_and_keeps_its_mode(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)

    with captured_logs() as lines:
        for _ in range(2):
            create_private(path)

    assert modes(path.parent) == {"books.db": mode}
    assert lines == [
        {
            "event": "database.not_private",
            "file": str(path),
            "mode": f"{mode:04o}",
            "wanted": "0600",
        }
    ]


async def test_a_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"^cannot create .*missing/books.db: No such file"):
        await SqliteStore.open(tmp_path / "missing" / "books.db")
