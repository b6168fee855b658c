"""A refused command is never charged later, however slow the database is."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.app.credits.batch import fail
from entitlements.app.engine import Engine
from entitlements.app.ports import StoreUnavailable
from entitlements.app.process import failpoints
from entitlements.core.outcomes import Consumed
from tests.books import assert_books_balance
from tests.concurrency.scene import balance, consume, engines, given, submit, user
from tests.servers import PostgresServer
from tests.waiting import PATIENCE_S, until

SHORT_S = 0.3


async def refusal(engine: Engine, key: str) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as refused:
        await submit(engine, consume("ada", 10, key=key), deadline_s=SHORT_S)
    return refused.value


async def settled(engine: Engine) -> None:
    """Wait until all earlier commands have ended."""
    await until(lambda: succeeds(engine))


async def succeeds(engine: Engine) -> bool:
    try:
        return isinstance(await submit(engine, consume("bob", 1)), Consumed)
    except StoreUnavailable:
        return False


@asynccontextmanager
async def file_locked(path: Path) -> AsyncIterator[None]:
    """Lock the file as a writing process does."""
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@asynccontextmanager
async def table_locked(url: str) -> AsyncIterator[None]:
    other = await asyncpg.connect(url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE credit_balances IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await other.close()


@pytest.fixture
async def url(crashable_postgres: PostgresServer) -> AsyncIterator[str]:
    """A database of the crashable server, which is verified after the test."""
    url = crashable_postgres.create_database("books")
    await migrate_at(url, None)
    yield url
    await assert_books_balance(url)


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    """An engine on that database, in which ada has 100 credits."""
    async with engines(url) as [opened]:
        await given(opened, user("ada"), 100)
        yield opened


async def test_a_command_refused_while_it_waits_for_the_file_is_not_charged(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/books.db"
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        for n in range(3):
            async with file_locked(tmp_path / "books.db"):
                assert (await refusal(engine, f"late-{n}")).applied == "no"
        await settled(engine)

        assert await balance(engine, user("ada")) == 100
    await assert_books_balance(url)


async def test_a_command_refused_while_it_waits_for_a_table_is_not_charged(
    engine: Engine, url: str
) -> None:
    async with table_locked(url):
        assert (await refusal(engine, "late")).applied == "no"
    await settled(engine)

    assert await balance(engine, user("ada")) == 100


async def test_a_command_refused_while_the_server_hangs_is_not_charged(
    crashable_postgres: PostgresServer, engine: Engine
) -> None:
    failpoints.on("loaded", crashable_postgres.pause)
    assert (await refusal(engine, "late")).applied == "no"
    failpoints.clear()
    crashable_postgres.resume()
    await settled(engine)

    assert await balance(engine, user("ada")) == 100


async def test_a_batch_is_committed_without_a_command_that_was_refused_in_the_meantime(
    any_url: str,
) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        loop = asyncio.get_running_loop()
        sizes: list[int] = []
        engine.committer.batch_sizes = sizes.append

        def refuse() -> None:
            failpoints.clear()
            (late,) = [
                one for one in engine.committer._unanswered if one.command.origin.key == "late"
            ]
            call_in(loop, lambda: fail(late, StoreUnavailable("late")))

        failpoints.on("before-commit", refuse)
        late, beside = await asyncio.gather(
            submit(engine, consume("ada", 10, key="late")),
            submit(engine, consume("ada", 1)),
            return_exceptions=True,
        )

        assert isinstance(late, StoreUnavailable)
        assert (late.applied, sizes) == ("no", [1])
        assert isinstance(beside, Consumed)
        assert beside.new_balance == 99


def call_in(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    """Run the action in the loop and wait for it, from a thread or from the loop itself."""
    if asyncio._get_running_loop() is loop:
        action()
        return
    done = threading.Event()
    loop.call_soon_threadsafe(action)
    loop.call_soon_threadsafe(done.set)
    assert done.wait(PATIENCE_S)


async def test_the_result_of_a_slow_commit_is_unknown_until_its_key_is_repeated(
    crashable_postgres: PostgresServer, engine: Engine
) -> None:
    """The commit waits for a synchronous standby that does not exist."""
    server = crashable_postgres
    admin = await asyncpg.connect(server.admin_url)
    await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    await admin.execute("SELECT pg_reload_conf()")
    assert (await refusal(engine, "slow")).applied == "unknown"
    await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()

    again = await submit(engine, consume("ada", 10, key="slow"))
    assert isinstance(again, Consumed)
    assert again.replayed
    assert await balance(engine, user("ada")) == 90


async def test_the_result_is_unknown_if_the_server_hangs_before_the_commit(
    crashable_postgres: PostgresServer, engine: Engine
) -> None:
    failpoints.on("before-commit", crashable_postgres.pause)
    assert (await refusal(engine, "late")).applied == "unknown"
    failpoints.clear()
    crashable_postgres.resume()
    await until(lambda: succeeds(engine))

    again = await submit(engine, consume("ada", 10, key="late"))
    assert isinstance(again, Consumed)
    assert await balance(engine, user("ada")) == 90
