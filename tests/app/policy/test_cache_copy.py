"""The copy of the active policy in Redis; the service never depends on it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from entitlements.adapters.redis.policy_copy import KEY, RedisPolicyCopy
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.policy.active import Policies, activate
from entitlements.app.policy.cache_copy import PolicyCopier
from entitlements.app.policy.watch import PolicyWatch
from entitlements.service.compose import build
from entitlements.settings import load
from tests.concurrency.scene import an_act
from tests.logs import captured_logs
from tests.servers import Redis, RedisServer, free_port
from tests.waiting import until

TEXT = "costs: {essay: 1}\ncache_ttl: 60\n"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "books.db")
    await store.migrate()
    yield store
    await store.close()


async def a_watch(
    store: SqliteStore, copy: RedisPolicyCopy, *, ttl_s: int | None = None
) -> PolicyWatch:
    policies = await Policies.start(store.policies, TEXT, name="test", act=an_act())
    copier = PolicyCopier(store.policies, policies, copy, ttl_s)
    return PolicyWatch(store.policies, policies, an_act, copier=copier)


def copied(server: Redis) -> dict[str, str]:
    value = server.command("GET", KEY)
    assert isinstance(value, bytes)
    found: dict[str, str] = msgspec.json.decode(value)
    return found


async def test_the_copy_follows_the_active_policy(
    store: SqliteStore, redis_server: Redis, redis_url: str
) -> None:
    async with RedisPolicyCopy(redis_url) as copy:
        watch = await a_watch(store, copy)
        await watch.poll()
        assert copied(redis_server)["content"] == TEXT
        assert redis_server.command("TTL", KEY) in (59, 60)

        text = TEXT.replace("60", "90")
        policy, _ = await activate(store.policies, text, source="cli", name="test", act=an_act())
        await watch.poll()
        assert copied(redis_server) == {"version": policy.version, "content": text}
        assert redis_server.command("TTL", KEY) in (89, 90)


async def test_the_ttl_setting_overrides_the_policys_cache_ttl(
    store: SqliteStore, redis_server: Redis, redis_url: str
) -> None:
    async with RedisPolicyCopy(redis_url) as copy:
        await (await a_watch(store, copy, ttl_s=500)).poll()

    assert redis_server.command("TTL", KEY) in (499, 500)


async def test_the_copy_is_refreshed_after_half_its_ttl_and_not_before(
    store: SqliteStore, redis_server: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("entitlements.app.policy.cache_copy.monotonic", lambda: now)
    async with RedisPolicyCopy(redis_url) as copy:
        watch = await a_watch(store, copy)
        await watch.poll()
        redis_server.command("DEL", KEY)
        now = 1029.0
        await watch.poll()
        assert redis_server.command("GET", KEY) is None
        now = 1031.0
        await watch.poll()
        assert copied(redis_server)["content"] == TEXT


async def test_a_cache_ttl_of_0_disables_the_copy(
    store: SqliteStore, redis_server: Redis, redis_url: str
) -> None:
    async with RedisPolicyCopy(redis_url) as copy:
        watch = await a_watch(store, copy)
        await watch.poll()
        text = TEXT.replace("60", "0")
        await activate(store.policies, text, source="cli", name="test", act=an_act())
        await watch.poll()

    assert redis_server.command("GET", KEY) is None


async def test_an_unavailable_redis_is_logged_once_and_has_no_other_effect(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("entitlements.app.policy.cache_copy.monotonic", lambda: now)
    async with RedisPolicyCopy(f"redis://127.0.0.1:{free_port()}/0") as copy:
        watch = await a_watch(store, copy)
        with captured_logs() as logs:
            for now in (1000.0, 1001.0, 1006.0, 1012.0):  # noqa: B007 - the clock reads it
                await watch.poll()

    assert [line["event"] for line in logs] == ["policy.copy_failed"]


async def test_a_redis_that_hangs_delays_no_look_for_long(
    store: SqliteStore, crashable_redis: RedisServer
) -> None:
    async with RedisPolicyCopy(crashable_redis.url) as copy:
        watch = await a_watch(store, copy)
        await watch.poll()
        await activate(store.policies, TEXT + "# more\n", source="cli", name="test", act=an_act())
        crashable_redis.pause()
        with captured_logs() as logs:
            await watch.poll()
        crashable_redis.resume()

    assert [line["event"] for line in logs] == ["policy.changed", "policy.copy_failed"]


@pytest.mark.parametrize("options", ["", "?socket_timeout=5"])
async def test_writing_the_copy_can_be_cancelled_at_any_moment(
    redis_url: str, options: str
) -> None:
    async with RedisPolicyCopy(redis_url + options) as copy:
        await copy.put("v", TEXT, ttl_s=60)
        for turns in range(20):
            putting = asyncio.create_task(copy.put("v", TEXT, ttl_s=60))
            for _ in range(turns):
                await asyncio.sleep(0)

            if putting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await putting


async def test_a_service_with_redis_keeps_the_copy(
    tmp_path: Path, redis_server: Redis, redis_url: str
) -> None:
    settings = load(
        database_url=f"sqlite:///{tmp_path}/service.db", redis_url=redis_url, policy_cache_ttl=77
    )
    async with build(settings) as system:
        await until(lambda: redis_server.command("GET", KEY) is not None)
        assert copied(redis_server)["version"] == system.engine.policies.active.version
    assert redis_server.command("TTL", KEY) in (76, 77)
