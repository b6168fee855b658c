"""The contract of limiters, tested for the one in memory and the one in Redis."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.redis.limiter import RedisLimiter, key_of
from entitlements.app.limits.limiter import Limiter
from entitlements.core.model import Subject
from entitlements.core.windows import (
    Cause,
    LimitQuery,
    Use,
    WarnLevel,
    Window,
    WindowKey,
    WindowState,
)
from tests.profiles import examples
from tests.servers import Redis
from tests.waiting import until

WINDOWS = Path(__file__).parents[3] / "conformance" / "limits" / "windows.json"
EXAMPLES = json.loads(WINDOWS.read_text("utf-8"))
START_MS = 1_800_000_000_000
HOUR = WindowKey(Subject("user", "ada"), "cj", 3_600)
IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(
    ["a:b", "a%3Ab", "a}", "{entitlements}", "60", "a:cj:60", "å", "a\n", "*", "\0"]
)


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


def a_limiter(url: str, clock: Clock | None = None) -> RedisLimiter:
    """A limiter with longer timeouts than in service, so that a busy machine fails no test."""
    return RedisLimiter(url, call_s=5, clock_ms=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Limiter]:
    if request.param == "memory":
        yield MemoryLimiter(clock)
        return
    async with a_limiter(request.getfixturevalue("redis_url"), clock) as shared:
        yield shared


def key(named: list[Any]) -> WindowKey:
    subject_type, subject_id, metric, window_s = named
    return WindowKey(Subject(subject_type, subject_id), metric, window_s)


@pytest.mark.parametrize("case", EXAMPLES["cases"], ids=lambda case: case["name"])
async def test_example(case: dict[str, Any], limiter: Limiter, clock: Clock) -> None:
    for step in case["steps"]:
        clock.ms = EXAMPLES["start_ms"] + step["at_ms"]
        if "record" in step:
            limiter.count([Use(key(window), units) for window, units in step["record"]])
            # Wait until the use is recorded before the manual clock moves on.
            await limiter.peek([LimitQuery(HOUR, 0, 0)])
        elif "reset" in step:
            await limiter.reset([key(window) for window in step["reset"]])
        else:
            states = await limiter.peek(
                [LimitQuery(key(window), *rest) for window, *rest in step["look"]]
            )
            assert states == [WindowState(*expected) for expected in step["standings"]], step


class Exact:
    """An exact model that keeps every use with its time."""

    def __init__(self) -> None:
        self._uses: list[tuple[int, int]] = []

    def add(self, at_ms: int, units: int) -> None:
        self._uses.append((at_ms, units))

    def used(self, now_ms: int, span_ms: float) -> int:
        return sum(units for at_ms, units in self._uses if now_ms - at_ms < span_ms)


STEPS = st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 1_000)), max_size=40)


@pytest.mark.parametrize("window_s", [1, 7, 60, 100])
@given(steps=STEPS, offset_ms=st.integers(0, 10**9))
def test_a_window_never_undercounts_and_counts_at_most_one_sixtieth_longer(
    window_s: int, steps: list[tuple[int, int]], offset_ms: int
) -> None:
    window, exact, now = Window(window_s), Exact(), START_MS + offset_ms
    for passed_ms, units in steps:
        now += passed_ms * window_s // 60
        window.add(now, units)
        exact.add(now, units)

        used = window.used(now)

        assert exact.used(now, window_s * 1_000) <= used
        assert used <= exact.used(now, window_s * 1_000 * 61 / 60)


@given(steps=STEPS, window_s=st.sampled_from([1, 7, 60, 100]), offset_ms=st.integers(0, 10**9))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=examples(40, long=1_000),
)
def test_redis_counts_as_exactly_as_memory(
    redis_server: Redis, steps: list[tuple[int, int]], window_s: int, offset_ms: int
) -> None:
    async def run() -> None:
        clock, exact, memory = Clock(), Exact(), Window(window_s)
        clock.ms += offset_ms
        window = WindowKey(Subject("user", "ada"), "cj", window_s)
        async with a_limiter(redis_server.url, clock) as limiter:
            for passed_ms, units in steps:
                clock.ms += passed_ms * window_s // 60
                exact.add(clock.ms, units)
                memory.add(clock.ms, units)
                limiter.count([Use(window, units)])

                state, refused = await limiter.peek(
                    [LimitQuery(window, 1, 0), LimitQuery(window, 1, 1)]
                )

                assert exact.used(clock.ms, window_s * 1_000) <= state.used
                assert state.used <= exact.used(clock.ms, window_s * 1_000 * 61 / 60)
                assert refused == memory.state(clock.ms, 1, 1)

    redis_server.command("FLUSHDB")
    asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
async def test_redis_and_memory_agree_over_a_long_history(seed: int, redis_url: str) -> None:
    clock, random = Clock(), Random(seed)
    memory = MemoryLimiter(clock)
    subjects = [Subject("user", "ada"), Subject("org", "ada")]
    windows = [WindowKey(subject, "cj", s) for subject in subjects for s in (1, 7, 60, 3_600)]
    async with a_limiter(redis_url, clock) as shared:
        for _ in range(1_500):
            clock.ms += random.choice([0, 0, 0, 1, 17, 500, 1_000, 30_000, 61_000, 3_700_000])
            queries = [
                LimitQuery(
                    random.choice(windows), random.choice([0, 1, 5, 50]), random.choice([0, 1, 7])
                )
                for _ in range(random.randint(1, 4))
            ]
            act = random.choice(["look", "look", "record", "reset"])
            if act == "record":
                uses = [Use(ask.window, ask.amount) for ask in queries]
                memory.count(uses)
                shared.count(uses)
            elif act == "reset":
                await asyncio.gather(*(one.reset([queries[0].window]) for one in (memory, shared)))
            assert await shared.peek(queries) == await memory.peek(queries)


@given(st.lists(st.tuples(IDS, IDS, st.integers(1, 10**7)), min_size=2, max_size=2, unique=True))
@example([("a", "b:60", 60), ("a:b", "60", 60)])
@example([("a:b", "c", 60), ("a", "b:c", 60)])
@example([("a%3Ab", "c", 60), ("a:b", "c", 60)])
def test_different_windows_have_different_keys(named: list[tuple[str, str, int]]) -> None:
    one, other = (key_of(WindowKey(Subject("user", i), m, s)) for i, m, s in named)

    assert one != other
    assert one.startswith(b"{entitlements}:")
    assert one.count(b"{") == one.count(b"}") == 1


def test_an_org_and_a_user_with_one_id_have_different_keys() -> None:
    assert key_of(HOUR) != key_of(HOUR._replace(subject=Subject("org", "ada")))


async def test_a_look_sees_everything_recorded_before_it(limiter: Limiter) -> None:
    looks = []
    for _ in range(50):
        limiter.count([Use(HOUR, 1)])
        looks.append(asyncio.create_task(limiter.peek([LimitQuery(HOUR, 100, 0)])))
        await asyncio.sleep(0)

    seen = [state.used for (state,) in await asyncio.gather(*looks)]

    assert all(used >= n for n, used in enumerate(seen, start=1))
    assert seen[-1] == 50


def warned(window: WindowKey, amount: int) -> Use:
    return Use(window, amount, WarnLevel(10, 8, Cause("c", "ada", None, None)))


async def test_uses_with_a_warn_level_are_reported_with_the_units_after_the_call(
    limiter: Limiter,
) -> None:
    seen: list[tuple[Use, int]] = []
    org = HOUR._replace(subject=Subject("org", "ada"))
    uses = [warned(HOUR, 3), Use(org, 5), Use(HOUR, 1)]
    uses += [warned(org, 2), warned(HOUR, 7), warned(org, 4)]

    limiter.count([Use(HOUR, 2)], lambda *reported: seen.append(reported))
    limiter.count(uses[:1], lambda *reported: seen.append(reported))
    limiter.count(uses[1:], lambda *reported: seen.append(reported))
    limiter.count([warned(HOUR, 1)])
    await until(lambda: len(seen) == 4)
    await limiter.peek([LimitQuery(HOUR, 10, 0)])

    assert seen == [(uses[0], 5), (uses[3], 11), (uses[4], 13), (uses[5], 11)]


async def test_reports_of_many_uses_are_complete(limiter: Limiter) -> None:
    seen: list[tuple[Use, int]] = []
    uses = [warned(HOUR._replace(metric=f"m{n % 4_500}"), 1) for n in range(5_000)]

    limiter.count(uses, lambda *reported: seen.append(reported))
    await until(lambda: len(seen) == len(uses))

    assert [use for use, _ in seen] == uses
    assert [used for _, used in seen[-500:]] == [2] * 500


async def test_empty_calls_do_nothing(limiter: Limiter) -> None:
    limiter.count([])
    await limiter.reset([])

    assert await limiter.peek([]) == []


async def test_two_processes_count_in_the_same_windows(redis_url: str) -> None:
    async with a_limiter(redis_url) as one, a_limiter(redis_url) as other:
        one.count([Use(HOUR, 4)])
        await one.peek([LimitQuery(HOUR, 10, 1)])

        assert [state.used for state in await other.peek([LimitQuery(HOUR, 10, 1)])] == [4]


async def test_large_records_are_sent_in_parts(redis_url: str) -> None:
    many = [HOUR._replace(metric=f"m{n}") for n in range(5_000)]
    async with a_limiter(redis_url) as limiter:
        limiter.count([Use(window, 1) for window in many])

        states = await limiter.peek([LimitQuery(window, 1, 1) for window in (many[0], many[-1])])

    assert [state.used for state in states] == [1, 1]


async def test_windows_expire_in_redis(redis_server: Redis, redis_url: str) -> None:
    async with a_limiter(redis_url) as limiter:
        limiter.count([Use(HOUR, 1)])

    lifetime = redis_server.command("PTTL", key_of(HOUR))
    assert isinstance(lifetime, int)
    assert 3_650_000 < lifetime <= 3_660_000


async def test_expired_slices_are_deleted_from_redis_at_the_next_use(
    redis_server: Redis, redis_url: str
) -> None:
    clock = Clock()
    async with a_limiter(redis_url, clock) as limiter:
        for _ in range(200):
            clock.ms += 61_000
            limiter.count([Use(HOUR, 10)])
            await limiter.peek([LimitQuery(HOUR, 1, 1)])

    assert redis_server.command("HLEN", key_of(HOUR)) == 60 + 2
