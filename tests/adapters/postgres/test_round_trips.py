"""The round trips of a consumption: what a batch reads and writes more is counted here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from benchmarks.trips import Counter, counting
from entitlements.adapters.memory.limiter import MemoryLimiter
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.engine import running
from entitlements.core import commands as c
from entitlements.core.model import Membership, WalletKey
from entitlements.core.policy import Memberships
from entitlements.core.reasons import EntitlementType
from entitlements.ids import uuid7
from tests.stores.clerk import SCHOOL, Clerk, Clock, a_clerk, a_policy, consume, give, origin

UNITS = WalletKey("user", "teacher", "units:cj")
TRIES = 10
"""The first runs prepare the statements, and on a busy machine one burst can count as two."""


@asynccontextmanager
async def a_counted_clerk(url: str) -> AsyncIterator[tuple[Clerk, Counter]]:
    with counting(url) as counter:
        clock = Clock()
        store = await PostgresStore.open(counter.url, clock=clock, pool_max=1)
        await store.migrate()
        try:
            clerk = await a_clerk(store, clock, a_policy())
            await clerk.do(give(10_000), give(10_000, SCHOOL))
            yield clerk, counter
        finally:
            await store.close()


async def turns(clerk: Clerk, counter: Counter, **fields: Any) -> int:
    """Return the round trips of one consumption in one batch: the fewest of several."""
    found = []
    for _ in range(TRIES):
        with counter.lap():
            await clerk.do(consume(1, **fields))
        found.append(counter.turns)
    return min(found)


def an_allowance(wallet: WalletKey) -> c.CreateGrant:
    return give(1000, wallet, entitlement_type=EntitlementType.USAGE_ALLOWANCE)


async def test_allowances_and_members_add_no_statement_to_a_plain_consumption(
    empty_postgres_url: str,
) -> None:
    async with a_counted_clerk(empty_postgres_url) as (clerk, counter):
        plain = await turns(clerk, counter)
        await clerk.do(an_allowance(UNITS._replace(credit_type="units:another")))
        of_another = await turns(clerk, counter)
        clerk.policy = replace(clerk.policy, memberships=Memberships.ENFORCE)
        without_an_org = await turns(clerk, counter)
        await clerk.do(an_allowance(UNITS))
        covered = await turns(clerk, counter)

    assert (of_another, without_an_org, covered) == (plain, plain, plain)


async def test_a_warning_adds_no_statement_to_a_consumption_below_it_or_after_it(
    empty_postgres_url: str,
) -> None:
    with counting(empty_postgres_url) as counter:
        # One connection: on another one, statements would have to be prepared first.
        store = await PostgresStore.open(counter.url, pool_max=1)
        await store.migrate()
        found: dict[str, int] = {}
        for limit in ("{limit: 90/day}", "{limit: 90/day, warn: 50%}", "{limit: 1/day, warn: 50%}"):
            policy = f"costs: {{cj: 0}}\nrate_limits: {{cj: {limit}}}"
            async with running(
                store, local=MemoryLimiter(lambda: 0), policy_text=policy, policy_source="p"
            ) as engine:
                await engine.committer.submit(consume(1))
                await engine.limit_events.flush()
                each = []
                for _ in range(TRIES):
                    with counter.lap():
                        await engine.committer.submit(consume(1))
                    each.append(counter.turns)
                found[limit] = min(each)
        events = await store.outbox.limit_events(10)
        await store.close()

    assert len(set(found.values())) == 1, found
    assert len(events) == 1


async def test_a_members_cap_adds_the_write_of_what_was_counted(empty_postgres_url: str) -> None:
    async with a_counted_clerk(empty_postgres_url) as (clerk, counter):
        plain = await turns(clerk, counter, org_id="school")
        clerk.policy = replace(clerk.policy, memberships=Memberships.ENFORCE)
        member = Membership("school", "teacher")
        await clerk.do(c.SetMember(id=uuid7(), origin=origin(), member=member, monthly_cap=100))
        capped = await turns(clerk, counter, org_id="school")

    assert capped == plain + 1
