"""Relays that are stopped, killed and resumed: nothing is lost, and first copies are in order."""

import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.engine import Engine, Store
from tests.concurrency.scene import consume, engines, grant, submit_all, user
from tests.faults.filing import Filing
from tests.waiting import until

USERS = [f"u{n}" for n in range(12)]


@pytest.fixture
async def engine(any_url: str) -> AsyncIterator[Engine]:
    """An engine that commits and publishes nothing."""
    async with engines(any_url) as [running]:
        await submit_all([running], [grant(user(name), 10_000) for name in USERS])
        yield running


async def spend(engine: Engine, times: int) -> None:
    """Write two events for every user, ``times`` times."""
    work = [consume(name, 1) for _ in range(times) for name in USERS]
    await submit_all([engine], work)


async def rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            return [tuple(row) for row in await db.fetch(sql)]
    assert isinstance(store, SqliteStore)
    found: list[Any] = await store.db.read(lambda db: db.execute(sql).fetchall())
    return found


async def committed(store: Store) -> dict[str, list[str]]:
    """Return the event ids of each user, in order."""
    events: dict[str, list[str]] = defaultdict(list)
    sql = "SELECT key, event_id FROM event_outbox ORDER BY key, seq, n"
    for key, event_id in await rows(store, sql):
        events[key].append(str(event_id))
    return events


def filed(path: Path) -> list[list[str]]:
    """Return relay, event id and user of each line."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def first_copies(path: Path) -> dict[str, list[str]]:
    events: dict[str, dict[str, None]] = defaultdict(dict)
    for _, event_id, key in filed(path):
        events[key].setdefault(event_id)
    return {key: list(ids) for key, ids in events.items()}


async def all_shipped(store: Store) -> None:
    async def is_empty() -> bool:
        return (await store.outbox.backlog()).events == 0

    await until(is_empty)


async def held_by(store: Store, *names: str) -> None:
    """Wait until these relays lease all buckets, each of them some."""

    async def is_so() -> bool:
        return {line.holder for line in await store.outbox.leases()} == set(names)

    await until(is_so)


async def test_a_relay_paused_beyond_its_lease_does_no_harm(
    engine: Engine, any_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "events"
    await spend(engine, 30)
    sleeper, other = Filing(any_url, path, "sleeper"), Filing(any_url, path, "other")
    sleeper.shut()
    async with sleeper:
        await sleeper.waits()
        sleeper.send(signal.SIGSTOP)
        async with other:
            await held_by(engine.store, "other")
            await spend(engine, 5)
            await all_shipped(engine.store)
            sleeper.open()
            sleeper.send(signal.SIGCONT)
            await held_by(engine.store, "other", "sleeper")
            await spend(engine, 30)
            await all_shipped(engine.store)
            for one in (sleeper, other):
                one.send(signal.SIGTERM)
            assert [await sleeper.ended(), await other.ended()] == [0, 0]

    events = await committed(engine.store)
    assert first_copies(path) == events
    stale = [event_id for name, event_id, _ in filed(path) if name == "sleeper"]
    twice = set(stale) & {event_id for name, event_id, _ in filed(path) if name == "other"}
    assert twice, "it sent the events that it had read before the pause"
    assert set(stale) - twice, "and sent further events afterwards"


async def test_events_read_by_a_killed_relay_are_sent_by_another(
    engine: Engine, any_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "events"
    await spend(engine, 30)
    victim, heir = Filing(any_url, path, "victim"), Filing(any_url, path, "heir")
    victim.shut()
    async with victim:
        await victim.waits()
        victim.send(signal.SIGKILL)
        assert await victim.ended() == -signal.SIGKILL
    async with heir:
        await all_shipped(engine.store)

    assert first_copies(path) == await committed(engine.store)
    assert {name for name, *_ in filed(path)} == {"heir"}


async def test_a_relay_that_stops_gracefully_repeats_nothing(
    engine: Engine, any_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "events"
    await spend(engine, 60)
    first, second = Filing(any_url, path, "first"), Filing(any_url, path, "second")
    first.shut()
    async with first:
        await first.waits()
        first.send(signal.SIGTERM)
        first.open()
        assert await first.ended() == 0
    assert {
        holder for (holder,) in await rows(engine.store, "SELECT holder FROM relay_leases")
    } == {None}
    await spend(engine, 5)
    async with second:
        await all_shipped(engine.store)

    ids = [event_id for _, event_id, _ in filed(path)]
    assert len(ids) == len(set(ids))
    assert first_copies(path) == await committed(engine.store)
