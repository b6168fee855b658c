"""Metrics of the queue, the database, the outbox, the policy, the limiter and the invariants."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import apsw
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.redis import limiter as redis_limiter
from entitlements.app.access.keys import Role
from entitlements.app.engine import _keep_up
from entitlements.app.policy.active import activate
from entitlements.app.ports import StoreUnavailable
from entitlements.app.process.clock import utc_now
from entitlements.app.verify.findings import Finding
from entitlements.app.verify.schedule import Verifier
from entitlements.core.model import Subject
from entitlements.core.windows import LimitQuery, Use, WindowKey
from entitlements.service.compose import build
from entitlements.settings import load
from tests.concurrency.scene import grant, user
from tests.logs import captured_logs
from tests.servers import RedisServer
from tests.transports.http.api import Api
from tests.waiting import until


async def samples(api: Api) -> dict[str, float]:
    """Return all samples by name and labels."""
    text = (await api.call("GET", "/metrics")).text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.fixture
async def on_postgres(postgres_url: str) -> AsyncIterator[Api]:
    settings = load(database_url=postgres_url, database_pool_max=3)
    await migrate_at(postgres_url, None)
    async with AsyncExitStack() as stack:
        yield Api(await stack.enter_async_context(build(settings)), stack)


async def test_batches_are_counted_by_their_size(api: Api) -> None:
    committer = api.system.engine.committer
    together = [grant(user(f"u{n}"), 1) for n in range(5)]

    await committer.submit(grant(user("ada"), 1))
    await asyncio.gather(*(committer.submit(command) for command in together))

    seen = await samples(api)
    assert seen["entitlements_batch_size_count"] == 2
    assert seen["entitlements_batch_size_sum"] == 6
    assert seen['entitlements_batch_size_bucket{le="4.0"}'] == 1


async def test_the_outbox_is_measured_in_the_background(api: Api) -> None:
    await api.announce("ada")
    before = await samples(api)

    await _keep_up(api.system.engine)

    after, later = await samples(api), await samples(api)
    age = "entitlements_outbox_age_seconds"
    assert "entitlements_outbox_depth" not in before
    assert after["entitlements_outbox_depth"] == 1
    assert 0 <= after[age] < later[age] < 60


async def test_pool_metrics_show_connections_and_waiting_requests(on_postgres: Api) -> None:
    store = on_postgres.system.engine.store
    assert isinstance(store, PostgresStore)
    await on_postgres.as_role(Role.ADMIN)  # looks the key up in the database now
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(store.db.connection())
        asking = asyncio.create_task(store.ping())
        await until(lambda: store.connections().waiting == 1)

        full = await samples(on_postgres)

    await asking
    calm = await samples(on_postgres)
    assert [pool_of(full), pool_of(calm)] == [(0, 3, 1, 3), (3, 0, 0, 3)]


def pool_of(seen: dict[str, float]) -> tuple[float, ...]:
    """Return the numbers of idle, busy and waiting, and the maximum."""
    name = "entitlements_database_pool_"
    keys = ('connections{state="idle"}', 'connections{state="busy"}', "waiting", "max")
    return tuple(seen[name + key] for key in keys)


async def test_a_cancelled_wait_for_a_connection_is_no_longer_counted(on_postgres: Api) -> None:
    store = on_postgres.system.engine.store
    assert isinstance(store, PostgresStore)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(store.db.connection())
        asking = asyncio.create_task(store.ping())
        await until(lambda: store.connections().waiting == 1)

        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        await until(lambda: store.connections().waiting == 0)


async def test_policy_changes_and_problems_are_counted(api: Api) -> None:
    policies, store = api.system.engine.policies, api.system.engine.store
    start = await samples(api)
    await activate(store.policies, "costs: {essay: 2}", source="cli", name="test", act=api.act())
    await policies.refresh(store.policies)
    await policies.refresh(store.policies)
    changed = await samples(api)
    policies.set_problem("file", "policy.yaml:1: is broken")
    broken = await samples(api)

    name = "entitlements_policy_"
    assert start[name + 'loads_total{source="file"}'] == 1
    assert changed[name + 'loads_total{source="database"}'] == 1
    assert changed[name + "cache_hits_total"] > start[name + "cache_hits_total"]
    assert changed[name + "cache_misses_total"] == start[name + "cache_misses_total"] + 1
    assert changed[name + "lookup_duration_seconds_count"] >= 2
    assert changed[name + 'problems{source="file"}'] == 0
    assert broken[name + 'problems{source="file"}'] == 1


async def test_an_unavailable_limiter_is_counted(
    crashable_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_limiter, "PROBE_S", 60)
    url = f"sqlite:///{tmp_path}/books.db"
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            build(load(database_url=url, redis_url=crashable_redis.url))
        )
        api = Api(system, stack)
        use = Use(WindowKey(Subject("user", "ada"), "cj_comparison", 86_400), 1)
        before = await samples(api)

        crashable_redis.kill()
        await system.engine.limits.peek([LimitQuery(use.window, 10, 1)])
        system.engine.limits.count([use, use])

        after = await samples(api)
        names = ["degraded", "failures_total", "dropped_uses_total"]
        assert [before[f"entitlements_limiter_{name}"] for name in names] == [0, 0, 0]
        assert [after[f"entitlements_limiter_{name}"] for name in names] == [1, 1, 2]
        assert after["entitlements_limit_events_dropped_total"] == 0


async def test_a_verification_reports_its_violations(api: Api, tmp_path: Path) -> None:
    violations = 'entitlements_invariant_violations{check="balance_is_the_sum_of_deltas"}'
    await api.give("user:ada", 10)
    assert violations not in await samples(api)

    await api.system.verifier.verify()
    sound = await samples(api)
    with apsw.Connection(str(tmp_path / "books.db")) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE credit_operations SET delta = delta + 1")
    await api.system.verifier.verify()
    spoiled = await samples(api)

    assert (sound[violations], spoiled[violations]) == (0, 1)
    proved = "entitlements_books_proved_timestamp_seconds"
    assert spoiled[proved] >= sound[proved] > 0


async def test_verification_continues_on_schedule_after_errors() -> None:
    rounds = iter([StoreUnavailable("away"), ValueError("a bug"), None])
    seen = asyncio.Event()

    async def verify() -> list[Finding]:
        if (error := next(rounds, None)) is not None:
            raise error
        seen.set()
        return []

    verifier = Verifier(verify, ["one"], utc_now)
    with captured_logs() as logs:
        async with verifier.running(0.001):
            await asyncio.wait_for(seen.wait(), 10)

    assert verifier.violations == {"one": 0}
    assert [line["event"] for line in logs] == 2 * ["verification.failed"]


async def test_verification_does_not_run_unless_enabled() -> None:
    async def verify() -> list[Finding]:
        raise AssertionError

    verifier = Verifier(verify, [], utc_now)
    async with verifier.running(0):
        await asyncio.sleep(0)

    assert verifier.violations is None
