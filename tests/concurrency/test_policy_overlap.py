"""A policy is activated while a batch stands between its load and its commit, and the reverse."""

import asyncio
from hashlib import sha256
from threading import Thread

import asyncpg
import pytest

from entitlements.adapters.postgres.statements import SQL
from entitlements.app import failpoints
from entitlements.app.engine import Engine
from entitlements.app.policies import activate
from entitlements.app.ports import OperationsQuery
from entitlements.core.model import Operation
from entitlements.core.outcomes import Consumed
from tests.concurrency.scene import (
    POLICY,
    an_act,
    consume,
    engines,
    given,
    open_store,
    submit,
    user,
    waits_for,
)
from tests.waiting import PATIENCE_S

DEARER = "costs: {credit: 3}"


def activation(url: str, text: str = DEARER) -> Thread:
    """Another process, with a store of its own, that activates the text."""

    async def run() -> None:
        store = await open_store(url)
        await activate(store, text, source="cli", name="test", act=an_act())
        await store.close()

    return Thread(target=lambda: asyncio.run(run()))


async def until_somebody_waits(url: str) -> None:
    db = await asyncpg.connect(url)
    async with asyncio.timeout(PATIENCE_S):
        while not await db.fetchval(  # noqa: ASYNC110 - the server has no event to wait for
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        ):
            await asyncio.sleep(0.002)
    await db.close()


def until_it_waits(url: str, thread: Thread) -> None:
    """Blocks the caller, be it a loop. A file's lock has no queue to look at: a moment must do."""
    if url.startswith("sqlite"):
        thread.join(0.2)
        return
    watching = Thread(target=lambda: asyncio.run(until_somebody_waits(url)))
    watching.start()
    watching.join()


@pytest.fixture(autouse=True)
def no_failpoint_stays() -> None:
    failpoints.clear()


@pytest.mark.parametrize("place", ["loaded", "decided", "before-commit"])
async def test_an_activation_waits_for_the_batch_that_works_by_the_version_before(
    any_url: str, place: str
) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        rival = activation(any_url)

        def stand() -> None:
            failpoints.clear()
            rival.start()
            until_it_waits(any_url, rival)
            assert rival.is_alive()

        failpoints.on(place, stand)
        before = await submit(engine, consume("ada", 5))
        await asyncio.to_thread(rival.join)
        after = await submit(engine, consume("ada", 5))

        assert isinstance(before, Consumed)
        assert isinstance(after, Consumed)
        assert (before.credits, after.credits) == (5, 15)
        new, old = await engine.store.policies(limit=2)
        assert [one.policy_version for one in await consumed(engine)] == [new.version, old.version]
        later, earlier = await consumed(engine)
        assert earlier.created_at < new.activated_at < later.created_at
        assert (await engine.store.audit(1))[0].detail["version"] == new.version


async def test_a_batch_that_comes_during_an_activation_is_priced_by_it(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        version = sha256(DEARER.encode()).hexdigest()
        db = await asyncpg.connect(url)
        await db.execute(f"BEGIN; {SQL['lock_policies']}; {SQL['retire_policies']}")
        await db.execute(SQL["activate_policy"], version, DEARER, "rival", None)

        ours = waits_for(engine, consume("ada", 5))
        await until_somebody_waits(url)
        await db.execute("COMMIT")
        await db.close()

        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert (outcome.credits, engine.policies.active.version) == (15, version)


async def test_a_batch_outlasts_an_activation_that_stands_still(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        db = await asyncpg.connect(url)
        await db.execute(f"BEGIN; {SQL['lock_policies']}")

        ours = waits_for(engine, consume("ada", 5))
        async with asyncio.timeout(PATIENCE_S):
            while not engine.committer.depth:  # noqa: ASYNC110 - set aside after its patience
                await asyncio.sleep(0.01)
        await db.close()

        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.success


async def test_a_process_that_starts_with_a_superseded_document_works_by_the_active_one(
    any_url: str,
) -> None:
    async with engines(any_url) as [engine]:
        await activate(engine.store, DEARER, source="cli", name="test", act=an_act())

    async with engines(any_url, policy=POLICY) as [late]:
        assert late.policies.active.costs["credit"].credits == 3
        assert (await late.store.policies(limit=1))[0].version == late.policies.active.version


async def consumed(engine: Engine) -> list[Operation]:
    """Newest first."""
    return (await engine.store.operations(OperationsQuery(metric="credit"))).rows
