"""PostgreSQL crashes and recovers under load."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.app.engine import Engine
from entitlements.app.ports import StoreUnavailable
from entitlements.core.outcomes import Consumed
from tests.books import assert_books_balance
from tests.concurrency.scene import balance, consume, engines, given, grant, submit, user
from tests.servers import PostgresServer
from tests.tables import migrate
from tests.waiting import PATIENCE_S, until

CLIENTS = 16


class Till:
    """A client that makes debits, each with its own key and retried until it succeeds."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.answers: dict[str, Consumed] = {}
        self.last_at = 0.0

    async def run(self, over: asyncio.Event) -> None:
        while not over.is_set():
            key = f"{self.name}-{len(self.answers)}"
            self.answers[key] = await self._insist(key)
            self.last_at = asyncio.get_running_loop().time()
            await asyncio.sleep(0)

    async def _insist(self, key: str) -> Consumed:
        while True:
            try:
                outcome = await submit(self.engine, consume(self.name, 1, key=key), deadline_s=2)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            else:
                assert isinstance(outcome, Consumed)
                assert outcome.success
                return outcome


def all_answered_since(tills: Sequence[Till], at: float) -> bool:
    return min(till.last_at for till in tills) >= at


async def test_the_service_recovers_from_a_crash_and_nothing_acknowledged_is_lost(
    crashable_postgres: PostgresServer,
) -> None:
    url = crashable_postgres.create_database()
    await asyncio.to_thread(migrate, url)
    loop = asyncio.get_running_loop()
    async with engines(url) as [engine]:
        tills = [Till(engine, f"u{n}") for n in range(CLIENTS)]
        for till in tills:
            await given(engine, user(till.name), 1_000_000)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for till in tills:
                tasks.create_task(till.run(over))
            for _ in range(2):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(crashable_postgres.restart_immediate)
                back_at = loop.time()
                await until(partial(all_answered_since, tills, back_at))
            over.set()
        for till in tills:
            assert len({answer.operation_id for answer in till.answers.values()}) == len(
                till.answers
            )
            assert await balance(engine, user(till.name)) == 1_000_000 - len(till.answers)
            for key, answer in list(till.answers.items())[-3:]:
                again = await submit(engine, consume(till.name, 1, key=key))
                assert isinstance(again, Consumed)
                assert again.replayed
                assert again.operation_id == answer.operation_id
    await assert_books_balance(url)


async def test_without_a_database_commands_end_at_their_deadline_and_later_ones_succeed(
    crashable_postgres: PostgresServer,
) -> None:
    url = crashable_postgres.create_database()
    await asyncio.to_thread(migrate, url)
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        await asyncio.to_thread(crashable_postgres.stop)
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(
                *(submit(engine, grant(user("ada"), 1), deadline_s=1) for _ in range(5)),
                return_exceptions=True,
            )
        assert [one.applied for one in outcomes if isinstance(one, StoreUnavailable)] == ["no"] * 5
        await asyncio.to_thread(crashable_postgres.start)
        async with asyncio.timeout(PATIENCE_S):
            await submit(engine, consume("ada", 1))
        assert await balance(engine, user("ada")) == 99
    await assert_books_balance(url)


async def test_requests_to_a_hanging_database_are_refused_within_their_deadlines(
    crashable_postgres: PostgresServer,
) -> None:
    """The service refuses long before the driver would time out, after 17 seconds."""
    url = crashable_postgres.create_database("books")
    await migrate_at(url, None)
    loop = asyncio.get_running_loop()
    async with engines(url, deadline_s=1) as [engine]:
        await given(engine, user("ada"), 10)
        engine.store.db.check_s = 0.2  # type: ignore[attr-defined]

        crashable_postgres.pause()
        took: dict[str, float] = {}
        queries: dict[str, Callable[[], Awaitable[object]]] = {
            "check": lambda: engine.reader.holdings([user("ada")]),
            "key": lambda: engine.store.keys.find("x"),
            "consume": lambda: submit(engine, consume("ada", 1)),
        }
        for name, ask in queries.items():
            began = loop.time()
            with pytest.raises(StoreUnavailable):
                await ask()
            took[name] = loop.time() - began
        crashable_postgres.resume()

        await until(lambda: recovered(engine))
        assert max(took.values()) < 10, took
    await assert_books_balance(url)


async def recovered(engine: Engine) -> bool:
    try:
        return await balance(engine, user("ada")) in (9, 10)
    except StoreUnavailable:
        return False
