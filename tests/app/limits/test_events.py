import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.limits import events as limit_events
from entitlements.app.limits.events import LimitEvents
from entitlements.core.model import Subject
from entitlements.core.windows import Cause, LimitQuery, WindowKey
from tests.contracts.schemas import faults
from tests.servers import free_port
from tests.stores.clerk import ANNOUNCER, NOON

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
    sql = "SELECT payload FROM limit_exceeded ORDER BY minute, subject_id, metric"
    return [
        json.loads(str(row[0]))
        for row in await store.db.read(lambda db: db.execute(sql).fetchall())
    ]


def cause(correlation_id: str) -> Cause:
    return Cause(correlation_id, "ada", "school", "00-span")


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


async def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_events, "WAITING_MAX", 3)
    store = await a_store(tmp_path)
    events = LimitEvents(store.limits, ANNOUNCER, Clock())

    for n in range(10):
        events.note(of(f"u{n}"), cause("x"))
    await events.flush()

    assert events.dropped == 7
    assert [p["data"]["subject"]["id"] for p in await payloads(store)] == ["u0", "u1", "u2"]
    await store.close()


async def test_an_unavailable_database_drops_events_without_an_error() -> None:
    away = await PostgresStore.open(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    events = LimitEvents(away.limits, ANNOUNCER, Clock())
    events.note(CJ, cause("x"))

    await events.flush()

    assert events.dropped == 1
    await away.close()
