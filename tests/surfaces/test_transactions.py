"""Commands that are committed together with the caller's own statements, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from entitlements import Entitlements, EntitlementService
from entitlements.app.process import failpoints
from entitlements.contracts import errors
from entitlements.contracts.http import ConsumeItem
from entitlements.embedded import Transaction
from tests.books import announced, assert_books_balance
from tests.tables import sqlite_url
from tests.waiting import until

POLICY = """
costs: {essay: 5}
rate_limits: {essay: 10/minute}
"""
ORDERS = "CREATE TABLE orders (id text PRIMARY KEY, operation_id text)"
Step = Callable[[Transaction], Awaitable[object]]
BUSY = 0.3
"""Seconds that another transaction keeps a wallet while a command waits for it."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    place = sqlite_url(tmp_path)
    if request.param == "postgres":
        place = request.getfixturevalue("postgres_url")
    yield place
    asyncio.run(assert_books_balance(place))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Entitlements]:
    """An engine where ada has 100 credits, and a table of orders beside its own."""
    async with Entitlements.open(url, policy=POLICY) as engine:
        async with engine.transaction() as t:
            await t.execute(ORDERS)
        await engine.adjust(100, subject_type="user", subject_id="ada", reason="purchase")
        yield engine


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Entitlements]:
    async with opened(url) as engine:
        yield engine


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[Entitlements]:
    async with opened(postgres_url) as engine:
        yield engine
    await assert_books_balance(postgres_url)


async def balance(engine: Entitlements, user_id: str = "ada") -> int:
    return (await engine.balance(user_id)).user_balance


async def used(engine: Entitlements) -> int:
    limits = await engine.rate_limits("ada")
    return next(one.used for one in limits.limits if one.metric == "essay")


async def orders(engine: Entitlements) -> list[tuple[Any, ...]]:
    async with engine.transaction() as t:
        return await t.execute("SELECT id FROM orders ORDER BY id")


async def order(t: Transaction, name: str, **fields: Any) -> str:
    """Consume an essay and write the order that it is for."""
    done = await t.consume(user_id="ada", metric="essay", **fields)
    assert done.success
    assert done.operation_id is not None
    await t.execute("INSERT INTO orders VALUES ($1, $2)", name, done.operation_id)
    return done.operation_id


class Abandoned(Exception):
    pass


async def test_commands_and_statements_are_committed_together(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        operation_id = await order(t, "one")
        await t.grant(
            entitlement_type="feature_unlock", user_id="ada", feature="export", grant_reason="bonus"
        )
        assert await balance(engine) == 100  # nobody else sees it yet

    assert await balance(engine) == 95
    assert await orders(engine) == [("one",)]
    assert (await engine.check_feature("export", user_id="ada")).has_access
    assert (await engine.operation(operation_id)).delta == -5


async def test_a_block_that_raises_leaves_nothing(engine: Entitlements, url: str) -> None:
    events = len(await announced(url))
    with suppress(Abandoned):
        async with engine.transaction() as t:
            await order(t, "one")
            await t.grant(
                entitlement_type="usage_allowance",
                user_id="ada",
                metric="essay",
                quantity=9,
                grant_reason="bonus",
            )
            raise Abandoned

    assert await balance(engine) == 100
    assert await orders(engine) == []
    assert await used(engine) == 0
    assert len(await announced(url)) == events
    assert not (await engine.consume(user_id="ada", metric="essay")).allowance_units


async def test_what_is_rolled_back_is_not_remembered(engine: Entitlements) -> None:
    with suppress(Abandoned):
        async with engine.transaction() as t:
            await t.grant(
                entitlement_type="usage_allowance",
                user_id="ada",
                metric="essay",
                quantity=9,
                grant_reason="bonus",
            )
            done = await t.consume(user_id="ada", metric="essay")
            assert done.allowance_units == 1
            raise Abandoned
    assert not engine._engine.policies.active.allowances


async def test_a_failed_statement_undoes_the_commands(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        await order(t, "one")

    with pytest.raises((asyncpg.UniqueViolationError, apsw.ConstraintError)):
        async with engine.transaction() as t:
            await order(t, "one")

    assert await balance(engine) == 95


async def run(opening: AbstractAsyncContextManager[Transaction], *steps: Step) -> None:
    async with opening as t:
        for step in steps:
            await step(t)


async def fail_unheard(t: Transaction) -> None:
    with suppress(asyncpg.UndefinedTableError, apsw.SQLError):
        await t.execute("SELECT * FROM nothing_like_this")


async def test_a_statement_that_failed_unheard_is_never_taken_for_a_commit(
    engine: Entitlements, url: str
) -> None:
    """PostgreSQL answers ROLLBACK to the COMMIT; SQLite undoes the statement alone."""
    is_aborted = url.startswith("postgresql")
    refused = pytest.raises(errors.InvalidRequest, match="aborted")

    with refused if is_aborted else nullcontext():
        await run(engine.transaction(), partial(order, name="one"), fail_unheard)
    with refused if is_aborted else nullcontext():
        await run(engine.transaction(), fail_unheard, partial(order, name="two"))

    kept = [] if is_aborted else [("one",), ("two",)]
    assert await orders(engine) == kept
    assert await balance(engine) == 100 - 5 * len(kept)
    assert await used(engine) == len(kept)


async def test_nothing_follows_the_end_of_a_transaction_by_a_statement(
    engine: Entitlements, url: str
) -> None:
    ending = "INSERT OR ROLLBACK INTO orders VALUES ('one', 1), ('one', 1)"
    if url.startswith("postgresql"):
        ending = "ROLLBACK"

    async def end(t: Transaction) -> None:
        with suppress(errors.InvalidRequest, apsw.ConstraintError):
            await t.execute(ending)

    with pytest.raises(errors.InvalidRequest, match="was ended by a statement"):
        await run(engine.transaction(), end, partial(order, name="one"))
    with pytest.raises(errors.InvalidRequest, match="was ended by a statement"):
        await run(engine.transaction(), partial(order, name="one"), end)

    assert await balance(engine) == 100
    assert await used(engine) == 0


async def test_a_refused_command_changes_nothing_and_the_transaction_goes_on(
    engine: Entitlements,
) -> None:
    async with engine.transaction() as t:
        await order(t, "one")
        with pytest.raises(errors.InsufficientCredits):
            await t.spend(1_000, "credit_grant", user_id="ada", credit_type="credits")
        await order(t, "two")

    assert await balance(engine) == 90
    assert await orders(engine) == [("one",), ("two",)]


async def test_a_command_that_fails_while_it_is_written_leaves_nothing(
    engine: Entitlements,
) -> None:
    def fail() -> None:
        failpoints.clear()
        raise Abandoned

    async with engine.transaction() as t:
        await order(t, "one")
        failpoints.on("before-commit", fail)
        with pytest.raises(Abandoned):
            await t.consume(user_id="ada", metric="essay")
        await order(t, "two")

    assert await balance(engine) == 90
    assert await used(engine) == 2


async def test_later_commands_see_earlier_ones_of_the_transaction(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        await t.grant(
            entitlement_type="credit_grant",
            user_id="new",
            credit_type="credits",
            quantity=7,
            grant_reason="bonus",
        )
        await t.grant(
            entitlement_type="usage_allowance",
            user_id="new",
            metric="essay",
            quantity=1,
            grant_reason="bonus",
        )
        first = await t.consume(user_id="new", metric="essay")
        second = await t.consume(user_id="new", metric="essay")
        third = await t.consume(user_id="new", metric="essay")

    assert (first.allowance_units, first.credits) == (1, 0)
    assert (second.success, second.credits) == (True, 5)
    assert (third.success, third.owed) == (False, 5)
    assert await balance(engine, "new") == 2


async def test_a_key_counts_once_inside_and_outside_of_transactions(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        first = await t.consume(user_id="ada", metric="essay", key="k", correlation_id="c")
        again = await t.consume(user_id="ada", metric="essay", key="k", correlation_id="c")
    outside = await engine.consume(user_id="ada", metric="essay", key="k", correlation_id="c")
    async with engine.transaction() as t:
        later = await t.consume(user_id="ada", metric="essay", key="k", correlation_id="c")

    assert [one.replayed for one in (first, again, outside, later)] == [False, True, True, True]
    assert {one.operation_id for one in (first, again, outside, later)} == {first.operation_id}
    assert await balance(engine) == 95


async def test_a_key_that_was_rolled_back_is_free(engine: Entitlements) -> None:
    with suppress(Abandoned):
        async with engine.transaction() as t:
            await t.consume(user_id="ada", metric="essay", key="k", correlation_id="c")
            raise Abandoned

    done = await engine.consume(user_id="ada", metric="essay", key="k", correlation_id="c")
    assert not done.replayed
    assert await balance(engine) == 95


async def test_several_items_and_concurrent_calls_share_the_transaction(
    engine: Entitlements,
) -> None:
    items = [ConsumeItem(user_id="ada", metric="essay", amount=1) for _ in range(3)]
    async with engine.transaction() as t:
        together = await t.consume_all(items, atomic=True)
        apart = await t.consume_all(items)
        await asyncio.gather(*[t.consume(user_id="ada", metric="essay") for _ in range(4)])

    assert together.success
    assert apart.success
    assert await balance(engine) == 50


async def test_concurrent_statements_are_no_part_of_a_command_that_is_refused(
    engine: Entitlements,
) -> None:
    async def insert(t: Transaction, name: str) -> None:
        for _ in range(int(name)):  # lets the command get ahead
            await asyncio.sleep(0)
        await t.execute("INSERT INTO orders VALUES ($1, NULL)", name)

    async with engine.transaction() as t:
        for number in range(10):
            refused, inserted = await asyncio.gather(
                t.spend(1_000, "credit_grant", user_id="ada", credit_type="credits"),
                insert(t, str(number)),
                return_exceptions=True,
            )
            assert isinstance(refused, errors.InsufficientCredits)
            assert inserted is None
    assert len(await orders(engine)) == 10


async def test_limits_count_once_it_is_committed(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        await order(t, "one")
        assert await used(engine) == 0
    assert await used(engine) == 1
    t.committed()
    assert await used(engine) == 1


async def test_a_near_limit_is_published_once_it_is_committed(url: str) -> None:
    seen: list[Any] = []

    async def note(event: Any) -> None:
        seen.append(event.data)

    policy = POLICY.replace("10/minute", "{limit: 10/minute, warn: 80%}")
    async with Entitlements.open(url, policy=policy) as engine:
        await engine.adjust(100, subject_type="user", subject_id="ada", reason="purchase")
        engine.subscribe(note, "*.rate_limit.near.v1")
        with suppress(Abandoned):
            async with engine.transaction() as t:
                await t.consume(user_id="ada", metric="essay", amount=9)
                raise Abandoned
        async with engine.transaction() as t:
            await t.consume(user_id="ada", metric="essay", amount=8, correlation_id="kept")
        await until(lambda: bool(seen))

    (data,) = seen
    assert (data["used"], data["correlation_id"]) == (8, "kept")


async def test_the_events_are_published(url: str) -> None:
    seen: list[str] = []

    async def note(event: Any) -> None:
        seen.append(event.event_type)

    async with Entitlements.open(url, policy=POLICY) as engine:
        engine.subscribe(note, "*.usage.recorded.v1")
        async with engine.transaction() as t:
            await t.adjust(10, subject_type="user", subject_id="ada", reason="manual")
            await t.consume(user_id="ada", metric="essay")
        await until(lambda: bool(seen))


async def test_other_consumption_waits_until_the_end(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        await order(t, "one")
        other = asyncio.create_task(engine.consume(user_id="ada", metric="essay"))
        await asyncio.sleep(BUSY)
        assert not other.done()
        await order(t, "two")
    assert (await other).new_balance == 85


async def test_fifty_transactions_and_fifty_consumptions_race_exactly(
    engine: Entitlements,
) -> None:
    async def abandoned(number: int) -> None:
        with suppress(Abandoned):
            async with engine.transaction() as t:
                await order(t, f"never-{number}")
                raise Abandoned

    async def kept(number: int) -> None:
        async with engine.transaction() as t:
            await order(t, f"kept-{number}")

    async def plain() -> None:
        await engine.consume(user_id="ada", metric="essay")

    await engine.adjust(900, subject_type="user", subject_id="ada", reason="top-up")
    await asyncio.gather(
        *[abandoned(n) for n in range(15)],
        *[kept(n) for n in range(15)],
        *[plain() for _ in range(30)],
    )
    assert await balance(engine) == 1_000 - 45 * 5
    assert len(await orders(engine)) == 15


async def test_what_reads_the_ledger_is_refused(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        with pytest.raises(errors.InvalidRequest, match="has no balance, only adjust"):
            await t.balance("ada")
        with pytest.raises(errors.InvalidRequest, match="ask the engine itself"):
            await t.take_hold({"essay": 1}, user_id="ada")


async def test_bad_input_is_refused_as_by_the_engine(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        with pytest.raises(errors.InvalidRequest, match="amount"):
            await t.consume(user_id="ada", metric="essay", amount=-1)
        await order(t, "one")
    assert await balance(engine) == 95


async def test_it_is_closed_after_its_block(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        pass
    with pytest.raises(errors.Closed, match="has ended"):
        await t.consume(user_id="ada", metric="essay")
    with pytest.raises(errors.Closed, match="has ended"):
        await t.execute("SELECT 1")


async def test_a_cancelled_block_leaves_nothing(engine: Entitlements) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with engine.transaction() as t:
            await order(t, "one")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await balance(engine) == 100
    assert await orders(engine) == []


async def test_a_service_of_requests_takes_a_transaction_as_db(engine: Entitlements) -> None:
    service = EntitlementService(engine)
    with suppress(Abandoned):
        async with engine.transaction() as t:
            await service.consume_entitlement(
                db=t,
                user_id="ada",
                entitlement_type="credit_grant",
                credit_type="credits",
                quantity_to_consume=30,
            )
            raise Abandoned
    assert await balance(engine) == 100


async def test_parameters_are_bound_by_their_numbers(engine: Entitlements) -> None:
    async with engine.transaction() as t:
        await t.execute("INSERT INTO orders (operation_id, id) VALUES ($2, $1)", "id", "operation")
        await t.execute("UPDATE orders SET id = id || '$2' /* $3 */ WHERE id = $1", "id")
        found = await t.execute("SELECT id, operation_id FROM orders WHERE id <> $1", "other")
    assert found == [("id$2", "operation")]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM credit_operations",
        "UPDATE credit_balances SET balance = 99999",
        "DELETE FROM receipts",
        "ALTER TABLE grants RENAME TO others",
        "CREATE TRIGGER mine AFTER UPDATE ON credit_balances BEGIN SELECT 1; END",
        "CREATE INDEX mine ON grants (remaining)",
        "DROP TABLE holds",
        "PRAGMA ignore_check_constraints = 1",
        "PRAGMA query_only = 1",
        "ATTACH ':memory:' AS mine",
        "COMMIT",
        "ROLLBACK",
    ],
)
async def test_statements_of_the_caller_leave_the_ledger_alone_on_sqlite(
    tmp_path: Path, sql: str
) -> None:
    async with opened(sqlite_url(tmp_path)) as engine:
        with pytest.raises(apsw.AuthError):
            await run(engine.transaction(), lambda t: t.execute(sql))
        async with engine.transaction() as t:
            await order(t, "one")
        assert await balance(engine) == 95


async def test_a_second_transaction_on_a_sqlite_file_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entitlements.adapters.sqlite.database.LENT_WAIT_S", BUSY)
    async with opened(sqlite_url(tmp_path)) as engine:
        async with engine.transaction() as t:
            await order(t, "one")
            with pytest.raises(errors.Unavailable) as late:
                await run(engine.transaction(), partial(order, name="two"))
            assert late.value.applied == "no"
        async with engine.transaction() as t:
            waiting = asyncio.create_task(run(engine.transaction(), partial(order, name="three")))
            await asyncio.sleep(0)
            await order(t, "four")
        await waiting
        assert await orders(engine) == [("four",), ("one",), ("three",)]
        assert await balance(engine) == 85


async def test_a_transaction_that_is_cancelled_while_it_waits_waits_no_longer(
    tmp_path: Path,
) -> None:
    async with opened(sqlite_url(tmp_path)) as engine:
        async with engine.transaction() as t:
            waiting = asyncio.create_task(run(engine.transaction(), partial(order, name="one")))
            await asyncio.sleep(BUSY)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await order(t, "two")
        assert await orders(engine) == [("two",)]


async def test_statements_of_the_caller_have_their_own_schema_on_sqlite(tmp_path: Path) -> None:
    async with opened(sqlite_url(tmp_path)) as engine:
        async with engine.transaction() as t:
            await t.execute("CREATE TABLE notes (id int, holds text)")
            await t.execute("CREATE INDEX by_holds ON notes (holds)")
            await t.execute("ALTER TABLE notes ADD COLUMN at text")
            await t.execute(
                "CREATE TRIGGER noted AFTER INSERT ON orders"
                " BEGIN INSERT INTO notes VALUES (1, new.id, NULL); END"
            )
            await order(t, "one")
            await t.execute("SAVEPOINT mine")
            await t.execute("UPDATE notes SET holds = 'none'")
            await t.execute("ROLLBACK TO mine")
            assert await t.execute("SELECT holds FROM notes") == [("one",)]
            assert len(await t.execute("PRAGMA table_info(notes)")) == 3
            await t.execute("DROP TRIGGER noted")
            await t.execute("DROP TABLE notes")
        with pytest.raises(errors.InvalidRequest, match="without a connection"):
            await run(engine.transaction(object()))


async def test_the_callers_connection_decides_about_both(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    db = await asyncpg.connect(postgres_url)
    with suppress(Abandoned):
        async with db.transaction(), on_postgres.transaction(db) as t:
            await order(t, "never")
            raise Abandoned
    assert await balance(on_postgres) == 100

    async with db.transaction():
        async with on_postgres.transaction(db) as t:
            await order(t, "one")
        await db.execute("INSERT INTO orders VALUES ('two', NULL)")
        assert await balance(on_postgres) == 100
    assert await used(on_postgres) == 0
    t.committed()

    assert await used(on_postgres) == 1
    assert await balance(on_postgres) == 95
    assert await orders(on_postgres) == [("one",), ("two",)]
    await db.close()


async def test_a_command_in_an_aborted_transaction_leaves_the_callers_connection_alone(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    db = await asyncpg.connect(postgres_url)
    aborted = db.transaction()
    await aborted.start()
    with pytest.raises(errors.InvalidRequest, match="aborted"):
        await run(on_postgres.transaction(db), fail_unheard, partial(order, name="one"))
    with pytest.raises(errors.InvalidRequest, match="aborted"):
        await run(on_postgres.transaction(db))
    await aborted.rollback()
    async with db.transaction():
        await run(on_postgres.transaction(db), partial(order, name="two"))
    assert await orders(on_postgres) == [("two",)]
    await db.close()


async def test_a_joined_transaction_that_was_aborted_is_not_taken_for_committed(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    async def join_and_fail() -> None:
        async with on_postgres.transaction(db) as t:
            await order(t, "one")
            with suppress(asyncpg.UndefinedTableError):
                await db.execute("SELECT FROM nothing")

    db = await asyncpg.connect(postgres_url)
    ended = db.transaction()
    await ended.start()
    with pytest.raises(errors.InvalidRequest, match="was aborted by a statement"):
        await join_and_fail()
    await ended.rollback()
    assert await balance(on_postgres) == 100
    await db.close()


async def test_a_savepoint_of_the_caller_undoes_its_commands(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    db = await asyncpg.connect(postgres_url)
    async with db.transaction(), on_postgres.transaction(db) as t:
        await order(t, "one")
        with suppress(Abandoned):
            async with db.transaction():
                await order(t, "two")
                raise Abandoned
    assert await balance(on_postgres) == 95
    await db.close()


async def test_the_settings_of_the_callers_transaction_are_its_own(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    names = (
        "jit",
        "plan_cache_mode",
        "enable_seqscan",
        "enable_hashjoin",
        "enable_mergejoin",
        "lock_timeout",
        "statement_timeout",
        "idle_in_transaction_session_timeout",
    )

    async def settings() -> list[Any]:
        return [await db.fetchval(f"SHOW {name}") for name in names]

    db = await asyncpg.connect(postgres_url)
    async with db.transaction(), on_postgres.transaction(db) as t:
        await db.execute("SET LOCAL lock_timeout = '7s'; SET LOCAL statement_timeout = '8s'")
        before = await settings()
        await order(t, "one")
        assert await settings() == before
        with pytest.raises(errors.InsufficientCredits):
            await t.spend(1_000, "credit_grant", user_id="ada", credit_type="credits")
        assert await settings() == before
    await db.close()


async def test_a_session_of_sqlalchemy_can_be_joined(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    pool = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(pool) as session, session.begin():
        async with on_postgres.transaction(session) as t:
            await order(t, "one")
        await session.execute(text("INSERT INTO orders VALUES ('two', NULL)"))
    t.committed()
    assert await orders(on_postgres) == [("one",), ("two",)]
    assert await balance(on_postgres) == 95

    with suppress(Abandoned):
        async with pool.begin() as connection, on_postgres.transaction(connection) as t:
            await order(t, "three")
            raise Abandoned
    assert await balance(on_postgres) == 95
    await pool.dispose()


async def test_a_connection_that_cannot_be_joined_is_refused(
    on_postgres: Entitlements, postgres_url: str, empty_postgres_url: str
) -> None:
    @asynccontextmanager
    async def joined(connection: Any) -> AsyncIterator[None]:
        async with on_postgres.transaction(connection):
            yield

    db = await asyncpg.connect(postgres_url)
    with pytest.raises(errors.InvalidRequest, match="begin one first"):
        async with joined(db):
            pass
    with pytest.raises(errors.InvalidRequest, match="must be read committed"):
        async with db.transaction(isolation="repeatable_read"), joined(db):
            pass
    elsewhere = await asyncpg.connect(empty_postgres_url)
    with pytest.raises(errors.InvalidRequest, match="another database"):
        async with elsewhere.transaction(), joined(elsewhere):
            pass
    with pytest.raises(errors.InvalidRequest, match="SQLAlchemy"):
        async with joined(object()):
            pass
    await db.close()
    await elsewhere.close()


async def test_a_wallet_that_another_transaction_keeps_is_waited_for(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    holder, db = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    async with db.transaction(), on_postgres.transaction(db) as t:
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT FROM credit_balances WHERE subject_id = 'ada' FOR UPDATE")
        waiting = asyncio.create_task(order(t, "one"))
        await asyncio.sleep(BUSY)
        assert not waiting.done()
        await held.rollback()
        await waiting
    assert await balance(on_postgres) == 95
    await holder.close()
    await db.close()


async def test_more_transactions_than_connections_create_their_wallets(postgres_url: str) -> None:
    async with Entitlements.open(postgres_url, policy=POLICY, pool_max=2) as opened:

        async def welcome(number: int) -> None:
            async with opened.transaction() as t:
                await asyncio.sleep(0)
                await t.adjust(5, subject_type="user", subject_id=f"new-{number}", reason="manual")

        await asyncio.gather(*[welcome(number) for number in range(6)])
        assert [await balance(opened, f"new-{number}") for number in range(6)] == [5] * 6


async def test_a_constraint_that_fails_at_the_commit_is_the_callers_error(
    on_postgres: Entitlements,
) -> None:
    deferred = "ALTER TABLE orders ADD FOREIGN KEY (operation_id) REFERENCES orders"
    async with on_postgres.transaction() as t:
        await t.execute(f"{deferred} DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await run(on_postgres.transaction(), partial(order, name="one"))
    assert await balance(on_postgres) == 100
    assert await used(on_postgres) == 0


async def test_a_key_that_another_transaction_writes_is_replayed_when_it_commits(
    on_postgres: Entitlements, postgres_url: str
) -> None:
    first, second = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    async with second.transaction(), on_postgres.transaction(second) as t:
        async with first.transaction():
            async with on_postgres.transaction(first) as other:
                done = await other.consume(
                    user_id="bob", metric="essay", key="k", correlation_id="c"
                )
            repeating = asyncio.create_task(
                t.consume(user_id="bob", metric="essay", key="k", correlation_id="c")
            )
            await asyncio.sleep(BUSY)
            assert not repeating.done()
        again = await repeating
    assert again.replayed
    assert again.operation_id == done.operation_id
    await first.close()
    await second.close()
