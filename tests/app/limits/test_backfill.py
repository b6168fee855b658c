import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app import engine
from entitlements.app.limits import backfill as limit_history
from entitlements.app.limits.backfill import LimitBackfill
from entitlements.app.policy.active import Policies
from entitlements.app.ports import LimitStore, PastUse
from entitlements.app.process.clock import in_ms
from entitlements.core.limits import limit_queries, uses
from entitlements.core.model import NEVER, AuditEntry, Subject
from entitlements.core.policy import Cost, Limit, Policy
from entitlements.core.windows import Use
from entitlements.ids import uuid7
from entitlements.observe.health import engine_health
from tests.stores.clerk import NOON, Clerk, Clock, a_policy, an_activation, consume
from tests.waiting import until

FREE = {"cj": Cost(credits=0), "ai": Cost(credits=0)}


def policy(**limits: tuple[Limit, ...]) -> Policy:
    return a_policy(costs=FREE, limits=limits)


MINUTE = Limit(count=50, window_s=60)
HOUR = Limit(count=70, window_s=3_600)
SCHOOL_DAY = Limit(count=90, window_s=86_400, per="org")
ALL = policy(cj=(MINUTE, HOUR, SCHOOL_DAY), ai=(HOUR,))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "books.db", clock=clock)
    await opened.migrate()
    await opened.policies.activate(ALL.version, "", an_activation())
    yield opened
    await opened.close()


async def states(limiter: MemoryLimiter, amount: int) -> list[object]:
    """Return the state of every window of the teacher and the school."""
    wanted = limit_queries(ALL, {"cj": amount, "ai": amount}, user_id="teacher", org_id="school")
    return list(await limiter.peek(wanted))


async def test_a_new_limiter_counts_the_same_from_history_as_the_old_one(
    store: SqliteStore, clock: Clock
) -> None:
    clerk, lived = Clerk(store, clock, ALL), MemoryLimiter(lambda: in_ms(clock()))
    for second, metric, units in ((0, "cj", 5), (30, "ai", 7), (3_000, "cj", 11), (3_061, "cj", 3)):
        clock.turn_to(second)
        await clerk.do(consume(units, metric=metric, org_id="school"))
        lived.count(uses(ALL, metric, units, user_id="teacher", org_id="school"))
    reborn = MemoryLimiter(lambda: in_ms(clock()))

    await LimitBackfill(store.limits, Policies(ALL), reborn, lambda: in_ms(clock())).follow()

    for later in (3_061, 3_110, 3_660, 7_000, 90_000):
        clock.turn_to(later)
        for amount in (1, 40, 60):
            assert await states(reborn, amount) == await states(lived, amount), later


class Watched:
    """The store's history, with the time ranges that were requested."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.asked: list[tuple[datetime, datetime]] = []

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime
    ) -> list[PastUse]:
        if window_s == HOUR.window_s:
            self.asked.append((since, until))
        return await self._store.limits.past_uses(
            metrics, window_s=window_s, since=since, until=until
        )


@pytest.mark.parametrize("part_s", [0, 1_000], ids=["slow", "fast"])
async def test_history_is_read_in_adjoining_parts_sized_by_the_reading_speed(
    store: SqliteStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, part_s: float
) -> None:
    monkeypatch.setattr(limit_history, "PART_S", part_s)
    monkeypatch.setattr(limit_history, "PARTS_MAX", 1_024)
    clerk = Clerk(store, clock, ALL)
    for second in range(0, 3_600, 300):
        clock.turn_to(second)
        await clerk.do(consume(1))
    watched, limiter = Watched(store), MemoryLimiter(lambda: in_ms(clock()))

    history = cast("LimitStore", watched)
    await LimitBackfill(history, Policies(ALL), limiter, lambda: in_ms(clock())).follow()

    (_, hour, *_) = limit_queries(ALL, {"cj": 0}, user_id="teacher", org_id=None)
    assert (await limiter.peek([hour]))[0].used == 12
    ends = [end for _, end in watched.asked]
    assert [since for since, _ in watched.asked][1:] == ends[:-1]
    assert ends[-1] == NEVER
    assert len(ends) < 15 if part_s else 1_000 < len(ends) < 1_100


async def test_startup_does_not_wait_for_a_long_recount(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "RECOUNT_FIRST_S", 0)
    past_uses, reached, goes_on = store.limits.past_uses, asyncio.Event(), asyncio.Event()

    async def slow(*asked: Any, **options: Any) -> list[PastUse]:
        reached.set()
        await goes_on.wait()
        return await past_uses(*asked, **options)

    monkeypatch.setattr(store.limits, "past_uses", slow)
    limiter = MemoryLimiter(lambda: in_ms(NOON))
    text = "costs: {cj: 0}\nrate_limits: {cj: 5/hour}\n"
    async with engine.running(
        store, local=limiter, recounting=limiter, policy_text=text, policy_source="test"
    ) as running:
        await reached.wait()
        meanwhile = await running.checks.check(
            {"cj": 1}, user_id="ada", org_id=None, correlation_id="x"
        )
        warned = (await engine_health(running))["limiter"]
        goes_on.set()
        assert running.history is not None
        await until(lambda: running.history is not None and running.history.is_complete)

        assert meanwhile.decision.allowed
        assert warned.status == "warning"
        assert (await engine_health(running))["limiter"].status == "healthy"


async def test_only_new_windows_are_recounted(store: SqliteStore, clock: Clock) -> None:
    await Clerk(store, clock, ALL).do(consume(5, org_id="school"))
    limiter = MemoryLimiter(lambda: in_ms(clock()))
    policies = Policies(policy(cj=(MINUTE,)))
    history = LimitBackfill(store.limits, policies, limiter, lambda: in_ms(clock()))
    await history.follow()
    (minute, hour, day) = limit_queries(ALL, {"cj": 0}, user_id="teacher", org_id="school")
    limiter.count([Use(minute.window, 1), Use(hour.window, 1)])

    policies.active = ALL
    await history.follow()
    await history.follow()

    peeked = await limiter.peek([minute, hour, day])
    assert [state.used for state in peeked] == [6, 5, 5]


async def test_a_limit_that_returns_to_the_policy_is_recounted(
    store: SqliteStore, clock: Clock
) -> None:
    limiter = MemoryLimiter(lambda: in_ms(clock()))
    policies = Policies(ALL)
    history = LimitBackfill(store.limits, policies, limiter, lambda: in_ms(clock()))
    await history.follow()
    policies.active = policy(ai=(HOUR,))
    await history.follow()
    await Clerk(store, clock, ALL).do(consume(5))

    policies.active = ALL
    await history.follow()

    (minute, *_) = limit_queries(ALL, {"cj": 0}, user_id="teacher", org_id=None)
    assert [state.used for state in await limiter.peek([minute])] == [5]


async def test_a_recount_leaves_out_usage_before_a_reset(store: SqliteStore, clock: Clock) -> None:
    clerk = Clerk(store, clock, ALL)
    await clerk.do(consume(5, org_id="school"), consume(6, metric="ai", org_id="school"))
    clock.turn_to(1)
    await store.acts.add_audit(
        AuditEntry(
            id=uuid7(),
            at=clock(),
            actor="operator",
            client="tests",
            action="rate_limit.reset",
            subject=Subject("user", "teacher"),
            reason=None,
            detail={"metric": "cj"},
            correlation_id="x",
        )
    )
    clock.turn_to(2)
    await clerk.do(consume(1, org_id="school"))
    reborn = MemoryLimiter(lambda: in_ms(clock()))

    await LimitBackfill(store.limits, Policies(ALL), reborn, lambda: in_ms(clock())).follow()

    asked = limit_queries(ALL, {"cj": 0, "ai": 0}, user_id="teacher", org_id="school")
    used = [state.used for state in await reborn.peek(asked)]
    assert used == [1, 1, 6, 6], "the teacher's minute and hour, the school's day, and ai"
