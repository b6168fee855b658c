from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.clock import in_ms
from entitlements.app.limit_history import LimitHistory
from entitlements.app.policies import Policies
from entitlements.core.limits import asks, uses
from entitlements.core.model import AuditEntry, Subject
from entitlements.core.policy import Cost, Limit, Policy
from entitlements.core.windows import Use
from entitlements.ids import uuid7
from tests.stores.clerk import Clerk, Clock, a_policy, an_activation, consume

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
    await opened.activate_policy(ALL.version, "", an_activation())
    yield opened
    await opened.close()


async def standings(limiter: MemoryLimiter, amount: int) -> list[object]:
    """Of every window of the teacher and the school."""
    wanted = asks(ALL, {"cj": amount, "ai": amount}, user_id="teacher", org_id="school")
    return list(await limiter.look(wanted))


async def test_a_new_limiter_knows_what_the_old_one_counted(
    store: SqliteStore, clock: Clock
) -> None:
    clerk, lived = Clerk(store, clock, ALL), MemoryLimiter(lambda: in_ms(clock()))
    for second, metric, units in ((0, "cj", 5), (30, "ai", 7), (3_000, "cj", 11), (3_061, "cj", 3)):
        clock.turn_to(second)
        await clerk.do(consume(units, metric=metric, org_id="school"))
        lived.record(uses(ALL, metric, units, user_id="teacher", org_id="school"))
    reborn = MemoryLimiter(lambda: in_ms(clock()))

    await LimitHistory(store, Policies(ALL), reborn, lambda: in_ms(clock())).follow()

    for later in (3_061, 3_110, 3_660, 7_000, 90_000):
        clock.turn_to(later)
        for amount in (1, 40, 60):
            assert await standings(reborn, amount) == await standings(lived, amount), later


async def test_only_windows_that_are_new_are_counted_again(
    store: SqliteStore, clock: Clock
) -> None:
    await Clerk(store, clock, ALL).do(consume(5, org_id="school"))
    limiter = MemoryLimiter(lambda: in_ms(clock()))
    policies = Policies(policy(cj=(MINUTE,)))
    history = LimitHistory(store, policies, limiter, lambda: in_ms(clock()))
    await history.follow()
    (minute, hour, day) = asks(ALL, {"cj": 0}, user_id="teacher", org_id="school")
    limiter.record([Use(minute.window, 1), Use(hour.window, 1)])

    policies.active = ALL
    await history.follow()
    await history.follow()

    looked = await limiter.look([minute, hour, day])
    assert [standing.used for standing in looked] == [6, 5, 5]


async def test_what_a_policy_no_longer_limits_is_counted_afresh_when_it_does_again(
    store: SqliteStore, clock: Clock
) -> None:
    limiter = MemoryLimiter(lambda: in_ms(clock()))
    policies = Policies(ALL)
    history = LimitHistory(store, policies, limiter, lambda: in_ms(clock()))
    await history.follow()
    policies.active = policy(ai=(HOUR,))
    await history.follow()
    await Clerk(store, clock, ALL).do(consume(5))

    policies.active = ALL
    await history.follow()

    (minute, *_) = asks(ALL, {"cj": 0}, user_id="teacher", org_id=None)
    assert [standing.used for standing in await limiter.look([minute])] == [5]


async def test_what_was_reset_stays_forgotten(store: SqliteStore, clock: Clock) -> None:
    clerk = Clerk(store, clock, ALL)
    await clerk.do(consume(5, org_id="school"), consume(6, metric="ai", org_id="school"))
    clock.turn_to(1)
    await store.add_audit(
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

    await LimitHistory(store, Policies(ALL), reborn, lambda: in_ms(clock())).follow()

    asked = asks(ALL, {"cj": 0, "ai": 0}, user_id="teacher", org_id="school")
    used = [standing.used for standing in await reborn.look(asked)]
    assert used == [1, 1, 6, 6], "of the teacher by minute and hour, of the school, and ai"
