"""Behaviour while the shared limiter is unavailable, by the policy's `limiter_down`."""

from collections.abc import AsyncIterator

import pytest

from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.redis.limiter import RedisLimiter
from entitlements.app.limits.limiter import LimiterUnavailable, Limits, PeekResult, Report
from entitlements.app.policy.active import Policies
from entitlements.core.model import Subject
from entitlements.core.policy import LimiterDown
from entitlements.core.windows import (
    Cause,
    LimitQuery,
    Use,
    WarnLevel,
    WindowKey,
    WindowState,
)
from tests.servers import RedisServer, free_port
from tests.stores.clerk import a_policy

NOW_MS = 1_800_000_000_000
CJ = LimitQuery(WindowKey(Subject("user", "ada"), "cj", 60), 5, 1)


@pytest.fixture
async def away() -> AsyncIterator[RedisLimiter]:
    async with RedisLimiter(f"redis://127.0.0.1:{free_port()}") as limiter:
        yield limiter


def limits(down: LimiterDown, shared: RedisLimiter | None, report: Report | None = None) -> Limits:
    policies = Policies(a_policy(limiter_down=down))
    return Limits(policies, MemoryLimiter(lambda: NOW_MS), shared, report)


def warned(units: int) -> Use:
    return Use(CJ.window, units, WarnLevel(5, 4, Cause("c", "ada", None, None)))


async def test_without_a_shared_limiter_nothing_is_degraded() -> None:
    alone = limits(LimiterDown.CLOSED, None)

    alone.count([Use(CJ.window, 3)])

    assert await alone.peek([CJ]) == PeekResult([WindowState(3, 0)])
    assert not alone.is_degraded


async def test_local_continues_with_the_process_own_counts(away: RedisLimiter) -> None:
    local = limits(LimiterDown.LOCAL, away)

    local.count([Use(CJ.window, 4)])
    passes = await local.peek([CJ])
    local.count([Use(CJ.window, 1)])
    denied = await local.peek([CJ])

    assert passes == PeekResult([WindowState(4, 0)], is_degraded=True)
    assert denied == PeekResult([WindowState(5, 61_000)], is_degraded=True)
    assert local.is_degraded


async def test_open_lets_everything_pass(away: RedisLimiter) -> None:
    opened = limits(LimiterDown.OPEN, away)
    opened.count([Use(CJ.window, 100)])

    assert await opened.peek([CJ]) == PeekResult([WindowState(0, 0)], is_degraded=True)


async def test_closed_denies_every_limited_metric(away: RedisLimiter) -> None:
    closed = limits(LimiterDown.CLOSED, away)

    assert await closed.peek([CJ]) == PeekResult([WindowState(5, 1_000)], is_degraded=True)
    assert await closed.peek([]) == PeekResult([]), "a metric without a limit is not denied"


async def test_a_reset_fails_while_the_shared_limiter_is_unavailable(away: RedisLimiter) -> None:
    with pytest.raises(LimiterUnavailable):
        await limits(LimiterDown.LOCAL, away).reset([CJ.window])


async def test_after_the_shared_limiter_fails_a_process_has_its_own_counts(
    crashable_redis: RedisServer,
) -> None:
    async with (
        RedisLimiter(crashable_redis.url, call_s=5) as ours,
        RedisLimiter(crashable_redis.url, call_s=5) as others,
    ):
        both = limits(LimiterDown.LOCAL, ours)
        both.count([Use(CJ.window, 3)])
        others.count([Use(CJ.window, 1)])
        await others.peek([CJ])
        together = await both.peek([CJ])

        crashable_redis.kill()
        alone = await both.peek([CJ])

    assert together == PeekResult([WindowState(4, 0)])
    assert alone == PeekResult([WindowState(3, 0)], is_degraded=True)


@pytest.mark.parametrize(
    ("down", "reported"),
    [(LimiterDown.LOCAL, [3, 5]), (LimiterDown.OPEN, []), (LimiterDown.CLOSED, [])],
)
async def test_without_the_shared_limiter_uses_are_reported_if_the_process_decides_alone(
    away: RedisLimiter, down: LimiterDown, reported: list[int]
) -> None:
    seen: list[int] = []
    alone = limits(down, away, lambda _, used: seen.append(used))

    alone.count([warned(3)])
    alone.count([warned(2), Use(CJ.window._replace(metric="ai"), 1)])

    assert seen == reported


async def test_the_shared_limiter_reports_uses_with_those_of_other_processes(
    crashable_redis: RedisServer,
) -> None:
    seen: list[int] = []
    async with (
        RedisLimiter(crashable_redis.url, call_s=5) as ours,
        RedisLimiter(crashable_redis.url, call_s=5) as others,
    ):
        both = limits(LimiterDown.LOCAL, ours, lambda _, used: seen.append(used))
        others.count([Use(CJ.window, 4)])
        await others.peek([CJ])

        both.count([warned(2)])
        await both.peek([CJ])
        crashable_redis.kill()
        assert (await both.peek([CJ])).is_degraded
        both.count([warned(1)])

    assert seen == [6, 3], "in an outage a process knows its own uses"


async def test_units_in_flight_count_until_they_are_used_or_released() -> None:
    alone = limits(LimiterDown.CLOSED, None)
    alone.count([Use(CJ.window, 3)])

    with await alone.reserve([CJ]) as first, await alone.reserve([CJ]) as second:
        third = await alone.reserve([CJ])
        with third:
            assert third.exceeded == [(CJ, WindowState(3, 61_000))]
        fourth = await alone.reserve([CJ._replace(limit=6)])

    assert not first.exceeded
    assert not second.exceeded
    assert not fourth.exceeded, "denied units are not in flight"
    assert not (await alone.reserve([CJ])).exceeded


async def test_units_in_flight_never_make_a_denial_permanent() -> None:
    alone = limits(LimiterDown.CLOSED, None)
    whole = CJ._replace(amount=5)

    with await alone.reserve([whole]):
        meanwhile = await alone.reserve([whole])
        hopeless = await alone.reserve([CJ._replace(amount=6)])

    assert meanwhile.exceeded == [(whole, WindowState(0, 1_000))]
    assert [state.passes_in_ms for _, state in hopeless.exceeded] == [None]
