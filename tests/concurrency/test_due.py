"""Effects that are due in many wallets at one instant, in two processes on one database."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from entitlements.app import engine
from entitlements.app.engine import Engine
from entitlements.core.commands import AnyCommand
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.reasons import ConsumptionType
from entitlements.core.renewals import Interval, Period
from tests.concurrency.scene import (
    consume,
    engines,
    grant,
    hold,
    paid,
    submit_all,
    user,
)
from tests.waiting import PATIENCE_S, until

MIDNIGHT = datetime(2040, 3, 2, tzinfo=UTC)
WALLETS = 1_500
AT_ONCE = 50
EFFECTS: tuple[dict[str, int], ...] = (
    {"renewal": 1},
    {"expiry": 1},
    {"activation": 1},
    {"lapse": 1},
    # The lapse returns credits to the grant that expires, so they expire as well.
    {"renewal": 1, "expiry": 2, "activation": 1, "lapse": 1},
)
"""What is recorded at midnight in wallets of each kind; wallet n is of the kind n % 5."""
LEFT = (100, 7, 12, 50, 105)
"""What wallets of each kind have after midnight, before they consume."""


class Clock:
    def __init__(self) -> None:
        self.now = MIDNIGHT - timedelta(days=1)

    def __call__(self) -> datetime:
        return self.now


def name(n: int) -> str:
    return f"u{n}"


def of(*kinds: int) -> list[str]:
    """Return the names of the wallets of these kinds."""
    return [name(n) for n in range(WALLETS) if n % 5 in kinds]


async def prepare(running: Sequence[Engine], clock: Clock) -> None:
    """Fill the wallets, a day and a minute before midnight."""
    daily: dict[str, Any] = {
        "consumption": ConsumptionType.RENEWABLE,
        "period": Period(interval=Interval.DAY),
    }
    await done(running, (grant(user(who), 100, **daily) for who in of(0, 4)))
    await done(running, (consume(who, 30) for who in of(0, 4)))
    clock.now = MIDNIGHT - timedelta(seconds=60)
    await done(running, (grant(user(who), 10, expires_at=MIDNIGHT) for who in of(1, 4)))
    await done(running, (grant(user(who), 5, granted_at=MIDNIGHT) for who in of(2, 4)))
    await done(running, (grant(user(who), 7) for who in of(1, 2)))
    await done(running, (grant(user(who), 50) for who in of(3)))
    await done(running, (hold(who, 20, ttl_s=60) for who in of(3, 4)))


async def done(running: Sequence[Engine], commands: Iterable[AnyCommand]) -> None:
    for outcome in await submit_all(running, list(commands)):
        assert not isinstance(outcome, Refusal), outcome


async def test_of_1500_wallets_due_at_one_instant_two_processes_record_each_effect_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "UPKEEP_S", 0.01)
    clock = Clock()
    async with engines(url, 2, clock=clock, deadline_s=PATIENCE_S) as running:
        await prepare(running, clock)
        clock.now = MIDNIGHT
        # Two of three wallets also consume, each by the same key in both processes.
        spending = [name(n) for n in range(WALLETS) if n % 3]
        outcomes: list[AnyOutcome | Refusal] = []
        for first in range(0, len(spending), AT_ONCE):
            part = [who for who in spending[first : first + AT_ONCE] for _ in running]
            outcomes += await submit_all(running, [consume(who, 1, key=who) for who in part])
        await until(lambda: is_idle(running[0]))

    charged = [one.replayed for one in paid(outcomes)]
    assert [charged.count(False), charged.count(True)] == [len(spending)] * 2
    assert await balances(url) == {name(n): (LEFT[n % 5] - (n % 3 > 0), 0) for n in range(WALLETS)}
    assert await recorded(url) == {
        (name(n), effect): times for n in range(WALLETS) for effect, times in EFFECTS[n % 5].items()
    }


async def is_idle(running: Engine) -> bool:
    return not await running.store.reads.due_wallets(1)


async def balances(url: str) -> dict[str, tuple[int, int]]:
    """Return what each wallet has and holds, from its grants and operations alone."""
    found = await rows(
        url,
        "SELECT subject_id, sum(delta) AS moved, (SELECT sum(held) FROM grants AS g"
        " WHERE g.subject_id = o.subject_id) AS held, (SELECT sum(remaining) FROM grants AS g"
        " WHERE g.subject_id = o.subject_id AND started) AS remaining"
        " FROM credit_operations AS o GROUP BY subject_id",
    )
    assert all(row["moved"] == row["remaining"] for row in found)
    return {row["subject_id"]: (int(row["moved"]), int(row["held"])) for row in found}


async def recorded(url: str) -> dict[tuple[str, str], int]:
    """Return how often each kind of effect is on record for midnight, by wallet."""
    found = await rows(
        url,
        "SELECT subject_id, kind, count(*) AS times FROM credit_operations"
        " WHERE kind IN ('renewal', 'expiry', 'activation', 'lapse') AND effective_at = $1"
        " GROUP BY subject_id, kind",
        MIDNIGHT,
    )
    return {(row["subject_id"], row["kind"]): row["times"] for row in found}


async def rows(url: str, query: str, *values: object) -> list[asyncpg.Record]:
    db = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await db.fetch(query, *values)
    finally:
        await db.close()
    return found
