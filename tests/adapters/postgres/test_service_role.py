"""The restricted role of the service has the rights it needs and no others."""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlencode, urlsplit, urlunsplit

import asyncpg
import pytest

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres import migrate
from entitlements.adapters.postgres.migrate import migrate_at, migrations
from entitlements.adapters.postgres.service_role import restrict
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.rights import RIGHTS
from entitlements.app.engine import running
from entitlements.app.policy.document import default_policy_text
from entitlements.app.ports import RoleUnusable
from entitlements.core.commands import Adjust, IngestUsage, Origin
from entitlements.core.model import Subject, UsageReport, WalletKey
from entitlements.core.outcomes import Adjusted, UsageIngested
from entitlements.core.windows import Cause, LimitQuery, Use, WarnLevel, WindowKey
from tests.servers import Postgres
from tests.stores.clerk import a_near_event

POLICY_LOCK = 13
_numbers = itertools.count(1)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    db = await asyncpg.connect(url)
    try:
        yield db
    finally:
        await db.close()


def reached_as(role: str, url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}"))


@pytest.fixture
async def role(postgres_server: Postgres) -> str:
    """A role without rights."""
    name = f"app_{os.getpid()}_{next(_numbers)}"
    async with connected(postgres_server.admin_url) as db:
        await db.execute(f"CREATE ROLE {name} LOGIN")
    return name


@pytest.fixture
async def role_url(postgres_url: str, role: str) -> str:
    """The URL of a migrated database, for the service's role."""
    await migrate_at(postgres_url, role)
    return reached_as(role, postgres_url)


async def work(url: str) -> None:
    """Do everything that a service does."""
    store = await PostgresStore.open(url)
    origin = Origin(
        actor="a", client="c", correlation_id="x", key="k", fingerprint="f", lifetime_s=60
    )
    try:
        await store.check_schema()
        async with running(
            store, local=Unlimited(), policy_text=default_policy_text(), policy_source="d"
        ) as engine:
            command = Adjust(
                id=engine.new_id(),
                origin=origin,
                wallet=WalletKey("user", "ada", "credits"),
                amount=5,
                reason="gift",
            )
            outcome = await engine.committer.submit(command)
            told = UsageReport(
                user_id="ada",
                event_id="e",
                event_type="t",
                source_service="s",
                metric="cj_comparison",
                units=2,
            )
            report = IngestUsage(id=engine.new_id(), origin=origin, report=told)
            charged = await engine.committer.submit(report)
            assert isinstance(charged, UsageIngested)
            assert charged.credits == 2
            window = WindowKey(Subject("user", "ada"), "cj_comparison", 60)
            cause = Cause("x", "ada", None, None)
            engine.limit_events.note(LimitQuery(window, 10, 11), cause)
            engine.limit_events.note_near(Use(window, 1, WarnLevel(10, 8, cause)), 8)
        waiting = await store.outbox.limit_events(10)
        await store.outbox.mark_limit_events(waiting)
        await store.limits.add_limit_near([a_near_event()])
        await store.limits.purge(10)
        await store.acts.purge(10)
        held = (await store.outbox.heartbeat("a", sink="kafka", lease_s=30)).epochs
        events = await store.outbox.unpublished(held, each=10, at_most=10)
        await store.outbox.mark_published("a", held, events, [], keep=True)
        assert await store.outbox.clean("a", held, retention_s=-60, limit=10) == len(events) == 4
        await store.outbox.release_leases("a")
    finally:
        await store.close()

    assert isinstance(outcome, Adjusted)
    assert outcome.new_balance == 5
    assert engine.limit_events.dropped == 0


async def test_the_service_works_under_its_restricted_role(role_url: str) -> None:
    await work(role_url)


async def test_the_role_gets_its_rights_only_in_the_schema_with_the_tables(
    empty_postgres_url: str, role: str
) -> None:
    async with connected(empty_postgres_url) as db:
        await db.execute('CREATE SCHEMA "the books"; CREATE TABLE public.jobs (another int)')
    url = f"{empty_postgres_url}?{urlencode({'search_path': chr(34) + 'the books' + chr(34)})}"

    await migrate_at(url, role)

    await work(reached_as(role, url))
    async with connected(reached_as(role, empty_postgres_url)) as db:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute("SELECT FROM public.jobs")


async def columns(db: asyncpg.Connection, table: str) -> list[str]:
    found = await db.fetch(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )
    return [row["attname"] for row in found]


async def test_every_table_has_its_rights_listed(role_url: str) -> None:
    async with connected(role_url) as db:
        found = await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for table, rights in RIGHTS.items():
            assert set(rights.update) <= set(await columns(db, table)), table

    assert {row["tablename"] for row in found} == set(RIGHTS)


@pytest.mark.parametrize("table", RIGHTS)
async def test_every_kind_of_statement_is_refused_but_for_those_that_are_listed(
    role_url: str, table: str
) -> None:
    rights = RIGHTS[table]
    async with connected(role_url) as db:
        named = await columns(db, table)
        changing = {f"UPDATE {table} SET {one} = {one} WHERE false" for one in named}
        tried = changing | {
            f"SELECT FROM {table}",
            f"INSERT INTO {table} SELECT * FROM {table} WHERE false",
            f"DELETE FROM {table} WHERE false",
            f"TRUNCATE {table}",
            f"LOCK TABLE {table} IN ROW SHARE MODE",
            f"LOCK TABLE {table} IN EXCLUSIVE MODE",
            f"CREATE INDEX ON {table} (({named[0]}))",
            f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION lock_policies()",
            f"CREATE RULE r AS ON DELETE TO {table} DO INSTEAD NOTHING",
            f"ALTER TABLE {table} ADD COLUMN added int",
            f"ALTER TABLE {table} OWNER TO CURRENT_USER",
            f"CREATE TABLE of_mine (LIKE {table})",
            f"DROP TABLE {table}",
        }

        passed = {statement for statement in tried if await passes(db, statement)}

    listed = {f"UPDATE {table} SET {one} = {one} WHERE false" for one in rights.update}
    if rights.lock:
        listed |= changing
    if rights.lock or rights.delete:  # these rights let a role lock a table
        listed |= {f"LOCK TABLE {table} IN {mode} MODE" for mode in ("ROW SHARE", "EXCLUSIVE")}
    if rights.insert:
        listed.add(f"INSERT INTO {table} SELECT * FROM {table} WHERE false")
        if await server_version(role_url) >= 16:
            listed.add(f"LOCK TABLE {table} IN ROW SHARE MODE")
    if rights.delete:
        listed.add(f"DELETE FROM {table} WHERE false")
    assert passed == listed | {f"SELECT FROM {table}"}


HISTORY = {
    "accounts": "opened_at",
    "api_keys": "role",
    "audit_log": "reason",
    "consumption_records": "outcome",
    "credit_operations": "delta",
    "dead_letters": "value",
    "debts": "metric",
    "grants": "quantity",
    "holds": "taken",
    "jobs": "units",
    "org_members": "user_id",
    "policies": "content",
    "reversals": "operation_id",
    "schema_version": "checksum",
}
"""Tables whose rows are never deleted, each with a column that is never changed."""


@pytest.mark.parametrize("table", HISTORY)
async def test_the_service_role_cannot_rewrite_history(role_url: str, table: str) -> None:
    column = HISTORY[table]
    async with connected(role_url) as db:
        for statement in (
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
            f"UPDATE {table} SET {column} = {column}",
        ):
            assert not await passes(db, statement), statement


async def passes(db: asyncpg.Connection, statement: str) -> bool:
    """Return whether the role has the right, and roll the statement back."""
    transaction = db.transaction()
    await transaction.start()
    try:
        await db.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    else:
        return True
    finally:
        await transaction.rollback()


async def server_version(url: str) -> int:
    async with connected(url) as db:
        return int(await db.fetchval("SHOW server_version_num")) // 10_000


Undoing = Callable[[asyncpg.Connection, str], Awaitable[None]]


def by(statement: str) -> Undoing:
    async def undo(db: asyncpg.Connection, role: str) -> None:
        database = await db.fetchval("SELECT current_database()")
        await db.execute(statement.format(role=role, group=f"{role}_group", database=database))

    return undo


GROUP = "CREATE ROLE {group} ROLE {role};"
UNDONE = {
    "it may DELETE policies through PUBLIC": by("GRANT DELETE ON policies TO PUBLIC"),
    r"it may UPDATE jobs \(units\) through PUBLIC": by("GRANT UPDATE (units) ON jobs TO PUBLIC"),
    r"it may UPDATE grants \(.*quantity.*\) through app_\w+_group": by(
        GROUP + "GRANT UPDATE ON grants TO {group}"
    ),
    r"it may TRUNCATE debts through app_\w+_group": by(
        GROUP + "ALTER ROLE {role} NOINHERIT; GRANT TRUNCATE ON debts TO {group}"
    ),
    "it may DELETE .* through pg_write_all_data": by("GRANT pg_write_all_data TO {role}"),
    "it owns tables": by("ALTER TABLE reversals OWNER TO {role}"),
    r"it owns tables through app_\w+_group": by(
        GROUP + "ALTER ROLE {role} NOINHERIT; ALTER TABLE jobs OWNER TO {group}"
    ),
    "it owns the schema public": by("ALTER SCHEMA public OWNER TO {role}"),
    "it owns the database": by("ALTER DATABASE {database} OWNER TO {role}"),
    "it is a superuser": by("ALTER ROLE {role} SUPERUSER"),
    "it may become the superuser postgres": by("GRANT postgres TO {role}"),
    "it may give itself other roles": by("ALTER ROLE {role} CREATEROLE"),
    "PUBLIC may create objects in the schema public": by("GRANT CREATE ON SCHEMA public TO PUBLIC"),
    "it may create objects in the schema public": by("GRANT CREATE ON SCHEMA public TO {role}"),
    "it may use files and programs of the server": by("GRANT pg_write_server_files TO {role}"),
}


@pytest.mark.parametrize("reason", UNDONE)
async def test_rights_that_cannot_be_revoked_are_refused_with_a_reason(
    postgres_url: str, role_url: str, role: str, reason: str
) -> None:
    async with connected(postgres_url) as db:
        await UNDONE[reason](db, role)

        with pytest.raises(RoleUnusable, match=rf"^the role {role} cannot .*: .*{reason}"):
            await restrict(db, role)

    if "superuser" in reason:
        async with connected(postgres_url) as db:
            await db.execute(f"ALTER ROLE {role} NOSUPERUSER; REVOKE postgres FROM {role}")


async def test_extra_rights_granted_to_the_role_itself_are_revoked(
    postgres_url: str, role_url: str, role: str
) -> None:
    async with connected(postgres_url) as db:
        await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        await db.execute(f"GRANT UPDATE (content) ON policies TO {role}")

    assert (await migrate_at(postgres_url, role)).hints == []

    async with connected(role_url) as db:
        assert not await passes(db, "UPDATE policies SET content = '' WHERE false")
        assert not await passes(db, "DELETE FROM policies WHERE false")
        assert await passes(db, "UPDATE policies SET active = false WHERE false")


async def test_a_role_that_does_not_exist_is_named(postgres_url: str) -> None:
    with pytest.raises(RoleUnusable, match="no such role: nobody_at_all"):
        await migrate_at(postgres_url, "nobody_at_all")


async def test_a_role_that_lacks_rights_is_named(
    postgres_url: str, role_url: str, role: str
) -> None:
    assert (await migrate_at(postgres_url, None)).hints == []
    async with connected(postgres_url) as db:
        await db.execute(f"REVOKE INSERT ON jobs FROM {role}")

    (hint,) = (await migrate_at(postgres_url, None)).hints

    assert hint.startswith(f"the role {role} lacks rights that the service needs")


RESTRICTED_BEFORE = """
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
REVOKE UPDATE, DELETE, TRUNCATE ON credit_operations, audit_log, consumption_records FROM {role};
REVOKE DELETE, TRUNCATE ON holds, dead_letters FROM {role};
REVOKE INSERT, UPDATE, DELETE ON schema_version FROM {role};
"""
BATCH_BEFORE = "LOCK TABLE policies IN ROW SHARE MODE"


@pytest.mark.parametrize("named", [True, False])
async def test_processes_of_the_previous_version_keep_their_rights_until_the_next_migration(
    empty_postgres_url: str, role: str, monkeypatch: pytest.MonkeyPatch, *, named: bool
) -> None:
    with monkeypatch.context() as before:
        older = [one for one in migrations() if one[0] < POLICY_LOCK]
        before.setattr(migrate, "migrations", lambda: older)
        await migrate_at(empty_postgres_url, None)
    async with connected(empty_postgres_url) as db:
        await db.execute(RESTRICTED_BEFORE.format(role=role))

    _, hints = await migrate_at(empty_postgres_url, role if named else None)

    url = reached_as(role, empty_postgres_url)
    await work(url)
    async with connected(url) as db:
        assert await passes(db, BATCH_BEFORE)
    assert [hint for hint in hints if "once none runs" in hint] == hints
    assert len(hints) == named
    assert (await migrate_at(empty_postgres_url, role)).hints == []
    async with connected(url) as db:
        assert not await passes(db, "UPDATE policies SET content = '' WHERE false")
        assert not await passes(db, "LOCK TABLE policies IN EXCLUSIVE MODE")
