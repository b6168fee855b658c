"""Loads of the limiters without HTTP: one caller per connection, each looking at three windows."""

import asyncio
import time
from random import Random
from statistics import quantiles
from time import perf_counter

import uvloop

from benchmarks.wrk import CONNECTIONS, Sample
from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.redis.limiter import RedisLimiter
from entitlements.app.limits.limiter import Limiter
from entitlements.core.model import Subject
from entitlements.core.windows import SLICES, LimitQuery, Use, WindowKey

SUBJECTS = 1_000
METRICS = ("cj_comparison", "ai_feedback_generation", "spellcheck")
DAY_S = 86_400
NO_LIMIT = 10**12


def redis_load(url: str, *, subjects: int, seconds: int) -> Sample:
    """Look for a while at the windows of ``subjects`` users, with every slice in use."""
    return uvloop.run(_redis(url, subjects, seconds))


def memory_load(*, subjects: int, seconds: int) -> Sample:
    """As `redis_load`, in this process's memory."""
    return uvloop.run(_memory(subjects, seconds))


class Clock:
    """A settable clock, for filling the windows."""

    def __init__(self) -> None:
        self.ms = _now_ms()

    def __call__(self) -> int:
        return self.ms


async def _redis(url: str, subjects: int, seconds: int) -> Sample:
    clock = Clock()
    async with RedisLimiter(url, call_s=10, clock_ms=clock) as filling:
        await _fill(filling, clock, subjects)
    async with RedisLimiter(url) as limiter:
        sample = await _look(limiter, subjects, seconds)
        assert not limiter.failures
        return sample


async def _memory(subjects: int, seconds: int) -> Sample:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    await _fill(limiter, clock, subjects)
    return await _look(limiter, subjects, seconds)


async def _fill(limiter: Limiter, clock: Clock, subjects: int) -> None:
    now_ms = clock.ms
    for ago in range(SLICES, -1, -1):
        clock.ms = now_ms - ago * DAY_S * 1_000 // SLICES
        for number in range(subjects):
            limiter.count([Use(query.window, 1) for query in _asks(number)])
        await limiter.peek(_asks(0))


async def _look(limiter: Limiter, subjects: int, seconds: int) -> Sample:
    random = Random(1)
    asked = [_asks(number) for number in range(subjects)]
    waits_s: list[float] = []
    started = perf_counter()

    async def caller() -> None:
        while (asked_at := perf_counter()) < started + seconds:
            states = await limiter.peek(asked[random.randrange(subjects)])
            assert all(state.passes and state.used for state in states)
            waits_s.append(perf_counter() - asked_at)

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    rate = len(waits_s) / (perf_counter() - started)
    percentiles = quantiles(waits_s, n=100)
    return Sample(
        rate=rate,
        p50_ms=percentiles[49] * 1000,
        p99_ms=percentiles[98] * 1000,
        operations=len(waits_s),
    )


def _asks(number: int) -> list[LimitQuery]:
    subject = Subject("user", f"user-{number}")
    return [LimitQuery(WindowKey(subject, metric, DAY_S), NO_LIMIT, 1) for metric in METRICS]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
