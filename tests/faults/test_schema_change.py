"""Tables get columns while a process of the previous version works on them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres.statements import SQL
from entitlements.app.engine import Engine
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.store import LettersQuery, RecordsQuery
from entitlements.app.ports import HoldsQuery, OperationsQuery
from entitlements.core.ledger.book import Needs
from entitlements.core.outcomes import Consumed, HoldTaken, UsageIngested
from entitlements.core.policy import BurnOrder
from tests.app.inbox.events import CONSUMPTION, envelope, event_id, use
from tests.audit import audited
from tests.concurrency.scene import balance, consume, engines, given, hold, settle, submit, user
from tests.waiting import until

GIVEN = 1_000_000
Work = Callable[[Engine, int], Awaitable[None]]


async def consuming(engine: Engine, _: int) -> None:
    outcome = await submit(engine, consume("ada", 1))
    assert isinstance(outcome, Consumed)
    assert outcome.success


async def holding(engine: Engine, _: int) -> None:
    taken = await submit(engine, hold("ada", 5))
    assert isinstance(taken, HoldTaken)
    parts = await engine.store.reads.hold(taken.hold_id)
    await submit(engine, settle(parts, 3))


async def lapsing(engine: Engine, _: int) -> None:
    taken = await submit(engine, hold("bob", 5, ttl_s=1))
    assert isinstance(taken, HoldTaken)
    await engine.store.reads.books([user("bob")])


async def reading_events(engine: Engine, n: int) -> None:
    data = use("ada", 1, service_name="scorer", processing_id=f"p{n}")
    value = envelope(f"huleedu.{CONSUMPTION}", data, event_id=event_id(n))
    arrived = ConsumerRecord(topic=f"huleedu.{CONSUMPTION}", partition=0, offset=n, value=value)
    (fate,) = await engine.intake.process(engine.intake.pending([arrived]))
    assert isinstance(fate, UsageIngested)


async def listing(engine: Engine, _: int) -> None:
    store = engine.store
    await store.reads.operations(OperationsQuery(limit=10))
    await store.reads.holds(HoldsQuery(limit=10))
    await store.inbox.use_records(RecordsQuery(limit=10))
    await store.inbox.dead_letters(LettersQuery(limit=10))
    await store.reads.debts(open_only=False, limit=10)
    await audited(store, 10)
    needs = Needs(policy_version="", burn_order=BurnOrder.EXPIRY, wallets={user("ada")})
    await store.reads.opened_books(needs)


ALL: tuple[Work, ...] = (consuming, holding, lapsing, reading_events, listing)


class Load:
    """Runs every kind of work repeatedly; an exception ends the test."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.rounds = [0] * len(ALL)

    async def run(self, number: int) -> None:
        while True:
            await ALL[number](self._engine, self.rounds[number])
            self.rounds[number] += 1

    def are_done_since(self, before: list[int]) -> bool:
        """Return whether each kind ran twice more, so that prepared statements were reused."""
        pairs = zip(self.rounds, before, strict=True)
        return all(now >= then + 2 for now, then in pairs)


async def tables_of(url: str) -> list[str]:
    if url.startswith("sqlite:///"):
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        return [str(name) for (name,) in _file(url).execute(query)]
    db = await asyncpg.connect(url)
    try:
        found = await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return [row[0] for row in found]
    finally:
        await db.close()


async def alter(url: str, table: str, column: str = "later") -> None:
    statement = f"ALTER TABLE {table} ADD COLUMN {column} text"
    if url.startswith("sqlite:///"):
        await asyncio.to_thread(_file(url).execute, statement)
        return
    db = await asyncpg.connect(url)
    try:
        await db.execute(statement)
    finally:
        await db.close()


def _file(url: str) -> apsw.Connection:
    db = apsw.Connection(url.removeprefix("sqlite:///"))
    db.set_busy_timeout(60_000)
    return db


async def test_every_kind_of_work_succeeds_on_the_first_attempt_after_each_change(
    any_url: str,
) -> None:
    """Each runs alone, because a failed batch of several is halved and thereby retried."""
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), GIVEN)
        await given(engine, user("bob"), GIVEN)
        for work in ALL:
            await work(engine, 0)
        for number, table in enumerate(await tables_of(any_url), start=1):
            await alter(any_url, table)
            for work in ALL:
                await work(engine, number)


async def test_adding_a_column_to_every_table_under_load_fails_no_work(any_url: str) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), GIVEN)
        await given(engine, user("bob"), GIVEN)
        load = Load(engine)
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(load.run(number)) for number in range(len(ALL))]
            await until(partial(load.are_done_since, list(load.rounds)))
            for table in await tables_of(any_url):
                await alter(any_url, table)
                await until(partial(load.are_done_since, list(load.rounds)))
            for task in working:
                task.cancel()


async def test_a_plan_of_an_earlier_schema_is_replaced(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lock_wallets", "read_wallets"):
        wider = SQL[name].replace("promised", "promised, credit_balances.*")
        assert wider != SQL[name]
        monkeypatch.setitem(SQL, name, wider)
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 10)
        assert await balance(engine, user("ada")) == 10

        await alter(url, "credit_balances")

        outcome = await submit(engine, consume("ada", 1))
        assert isinstance(outcome, Consumed)
        assert await balance(engine, user("ada")) == 9
        await alter(url, "credit_balances", "latest")
        assert await balance(engine, user("ada")) == 9
