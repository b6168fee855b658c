"""A policy is activated while a batch is between its load and its commit, and the reverse."""

import asyncio
from hashlib import sha256
from pathlib import Path
from threading import Thread

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres.statements import SQL
from entitlements.app.engine import Engine
from entitlements.app.policy.active import PolicyUnusable, activate
from entitlements.app.ports import OperationsQuery
from entitlements.app.process import failpoints
from entitlements.core.model import Operation
from entitlements.core.outcomes import Consumed
from entitlements.observe.health import policy as health_of
from tests.audit import audited
from tests.books import findings
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
    """Return a thread that activates the text as another process does, with its own store."""

    async def run() -> None:
        store = await open_store(url)
        await activate(store.policies, text, source="cli", name="test", act=an_act())
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
    """Block the calling thread until the activation waits. On SQLite, which does not show waiting
    processes, wait a moment.
    """
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
async def test_an_activation_waits_for_a_batch_that_uses_the_earlier_version(
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
        new, old = await engine.store.policies.versions(limit=2)
        assert [one.policy_version for one in await consumed(engine)] == [new.version, old.version]
        later, earlier = await consumed(engine)
        assert earlier.created_at < new.activated_at < later.created_at
        assert (await audited(engine.store, 1))[0].detail["version"] == new.version


async def test_a_batch_that_starts_during_an_activation_is_priced_by_the_new_version(
    url: str,
) -> None:
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


async def test_a_batch_survives_an_activation_that_hangs(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        db = await asyncpg.connect(url)
        await db.execute(f"BEGIN; {SQL['lock_policies']}")

        ours = waits_for(engine, consume("ada", 5))
        async with asyncio.timeout(PATIENCE_S):
            while not engine.committer.depth:  # noqa: ASYNC110 - deferred after its lock timeout
                await asyncio.sleep(0.01)
        await db.close()

        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.success


LOCKED_BEFORE = "LOCK TABLE policies IN {} MODE"
"""The lock by which the previous version excludes batches and activations from each other."""


async def test_an_activation_by_the_previous_release_waits_for_a_batch(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        rival = Thread(target=lambda: asyncio.run(activate_as_before(url)))

        def stand() -> None:
            failpoints.clear()
            rival.start()
            until_it_waits(url, rival)

        failpoints.on("before-commit", stand)
        before = await submit(engine, consume("ada", 5))
        await asyncio.to_thread(rival.join)
        after = await submit(engine, consume("ada", 5))

        assert isinstance(before, Consumed)
        assert isinstance(after, Consumed)
        assert (before.credits, after.credits) == (5, 15)
        new = (await engine.store.policies.versions(limit=1))[0]
        later, earlier = await consumed(engine)
        assert earlier.created_at < new.activated_at < later.created_at


async def activate_as_before(url: str) -> None:
    db = await asyncpg.connect(url)
    version = sha256(DEARER.encode()).hexdigest()
    await db.execute(f"BEGIN; {LOCKED_BEFORE.format('EXCLUSIVE')}; {SQL['retire_policies']}")
    await db.execute(SQL["activate_policy"], version, DEARER, "rival", None)
    await db.execute("COMMIT")
    await db.close()


async def test_an_activation_waits_for_a_batch_of_the_previous_release(url: str) -> None:
    async with engines(url) as [engine]:
        db = await asyncpg.connect(url)
        await db.execute(f"BEGIN; {LOCKED_BEFORE.format('ROW SHARE')}")

        rival = asyncio.create_task(
            activate(engine.store.policies, DEARER, source="cli", name="test", act=an_act())
        )
        await until_somebody_waits(url)
        waits = await engine.store.policies.active() == sha256(POLICY.encode()).hexdigest()
        await db.close()
        await rival

        assert waits
        assert await engine.store.policies.active() == sha256(DEARER.encode()).hexdigest()


@pytest.fixture(params=["sqlite", "postgres"])
def unproved_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database of either engine, which is not verified after the test."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.mark.parametrize("gone", ["DELETE FROM policies", "UPDATE policies SET active = false"])
async def test_without_an_active_policy_nothing_is_decided_and_health_warns(
    unproved_url: str, gone: str
) -> None:
    async with engines(unproved_url) as [engine]:
        await given(engine, user("ada"), 100)
        await submit(engine, consume("ada", 5, key="k"))
        await execute(unproved_url, gone)

        with pytest.raises(PolicyUnusable, match="no policy is active"):
            await submit(engine, consume("ada", 5, key="k"))
        assert health_of(engine.policies).status == "warning"
        broken = {finding.invariant for finding in await findings(unproved_url)}
        restored = await activate(
            engine.store.policies, DEARER, source="cli", name="test", act=an_act()
        )
        after = await submit(engine, consume("ada", 5))

        assert "one_policy_is_active" in broken
        assert ("operation_has_its_policy" in broken) == gone.startswith("DELETE")
        assert restored[1]
        assert isinstance(after, Consumed)
        assert after.credits == 15


async def execute(url: str, statement: str) -> None:
    """Execute the statement as the owner of the database, without restrictions."""
    if url.startswith("sqlite:///"):
        file = apsw.Connection(url.removeprefix("sqlite:///"))
        file.set_busy_timeout(PATIENCE_S * 1000)
        file.execute(statement)
        file.close()
        return
    db = await asyncpg.connect(url)
    await db.execute(statement)
    await db.close()


async def test_a_process_that_starts_with_a_superseded_document_uses_the_active_one(
    any_url: str,
) -> None:
    async with engines(any_url) as [engine]:
        await activate(engine.store.policies, DEARER, source="cli", name="test", act=an_act())

    async with engines(any_url, policy=POLICY) as [late]:
        assert late.policies.active.costs["credit"].credits == 3
        assert (await late.store.policies.versions(limit=1))[
            0
        ].version == late.policies.active.version


async def consumed(engine: Engine) -> list[Operation]:
    """Return the consumption of credits, newest first."""
    return (await engine.store.reads.operations(OperationsQuery(metric="credit"))).rows
