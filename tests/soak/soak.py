"""A stream of events while processes and servers are killed, or consumers join and leave.

A seed determines times and victims. At the end, balances and outcomes must agree with a model.
Every balance change must be published under one event id, with first copies in order per wallet.
Every malformed event must be on the dead-letter topic, and the ledger must pass verification.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from tests.app.inbox.events import CONSUMPTION, Sent, Story, produce
from tests.app.inbox.scene import a_consumer, assert_told, give_all, make_topics, until_read
from tests.app.inbox.worker import worker
from tests.books import assert_books_balance
from tests.kafka import KafkaServer
from tests.servers import PostgresServer
from tests.tables import migrate

log = logging.getLogger("soak")

PREFIX = "soak"
CHANGED = f"{PREFIX}.entitlements.credit.balance.changed.v1"
PATIENCE_S = 1_800
MEMBERS = 3
TURN_S = 2


class Restarted:
    """A worker that is started again after it was killed."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._running = start()
        self._running.__enter__()

    def kill(self) -> None:
        self._running.__exit__(None, None, None)

    def start(self) -> None:
        self._running = self._start()
        self._running.__enter__()


@contextmanager
def kept_alive(start: Callable[[], Any]) -> Iterator[Restarted]:
    kept = Restarted(start)
    try:
        yield kept
    finally:
        kept.kill()


class Chaos:
    """Kills and restarts every victim equally often."""

    def __init__(self, seed: int, victims: dict[str, Any]) -> None:
        self._rng = random.Random(seed)
        self._victims = victims

    async def round(self) -> None:
        """Kill and restart each victim once, with order and pauses from the seed."""
        names = sorted(self._victims)
        self._rng.shuffle(names)
        for name in names:
            await asyncio.sleep(self._rng.random())
            victim = self._victims[name]
            log.warning("killing %s", name)
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(self._rng.random())
            await asyncio.to_thread(victim.start)


async def soak(
    *, events: int, users: int, seed: int, rounds: int, folder: Path, consumers: int = 2
) -> None:
    """Run the soak. Raises AssertionError, or TimeoutError if progress stops."""
    with ExitStack() as stack:
        database = stack.enter_context(PostgresServer())
        broker = stack.enter_context(KafkaServer())
        url = database.create_database()
        await asyncio.to_thread(migrate, url)
        await make_topics(broker.bootstrap, PREFIX, partitions=4)
        await give_all(url, PREFIX, users)
        topic = f"{PREFIX}.{CONSUMPTION}"
        story = Story(topic, users=users, seed=seed).tell(events)
        victims: dict[str, Any] = {"database": database, "broker": broker}
        for kind, number in (("consumer", consumers), ("relay", 1)):
            for n in range(number):

                def start(kind: str = kind) -> Any:
                    return worker(url, broker.bootstrap, PREFIX, folder, kind=kind)

                victims[f"{kind} {n}"] = stack.enter_context(kept_alive(start))
        await _send_amid(Chaos(seed, victims), rounds, broker.bootstrap, topic, story)
        await until_read(url, story, PATIENCE_S)
        await _until_shipped(url)
        await assert_told(url, story)
        await assert_books_balance(url)
        await _assert_announced(url, broker)
        _assert_set_aside(broker, topic, story)


async def restless(*, events: int, users: int, seed: int, seconds: int) -> None:
    """Run three consumers; every two seconds one leaves and another joins.

    Raises AssertionError, or TimeoutError if progress stops.
    """
    with ExitStack() as stack:
        url = stack.enter_context(PostgresServer()).create_database()
        broker = stack.enter_context(KafkaServer())
        await asyncio.to_thread(migrate, url)
        await make_topics(broker.bootstrap, PREFIX)
        await give_all(url, PREFIX, users)
        topic = f"{PREFIX}.{CONSUMPTION}"
        story = Story(topic, users=users, seed=seed).tell(events)
        members: deque[AsyncExitStack] = deque()

        async def join() -> None:
            member = AsyncExitStack()
            await member.enter_async_context(a_consumer(url, broker.bootstrap, PREFIX))
            members.append(member)

        try:
            for _ in range(MEMBERS):
                await join()
            for part in _parts(story.sent, seconds // TURN_S):
                sending = asyncio.create_task(
                    asyncio.to_thread(produce, broker.bootstrap, topic, part)
                )
                await asyncio.sleep(TURN_S)
                await members.popleft().aclose()
                await join()
                await sending
            await until_read(url, story, PATIENCE_S)
        finally:
            for member in members:
                await member.aclose()
        await assert_told(url, story)
        await assert_books_balance(url)
        _assert_set_aside(broker, topic, story)


def _parts(sent: list[Sent], count: int) -> list[list[Sent]]:
    """Split the events into at most ``count`` parts, in order."""
    size = -(-len(sent) // count)
    return [sent[at : at + size] for at in range(0, len(sent), size)]


async def _send_amid(chaos: Chaos, rounds: int, bootstrap: str, topic: str, story: Story) -> None:
    """Send a share of the events during each round, and the rest when everything runs."""
    *amid, last = _parts(story.sent, rounds + 1)
    for part in amid:
        sending = asyncio.create_task(asyncio.to_thread(produce, bootstrap, topic, part))
        await chaos.round()
        await sending
    await asyncio.to_thread(produce, bootstrap, topic, last)


async def _until_shipped(url: str) -> None:
    db = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while await db.fetchval(WAITING):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
    finally:
        await db.close()


WAITING = "SELECT EXISTS (SELECT 1 FROM event_outbox WHERE published_at IS NULL)"
CHANGES = """SELECT subject_id, seq, id::text FROM credit_operations WHERE delta <> 0
    ORDER BY subject_id, seq"""


async def _assert_announced(url: str, broker: KafkaServer) -> None:
    db = await asyncpg.connect(url)
    try:
        changes = [tuple(row) for row in await db.fetch(CHANGES)]
    finally:
        await db.close()
    ids: dict[tuple[str, int, str], set[str]] = {}
    last: dict[str, int] = {}
    for record in broker.read(CHANGED, count=broker.count(CHANGED), patience_s=PATIENCE_S):
        event = msgspec.json.decode(record.value() or b"")
        told = event["data"]
        change = (told["subject"]["id"], told["seq"], told["operation_id"])
        if change not in ids:
            assert change[1] > last.get(change[0], 0), f"out of order: {change}"
            last[change[0]] = change[1]
        ids.setdefault(change, set()).add(event["event_id"])
    assert sorted(ids) == changes
    assert all(len(found) == 1 for found in ids.values())


def _assert_set_aside(broker: KafkaServer, topic: str, story: Story) -> None:
    """Assert that the topic has exactly the malformed events; copies are allowed."""
    letters = f"{topic}.dlq"
    found = broker.read(letters, count=broker.count(letters))
    expected = {(one.key.encode(), one.value) for one in story.malformed}
    assert {(record.key(), record.value()) for record in found} == expected
