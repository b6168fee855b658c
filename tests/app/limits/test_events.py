import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from entitlements.adapters.postgres import rows as postgres_rows
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.limits import events as limit_events
from entitlements.app.limits.events import LimitEvents
from entitlements.app.ports import LimitNear
from entitlements.core.model import Subject
from entitlements.core.windows import Cause, LimitQuery, Use, WarnLevel, WindowKey
from tests.contracts.schemas import faults
from tests.servers import free_port
from tests.stores.clerk import ANNOUNCER, NOON, a_near_event
from tests.waiting import until_waited_for

CJ = LimitQuery(WindowKey(Subject("user", "ada"), "cj", 3_600), 60, 1)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


async def a_store(path: Path) -> SqliteStore:
    store = await SqliteStore.open(path / "books.db")
    await store.migrate()
    return store


async def payloads(store: SqliteStore) -> list[Any]:
    return [json.loads(event.payload) for event in await store.outbox.limit_events(100)]


def cause(correlation_id: str) -> Cause:
    return Cause(correlation_id, "ada", "school", "00-span")


def near(subject_id: str = "ada", window_s: int = 3_600) -> Use:
    window = WindowKey(Subject("user", subject_id), "cj", window_s)
    return Use(window, 1, WarnLevel(60, 48, cause("x")))


@asynccontextmanager
async def rival(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield another session in a transaction, which ends with the block."""
    db = await asyncpg.connect(url)
    try:
        await db.execute("BEGIN")
        yield db
    finally:
        await db.close()


def of(subject_id: str) -> LimitQuery:
    return CJ._replace(window=CJ.window._replace(subject=Subject("user", subject_id)))


async def test_the_event_says_which_limit_denied(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    events.note(CJ, cause("essay-1"))
    await events.flush()

    (envelope,) = await payloads(store)
    await store.close()
    assert envelope["event_type"] == "huleedu.entitlements.rate_limit.exceeded.v1"
    assert envelope["event_timestamp"] == "2040-03-01T12:00:00Z"
    assert envelope["data"] == {
        "subject": {"type": "user", "id": "ada"},
        "metric": "cj",
        "limit": 60,
        "window_seconds": 3_600,
        "correlation_id": "essay-1",
    }
    assert envelope["metadata"] == {"user_id": "ada", "org_id": "school", "traceparent": "00-span"}
    assert faults(envelope, "entitlements.rate_limit.exceeded.v1") == []


async def test_a_thousand_denials_are_one_event_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_events, "WAITING_MAX", 1)
    store, clock = await a_store(tmp_path), Clock()
    processes = [LimitEvents(store.limits, ANNOUNCER, clock) for _ in range(2)]

    for passed_s in (0, 59, 60):
        clock.now = NOON + timedelta(seconds=passed_s)
        for events in processes:
            for _ in range(1_000):
                events.note(CJ, cause("x"))
            await events.flush()

    assert len(await payloads(store)) == 2
    assert [events.dropped for events in processes] == [0, 0]
    await store.close()


async def test_the_event_says_how_near_the_limit_is(tmp_path: Path) -> None:
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    for used in (47, 48, 49):
        events.note_near(near(), used)
    await events.flush()

    (envelope,) = await payloads(store)
    await store.close()
    assert envelope["event_type"] == "huleedu.entitlements.rate_limit.near.v1"
    assert envelope["data"] == {
        "subject": {"type": "user", "id": "ada"},
        "metric": "cj",
        "limit": 60,
        "used": 48,
        "window_seconds": 3_600,
        "correlation_id": "x",
    }
    assert envelope["metadata"] == {"user_id": "ada", "org_id": "school", "traceparent": "00-span"}
    assert faults(envelope, "entitlements.rate_limit.near.v1") == []


async def test_a_window_near_its_limit_is_one_event_in_its_time_whatever_process_notes_it(
    tmp_path: Path,
) -> None:
    store, clock = await a_store(tmp_path), Clock()
    processes = [LimitEvents(store.limits, ANNOUNCER, clock) for _ in range(2)]
    ids = set()

    for passed_s in (50, 59, 61, 3_599, 3_649, 3_650, 7_000):
        clock.now = NOON + timedelta(seconds=passed_s)
        for events in processes:
            for _ in range(1_000):
                events.note_near(near(), 50)
            await events.flush()
        ids |= {envelope["event_timestamp"] for envelope in await payloads(store)}

    assert ids == {"2040-03-01T12:00:50Z", "2040-03-01T13:00:50Z"}
    await store.close()


async def test_a_process_learns_when_another_warned_and_writes_nothing_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = await a_store(tmp_path), Clock()
    first, other = (LimitEvents(store.limits, ANNOUNCER, clock) for _ in range(2))
    asked: list[datetime] = []
    add = store.limits.add_limit_near

    async def seen(events: Sequence[LimitNear]) -> dict[WindowKey, datetime]:
        asked.extend(event.created_at for event in events)
        return await add(events)

    monkeypatch.setattr(store.limits, "add_limit_near", seen)
    first.note_near(near(), 50)
    await first.flush()
    for passed_s in (1, 2, 1_800, 3_599, 3_600, 3_601):
        clock.now = NOON + timedelta(seconds=passed_s)
        other.note_near(near(), 50)
        await other.flush()

    assert [(at - NOON).total_seconds() for at in asked] == [0, 1, 3_600]
    await store.close()


async def test_what_is_remembered_of_warnings_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_events, "SEEN_MAX", 3)
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    for n in range(10):
        events.note_near(near(f"u{n}"), 50)
        await events.flush()
        assert len(events._again_at) <= 3
    events.note_near(near("u0"), 50)
    await events.flush()

    assert len(await payloads(store)) == 10
    await store.close()


async def test_a_restarted_process_does_not_repeat_a_warning(tmp_path: Path) -> None:
    store, clock = await a_store(tmp_path), Clock()
    seen = []

    for passed_s in (0, 1, 60):
        clock.now = NOON + timedelta(seconds=passed_s)
        events = LimitEvents(store.limits, ANNOUNCER, clock)
        events.note_near(near(), 50)
        await events.flush()
        seen.append([event.event_id for event in await store.outbox.limit_events(10)])

    assert len(seen[0]) == 1
    assert seen == [seen[0]] * 3
    await store.close()


async def test_an_exceeded_and_a_near_limit_of_one_minute_have_an_event_each(
    tmp_path: Path,
) -> None:
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    events.note_near(near(), 60)
    events.note(CJ, cause("x"))
    events.note_near(near(window_s=60), 60)
    await events.flush()

    assert len(await payloads(store)) == 3
    await store.close()


async def test_a_warning_that_could_not_be_written_comes_with_the_next_use(
    tmp_path: Path,
) -> None:
    away = await PostgresStore.open(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    store = await a_store(tmp_path)
    events = LimitEvents(away.limits, ANNOUNCER, Clock())
    events.note_near(near(), 50)
    await events.flush()
    events._store = store.limits

    events.note_near(near(), 51)
    await events.flush()

    (envelope,) = await payloads(store)
    assert (events.dropped, envelope["data"]["used"]) == (1, 51)
    await away.close()
    await store.close()


async def test_events_whose_write_is_cancelled_are_written_once_at_the_end(
    postgres_url: str,
) -> None:
    store = await PostgresStore.open(postgres_url)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())
    async with rival(postgres_url) as db:
        await db.execute("LOCK TABLE limit_near IN EXCLUSIVE MODE")
        events.note(CJ, cause("x"))
        events.note_near(near(), 50)
        writing = asyncio.create_task(events.flush())
        await until_waited_for(db)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    await events.flush()

    assert events.dropped == 0
    assert len(await store.outbox.limit_events(10)) == 2
    await store.close()


async def test_a_warning_that_another_process_is_writing_is_not_written_again(
    postgres_url: str,
) -> None:
    store = await PostgresStore.open(postgres_url)
    first, second = (LimitEvents(store.limits, ANNOUNCER, Clock()) for _ in range(2))
    async with rival(postgres_url) as db:
        values = postgres_rows.limit_near_values(a_near_event(Subject("user", "ada"), "cj", 3_600))
        await db.execute(SQL["add_limit_near"], *([value] for value in values))
        first.note_near(near(), 50)
        second.note_near(near(), 50)
        writing = [asyncio.create_task(one.flush()) for one in (first, second)]
        await until_waited_for(db)
        await db.execute("COMMIT")
        await asyncio.gather(*writing)

    (event,) = await store.outbox.limit_events(10)
    assert event.event_id == values[4]
    assert (first.dropped, second.dropped) == (0, 0)
    await store.close()


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_events, "WAITING_MAX", 3)
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    for n in range(5):
        events.note(of(f"u{n}"), cause("x"))
        events.note_near(near(f"u{n}"), 50)
    await events.flush()

    assert events.dropped == 7
    found = sorted(envelope["data"]["subject"]["id"] for envelope in await payloads(store))
    assert found == ["u0", "u0", "u1"]
    await store.close()


async def test_an_unavailable_database_drops_events_without_an_error() -> None:
    away = await PostgresStore.open(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    events = LimitEvents(away.limits, ANNOUNCER, Clock())
    events.note(CJ, cause("x"))

    await events.flush()

    assert events.dropped == 1
    await away.close()
