"""An engine that consumes topics of a real broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from entitlements.adapters.kafka.broker import Broker
from entitlements.adapters.kafka.topics import ensure_topics
from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.engine import Engine, running
from entitlements.app.inbox.status import Status
from entitlements.wiring import consuming
from tests.app.inbox.events import CONSUMPTION, REGISTERED, REPORTED, Story
from tests.concurrency.scene import POLICY, grant, user
from tests.waiting import PATIENCE_S

QUICK = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "300"}
"""Short timeouts, so that the group notices a killed member soon."""
GIVEN = 1_000_000
INBOUND = (CONSUMPTION, REGISTERED, REPORTED)


async def make_topics(bootstrap: str, prefix: str, partitions: int = 6) -> None:
    names = [f"{prefix}.{name}{end}" for name in INBOUND for end in ("", ".dlq")]
    await ensure_topics(Broker(bootstrap), names, partitions=partitions)


@asynccontextmanager
async def an_engine(url: str, prefix: str) -> AsyncIterator[Engine]:
    store = await PostgresStore.open(url)
    try:
        async with running(
            store,
            local=Unlimited(),
            policy_text=POLICY,
            policy_source="test",
            topic_prefix=prefix,
        ) as engine:
            yield engine
    finally:
        await store.close()


@asynccontextmanager
async def a_consumer(
    url: str, bootstrap: str, prefix: str, **options: str
) -> AsyncIterator[Engine]:
    """Run an engine with a consumer in the group named after the prefix."""
    async with (
        an_engine(url, prefix) as engine,
        consuming(
            engine, Broker(bootstrap, QUICK | options), group=prefix, client_id=f"test-{prefix}"
        ),
    ):
        yield engine


async def give_all(url: str, prefix: str, users: int) -> None:
    async with an_engine(url, prefix) as engine:
        submit = engine.committer.submit
        await asyncio.gather(*(submit(grant(user(f"u{n}"), GIVEN)) for n in range(users)))


def is_paused(engine: Engine) -> bool:
    return engine.watch.consumer is not None and (
        engine.watch.consumer.state.status is Status.PAUSED
    )


async def until_read(url: str, story: Story, patience_s: float = PATIENCE_S) -> None:
    """Wait until every event of the story is recorded or dead-lettered."""
    wanted = story.results.total() + len(story.malformed)
    db = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(patience_s):
            while await db.fetchval(COUNT) < wanted:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
    finally:
        await db.close()


COUNT = "SELECT (SELECT count(*) FROM consumption_records) + (SELECT count(*) FROM dead_letters)"


async def assert_told(url: str, story: Story) -> None:
    """Assert that balances, records and dead letters are those of the story."""
    db = await asyncpg.connect(url)
    try:
        balances = await db.fetch("SELECT subject_id, balance FROM credit_balances")
        results = await db.fetch("SELECT outcome, count(*) FROM consumption_records GROUP BY 1")
        letters = await db.fetch("SELECT key, value FROM dead_letters")
    finally:
        await db.close()
    assert Counter(dict(map(tuple, results))) == story.results
    assert {name: GIVEN - left for name, left in balances if left < GIVEN} == story.spent
    found: Any = sorted((row["key"], row["value"]) for row in letters)
    assert found == sorted((one.key.encode(), one.value) for one in story.malformed)
