"""Redis is paused, killed, emptied or cut off: no call waits long and nothing counts twice."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis.exceptions import ResponseError

from entitlements.adapters.redis import limiter as module
from entitlements.adapters.redis.limiter import RedisLimiter, problem_of
from entitlements.app.limits.limiter import LimiterUnavailable
from entitlements.core.model import Subject
from entitlements.core.windows import LimitQuery, Use, WindowKey
from tests.logs import captured_logs
from tests.proxy import Proxy, Replies
from tests.servers import Redis, RedisServer, free_port
from tests.waiting import until

ONE = LimitQuery(WindowKey(Subject("user", "ada"), "cj", 3_600), 1_000_000, 1)
CLIENTS = 64


@pytest.fixture(autouse=True)
def _soon_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_S", 0.02)


async def used(limiter: RedisLimiter) -> int:
    (state,) = await limiter.peek([ONE])
    return state.used


async def count(limiter: RedisLimiter) -> None:
    """Record one use; the look after it waits until it is sent."""
    limiter.count([Use(ONE.window, 1)])
    await limiter.peek([ONE])


class Load:
    """Clients that call `look` continuously and measure the duration of each call."""

    def __init__(self, limiter: RedisLimiter) -> None:
        self._limiter = limiter
        self.answered = 0
        self.refused_s: list[float] = []
        self.longest_s = 0.0
        self.lag_s = 0.0
        """The summed delay of the event loop, which a busy machine causes and not the limiter."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        works = [self._client() for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(work) for work in (self._watch(), *works)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    def forget(self) -> None:
        self.answered, self.longest_s, self.lag_s = 0, 0.0, 0.0
        self.refused_s.clear()

    async def _client(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._limiter.peek([ONE])
                self.answered += 1
            except LimiterUnavailable:
                self.refused_s.append(loop.time() - began)
                self.longest_s = max(self.longest_s, self.refused_s[-1])
                await asyncio.sleep(0.001)
            else:
                self.longest_s = max(self.longest_s, loop.time() - began)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0.005)
            self.lag_s += loop.time() - began - 0.005


async def test_a_paused_redis_delays_calls_once_and_then_not_at_all(
    crashable_redis: RedisServer,
) -> None:
    async with RedisLimiter(crashable_redis.url) as limiter:
        load = Load(limiter)
        async with load.running():
            await until(lambda: load.answered > 1_000)
            load.forget()

            crashable_redis.pause()
            await until(lambda: bool(load.refused_s))
            await until(lambda: len(load.refused_s) >= CLIENTS)
            assert load.longest_s <= 0.15 + load.lag_s

            load.forget()
            await until(lambda: len(load.refused_s) > 1_000)
            assert load.answered == 0
            with pytest.raises(LimiterUnavailable):
                limiter.peek([ONE]).send(None)  # refused without waiting

            crashable_redis.resume()
            load.forget()
            await until(lambda: load.answered > 1_000)
        assert limiter.failures == 1


async def test_a_killed_redis_is_reconnected_automatically(crashable_redis: RedisServer) -> None:
    async with RedisLimiter(crashable_redis.url) as limiter:
        await count(limiter)

        crashable_redis.kill()
        with pytest.raises(LimiterUnavailable):
            await count(limiter)
        assert not limiter.is_available
        crashable_redis.start()
        await until(lambda: limiter.is_available)

        assert await used(limiter) == 0, "Redis kept the counts in memory only"
        await count(limiter)
        assert await used(limiter) == 1


async def test_a_redis_that_starts_later_is_connected() -> None:
    server = RedisServer()
    async with RedisLimiter(server.url) as limiter:
        with pytest.raises(LimiterUnavailable):
            await limiter.peek([ONE])

        with server:
            await until(lambda: limiter.is_available)

            assert await used(limiter) == 0


async def test_a_connection_lost_while_idle_fails_no_call(
    crashable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.01)
    async with RedisLimiter(crashable_redis.url) as limiter:
        await count(limiter)

        crashable_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: limiter.failures == 1)
        await until(lambda: limiter.is_available)

        assert await used(limiter) == 1


async def test_flushed_windows_start_from_zero(redis_server: Redis, redis_url: str) -> None:
    async with RedisLimiter(redis_url) as limiter:
        await count(limiter)

        redis_server.command("FLUSHDB")

        assert await used(limiter) == 0
        assert limiter.failures == 0


async def test_a_flushed_script_is_loaded_again(crashable_redis: RedisServer) -> None:
    async with RedisLimiter(crashable_redis.url) as limiter:
        for _ in range(3):
            crashable_redis.command("SCRIPT", "FLUSH")
            await count(limiter)

        assert await used(limiter) == 3
        assert limiter.failures == 0


@asynccontextmanager
async def through_a_proxy(server: Redis) -> AsyncIterator[tuple[RedisLimiter, Proxy]]:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    async with Proxy(port) as proxy, RedisLimiter(f"redis://127.0.0.1:{proxy.port}") as limiter:
        yield limiter, proxy


async def test_a_use_without_a_response_counts_once(crashable_redis: RedisServer) -> None:
    async with through_a_proxy(crashable_redis) as (limiter, proxy):
        await count(limiter)
        for _ in range(4):
            proxy.replies = Replies.DROPPED
            with pytest.raises(LimiterUnavailable):
                await count(limiter)
            proxy.replies = Replies.PASSED_ON
            await until(lambda: limiter.is_available)

        assert await used(limiter) == 5


async def test_a_recorded_use_without_a_response_counts_once(
    crashable_redis: RedisServer,
) -> None:
    async with through_a_proxy(crashable_redis) as (limiter, proxy):
        await limiter.peek([ONE])  # loads the script into the server
        proxy.replies = Replies.DROPPED
        limiter.count([Use(ONE.window, 7)])
        await until(lambda: limiter.dropped_uses == 1)
        proxy.replies = Replies.PASSED_ON
        await until(lambda: limiter.is_available)

        assert await used(limiter) == 7


async def test_a_connection_that_is_cut_under_load_counts_nothing_twice(
    crashable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEADY_S", 0)
    async with through_a_proxy(crashable_redis) as (limiter, proxy):
        sent = 0

        async def client() -> None:
            nonlocal sent
            while limiter.failures < 5:
                sent += 1
                with suppress(LimiterUnavailable):
                    await count(limiter)
                await asyncio.sleep(0)  # an immediate refusal does not yield to other tasks

        async def cutter() -> None:
            while limiter.failures < 5:
                await until(lambda: limiter.is_available)
                proxy.cut()
                await asyncio.sleep(0.01)

        await asyncio.gather(cutter(), *(client() for _ in range(16)))
        await until(lambda: limiter.is_available)

        assert 0 < await used(limiter) <= sent


async def test_a_response_that_is_read_late_is_accepted(
    crashable_redis: RedisServer,
) -> None:
    async with RedisLimiter(crashable_redis.url) as limiter:
        await count(limiter)
        crashable_redis.command("CLIENT", "PAUSE", 50, "ALL")
        looking = asyncio.create_task(limiter.peek([ONE]))
        for _ in range(20):  # until it is sent
            await asyncio.sleep(0)

        time.sleep(0.2)  # noqa: ASYNC251 - blocks the loop on purpose
        crashable_redis.command("PING")  # answered after the request, however busy the machine is

        assert [state.used for state in await looking] == [1]
        assert limiter.failures == 0


async def test_a_cancelled_caller_does_not_disturb_others(crashable_redis: RedisServer) -> None:
    windows = [ONE.window._replace(metric=f"m{n}") for n in range(20)]
    async with through_a_proxy(crashable_redis) as (limiter, proxy):
        limiter.count([Use(window, n) for n, window in enumerate(windows)])
        await count(limiter)
        asked = proxy.requests
        proxy.replies = Replies.HELD_BACK
        first = [asyncio.create_task(limiter.peek([ONE._replace(window=w)])) for w in windows[:10]]
        await until(lambda: proxy.requests > asked)
        later = [asyncio.create_task(limiter.peek([ONE._replace(window=w)])) for w in windows[10:]]
        given_up = asyncio.create_task(limiter.reset([ONE.window]))
        await asyncio.sleep(0)

        for task in (*first[::2], *later[::2], given_up):
            task.cancel()
        proxy.release()

        answers = await asyncio.gather(*first[1::2], *later[1::2])
        assert [state.used for (state,) in answers] == list(range(1, 20, 2))
        assert await used(limiter) == 1, "a reset cancelled before it was sent is not applied"
        assert limiter.failures == 0


async def test_recording_never_waits_and_its_queue_is_bounded(
    crashable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORDS_MAX", 100)
    async with RedisLimiter(crashable_redis.url) as limiter:
        for _ in range(250):
            limiter.count([Use(ONE.window, 1)])

        assert await used(limiter) == 100
        assert limiter.dropped_uses == 150
        limiter.count([Use(ONE.window, 1)])
        assert await used(limiter) == 101


async def test_uses_that_cannot_be_recorded_are_counted_as_dropped() -> None:
    async with RedisLimiter(f"redis://127.0.0.1:{free_port()}") as limiter:
        limiter.count([Use(ONE.window, 1), Use(ONE.window, 1)])

        assert limiter.dropped_uses == 2


async def test_closing_sends_the_queued_uses_and_leaves_no_task(redis_url: str) -> None:
    before = asyncio.all_tasks()
    async with RedisLimiter(redis_url) as limiter:
        limiter.count([Use(ONE.window, 1)])
    async with RedisLimiter(redis_url) as another:
        assert await used(another) == 1

    assert asyncio.all_tasks() == before
    with pytest.raises(LimiterUnavailable):
        await limiter.peek([ONE])


Commands = tuple[tuple[str | int, ...], ...]

REFUSING: dict[str, tuple[str, Commands, Commands]] = {
    "OOM": (
        "is out of memory",
        (("CONFIG", "SET", "maxmemory", 1),),
        (("CONFIG", "SET", "maxmemory", 0),),
    ),
    "READONLY": (
        "is a read-only replica",
        (("REPLICAOF", "127.0.0.1", 9),),
        (("REPLICAOF", "NO", "ONE"),),
    ),
    "MASTERDOWN": (
        "is a replica without its primary",
        (("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", 9)),
        (("REPLICAOF", "NO", "ONE"),),
    ),
    "NOREPLICAS": (
        "takes no writes because it has too few replicas",
        (("CONFIG", "SET", "min-replicas-to-write", 1),),
        (("CONFIG", "SET", "min-replicas-to-write", 0),),
    ),
    "NOPERM": (
        "does not let this user run the script",
        (("ACL", "SETUSER", "default", "-hset"),),
        (("ACL", "SETUSER", "default", "+hset"),),
    ),
}


@pytest.mark.parametrize("code", REFUSING)
async def test_a_redis_that_refuses_writes_is_unavailable_until_it_accepts_them(
    crashable_redis: RedisServer, code: str
) -> None:
    problem, refuse, accept = REFUSING[code]
    async with RedisLimiter(crashable_redis.url) as limiter:
        await count(limiter)
        for command in refuse:
            crashable_redis.command(*command)
        with pytest.raises(LimiterUnavailable):
            await count(limiter)

        tried = connections(crashable_redis)
        while connections(crashable_redis) < tried + 10:  # each check adds one, each probe one
            assert not limiter.is_available
            await asyncio.sleep(0.01)

        assert (limiter.failures, limiter.problem) == (1, problem)
        for command in accept:
            crashable_redis.command(*command)
        await until(lambda: limiter.is_available)
        assert limiter.problem is None
        await count(limiter)
        assert await used(limiter) >= 1


def connections(server: Redis) -> int:
    """Return the number of connections that the server has accepted."""
    info = server.command("INFO", "stats")
    assert isinstance(info, dict)
    return int(info["total_connections_received"])


async def test_a_wrong_password_is_reported_until_it_is_right(
    crashable_redis: RedisServer,
) -> None:
    crashable_redis.command("CONFIG", "SET", "requirepass", "right")
    url = crashable_redis.url.replace("//", "//:wrong@")
    with captured_logs() as lines:
        async with RedisLimiter(url) as limiter:
            assert limiter.problem == "refuses the user or password"
            with pytest.raises(LimiterUnavailable):
                await count(limiter)
            admitted = Redis(crashable_redis.url.replace("//", "//:right@"))
            admitted.command("CONFIG", "SET", "requirepass", "wrong")
            await until(lambda: limiter.is_available)
            await count(limiter)

    assert [line["event"] for line in lines] == ["limiter.lost", "limiter.reached"]
    assert "wrong" not in str(lines)


async def test_a_cluster_node_that_cannot_serve_the_keys_is_reported() -> None:
    with RedisServer({"cluster-enabled": "yes"}) as server:
        async with RedisLimiter(server.url) as limiter:
            assert limiter.problem == "is a node of a cluster that is down"
            with pytest.raises(LimiterUnavailable):
                await count(limiter)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ResponseError("MOVED 866 10.0.0.1:6379"), "is a cluster node without the limits' keys"),
        (ResponseError("ASK 866 10.0.0.1:6379"), "is a cluster node without the limits' keys"),
        (ResponseError("Error running script: -OOM command not allowed"), "is out of memory"),
        (ResponseError("MISCONF cannot save"), "takes no writes because it cannot save them"),
        (TimeoutError(), "cannot be reached"),
        (OSError("host 10.0.0.1 refused"), "cannot be reached"),
    ],
)
def test_the_problem_names_no_host(error: Exception, problem: str) -> None:
    assert problem_of(error) == problem


async def test_a_redis_that_refuses_writes_is_probed_only_at_intervals(
    crashable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBE_S", 60)
    async with RedisLimiter(crashable_redis.url) as limiter:
        crashable_redis.command("CONFIG", "SET", "maxmemory", "1")
        for _ in range(100):
            with pytest.raises(LimiterUnavailable):
                await count(limiter)

        assert limiter.failures == 1
