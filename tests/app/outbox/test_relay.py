"""The relay publishes every committed event, in order, until the sink acknowledges it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.engine import Store
from entitlements.app.outbox import bus as bus_module
from entitlements.app.outbox import relay as module
from entitlements.app.outbox.bus import Bus, BusEvent
from entitlements.app.outbox.relay import Destination, Relay
from entitlements.app.outbox.sink import Acked, Message, NotAcked, PublishResult, Undeliverable
from entitlements.app.outbox.store import BUCKETS, Event
from entitlements.app.ports import LimitExceeded
from entitlements.app.process import backoff
from entitlements.core.model import Subject, WalletKey
from entitlements.ids import uuid7
from tests.stores.clerk import NOON, SCHOOL, TEACHER, Clerk, consume, give, origin
from tests.waiting import until

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
USERS = [WalletKey("user", f"u{n}", "credits") for n in range(30)]


class Shelf:
    """A sink that keeps the messages it accepts. ``result`` decides the result of each message."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.tried = 0
        self.result: Callable[[Message], PublishResult] = lambda _: Acked()

    async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        self.tried += 1
        failed: set[str] = set()
        results: list[PublishResult] = []
        for message in messages:
            result = NotAcked("behind") if message.key in failed else self.result(message)
            if isinstance(result, NotAcked):
                failed.add(message.key)
            if isinstance(result, Acked):
                self.taken.append(message)
            results.append(result)
        return results

    def ids(self, key: str | None = None) -> list[str]:
        return [one.event_id for one in self.taken if key in (None, one.key)]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@asynccontextmanager
async def relaying(store: Store, shelf: Shelf | Bus, **destination: Any) -> AsyncIterator[Relay]:
    given = Destination(sink=shelf, **({"name": "shelf"} | destination))
    relay = Relay(store.outbox, given, name="a", source="entitlements_service")
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def everything(store: Store) -> list[Event]:
    return await store.outbox.unpublished(range(BUCKETS), each=10_000, at_most=10_000)


def by_key(events: Sequence[Event]) -> dict[str, list[str]]:
    """Return the event ids of each key, in the order of its only wallet."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in sorted(events, key=lambda one: (one.seq, one.n)):
        found[event.key].append(event.event_id)
    return found


async def until_shipped(store: Store) -> None:
    async def is_empty() -> bool:
        return (await store.outbox.backlog()).events == 0

    await until(is_empty)


@pytest.fixture
async def events(clerk: Clerk) -> list[Event]:
    """Return the events of many wallets, one of them busy."""
    await clerk.do(*(give(9, user) for user in USERS))
    await clerk.do(*(consume(1, user_id=user.subject_id) for user in USERS for _ in range(3)))
    await clerk.do(give(2_000, TEACHER), *(consume(1) for _ in range(1_200)))
    return await everything(clerk.store)


async def test_every_event_is_published_once_and_in_order(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf) as relay:
        await until_shipped(store)

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)
    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)
    assert relay.published == len(events)
    assert {line.holder for line in await store.outbox.leases()} == {None}, "released"


async def test_a_busy_wallet_does_not_delay_others(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf):
        await until(lambda: len(shelf.taken) > 0)
        first = shelf.taken[: module.EACH_MIN * BUCKETS]

    assert {one.key for one in first} == {event.key for event in events}


async def test_a_message_has_headers_that_describe_it(
    store: Store, clerk: Clerk, shelf: Shelf
) -> None:
    asked = replace(origin(), traceparent=SPAN)
    await clerk.do(give(5, TEACHER), consume(1, asked))

    async with relaying(store, shelf):
        await until_shipped(store)

    given, *_, spent = shelf.taken
    assert spent.topic == "huleedu.entitlements.credit.balance.changed.v1"
    assert (spent.key, spent.payload[:1]) == ("teacher", "{")
    assert spent.headers == {
        "event_id": spent.event_id,
        "event_type": spent.topic,
        "content_type": "application/json",
        "schema_version": "1",
        "source_service": "entitlements_service",
        "occurred_at": "2040-03-01T12:00:00Z",
        "traceparent": SPAN,
        "trace_id": asked.correlation_id,
    }
    assert json.loads(spent.payload)["metadata"] == {"user_id": "teacher", "traceparent": SPAN}
    assert "traceparent" not in given.headers
    assert json.loads(given.payload)["metadata"] == {}


async def test_a_failed_event_is_retried_and_delays_only_its_key(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    stuck = {"teacher"}
    shelf.result = lambda one: NotAcked("not now") if one.key in stuck else Acked()

    async with relaying(store, shelf) as relay:
        await until(lambda: len(shelf.taken) == sum(event.key != "teacher" for event in events))
        await until(lambda: relay.failed > 0)
        assert shelf.ids("teacher") == []
        stuck.clear()
        await until_shipped(store)

    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)


async def test_while_publishing_fails_nothing_is_written_and_later_all_is_published(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    shelf.result = lambda _: NotAcked("the broker is away")

    async with relaying(store, shelf) as relay:
        await until(lambda: shelf.tried >= 4)
        assert await everything(store) == events
        failing = relay.is_failing
        shelf.result = lambda _: Acked()
        await until_shipped(store)
        assert (failing, relay.is_failing) == (True, False)

    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)


async def test_a_sink_that_raises_is_retried(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    def broken(_: Message) -> PublishResult:
        raise RuntimeError("a bug")

    shelf.result = broken
    async with relaying(store, shelf):
        await until(lambda: shelf.tried >= 2)
        shelf.result = lambda _: Acked()
        await until_shipped(store)

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)


async def test_a_refused_event_is_parked_and_later_ones_are_published(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    expected = by_key(events)
    bad = {expected["teacher"][4], expected["u3"][0]}
    shelf.result = lambda one: Undeliverable("too large") if one.event_id in bad else Acked()

    async with relaying(store, shelf) as relay:
        await until_shipped(store)

    parked = await store.outbox.parked(10)
    assert {one.event_id for one in parked} == bad
    assert {(one.reason, one.attempts) for one in parked} == {("too large", 1)}
    assert (relay.parked, relay.failed) == (2, 2)
    for key, ids in expected.items():
        assert shelf.ids(key) == [one for one in ids if one not in bad]


async def test_waking_a_relay_publishes_immediately(
    store: Store, clerk: Clerk, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_S", 3_600.0)
    async with relaying(store, shelf) as relay:
        await until(lambda: relay.buckets == BUCKETS)
        await clerk.do(give(5, TEACHER))
        relay.wake()
        await until(lambda: len(shelf.taken) == 2)


async def test_events_of_other_processes_are_found(
    store: Store, clerk: Clerk, shelf: Shelf
) -> None:
    async with relaying(store, shelf) as relay:
        await until(lambda: relay.buckets == BUCKETS)
        await clerk.do(give(5, TEACHER))
        await until(lambda: len(shelf.taken) == 2)


async def test_stopping_publishes_the_waiting_events(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf):
        pass

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)


async def test_without_retention_published_events_are_deleted(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf, retention_s=0):
        await until_shipped(store)

    assert len(shelf.taken) == len(events)
    epochs = (await store.outbox.heartbeat("b", sink="shelf", lease_s=30)).epochs
    assert await store.outbox.clean("b", epochs, retention_s=-1, limit=10_000) == 0


async def test_a_relay_deletes_events_after_the_retention(
    store: Store, clerk: Clerk, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLEAN_S", 0.0)
    await clerk.do(give(5, SCHOOL))
    async with relaying(store, shelf, retention_s=3_600):
        await until_shipped(store)
        clerk.clock.turn_to(3_600)
        await clerk.do(give(5, SCHOOL))
        await until_shipped(store)
        clerk.clock.turn_to(3_601)

        async def has_two() -> bool:
            return await kept(store) == 2

        await until(has_two)


async def kept(store: Store) -> int:
    found: list[Any]
    sql = "SELECT count(*) FROM event_outbox"
    if store.kind == "PostgreSQL":
        async with store.db.connection() as db:  # type: ignore[attr-defined]
            return int(await db.fetchval(sql))
    found = await store.db.read(lambda db: db.execute(sql).fetchall())  # type: ignore[attr-defined]
    return int(found[0][0])


async def test_two_relays_publish_all_events_together(store: Store, events: list[Event]) -> None:
    shelves = Shelf(), Shelf()

    async def gradually(shelf: Shelf, name: str) -> Relay:
        relay = Relay(store.outbox, Destination(sink=shelf, name="shelf"), name=name, source="s")
        relay.start()
        await until(lambda: relay.buckets > 0)
        return relay

    shelves[0].result = shelves[1].result = lambda _: NotAcked("wait")
    first = await gradually(shelves[0], "a")
    second = Relay(store.outbox, Destination(sink=shelves[1], name="shelf"), name="b", source="s")
    second.start()
    try:
        first._heartbeat_at = 0.0
        await until(lambda: (first.buckets, second.buckets) == (32, 32))
        shelves[0].result = shelves[1].result = lambda _: Acked()
        await until_shipped(store)
    finally:
        await first.stop()
        await second.stop()

    assert all(shelf.taken for shelf in shelves)
    both = shelves[0].ids() + shelves[1].ids()
    assert sorted(both) == sorted(event.event_id for event in events)


async def test_events_without_subscribers_count_as_published(
    store: Store, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NO_SUBSCRIBER_GRACE_S", 0.0)
    bus = Bus()
    async with relaying(
        store, bus, name="bus", has_subscribers=lambda: bus.has_subscribers
    ) as relay:
        await until_shipped(store)

    assert relay.published == len(events)


async def test_handlers_get_the_event_types_they_subscribe_to_in_order(
    store: Store, events: list[Event]
) -> None:
    bus = Bus()
    all_of_them: list[BusEvent] = []
    balances: list[BusEvent] = []

    async def see(event: BusEvent) -> None:
        all_of_them.append(event)

    async def see_balance(event: BusEvent) -> None:
        balances.append(event)

    bus.subscribe(see)
    bus.subscribe(see_balance, "*.credit.balance.changed.v1", "nothing")
    async with relaying(store, bus, name="bus", has_subscribers=lambda: bus.has_subscribers):
        await until_shipped(store)

    assert {e.event_type for e in balances} == {"huleedu.entitlements.credit.balance.changed.v1"}
    assert len(all_of_them) == len(events)
    of_teacher = [e.data["seq"] for e in balances if e.data["subject"]["id"] == "teacher"]
    assert of_teacher == list(range(1, 1_202))


async def test_a_handler_that_raises_gets_the_event_again_until_it_is_parked(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(9, TEACHER), give(9, SCHOOL), consume(1), consume(1))
    bus = Bus(attempts_max=3)
    seen: list[tuple[str, int]] = []

    async def moody(event: BusEvent) -> None:
        subject, seq = event.data["subject"]["id"], event.data["seq"]
        seen.append((subject, seq))
        if (subject, seq) == ("teacher", 2):
            raise ValueError("never")
        if (subject, seq) == ("school", 1) and seen.count(("school", 1)) < 2:
            await asyncio.sleep(3600)

    bus._handler_s = 0.02
    bus.subscribe(moody, "*.balance.changed.v1")
    async with relaying(store, bus, name="bus"):
        await until_shipped(store)

    of_teacher = [seq for subject, seq in seen if subject == "teacher"]
    assert of_teacher == [1, 2, 2, 2, 3]
    assert [seq for subject, seq in seen if subject == "school"] == [1, 1]
    (parked,) = await store.outbox.parked(10)
    assert (parked.seq, parked.reason) == (2, "ValueError: never")


async def test_events_wait_for_handlers_that_subscribe_shortly_after_the_start(
    store: Store, clerk: Clerk
) -> None:
    bus = Bus()
    seen: list[BusEvent] = []

    async def see(event: BusEvent) -> None:
        seen.append(event)

    await clerk.do(give(9, TEACHER))
    async with relaying(
        store, bus, name="bus", has_subscribers=lambda: bus.has_subscribers
    ) as relay:
        await until(lambda: relay.buckets == BUCKETS)
        bus.subscribe(see)
        await until_shipped(store)

    assert len(seen) == 2


async def test_a_subscription_ends(
    store: Store, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NO_SUBSCRIBER_GRACE_S", 0.0)
    bus = Bus()

    async def see(_: BusEvent) -> None:
        raise AssertionError("the subscription has ended")

    end = bus.subscribe(see)
    end()
    end()

    assert not bus.has_subscribers
    await clerk.do(give(9, TEACHER))
    async with relaying(store, bus, name="bus", has_subscribers=lambda: bus.has_subscribers):
        await until_shipped(store)


@pytest.mark.parametrize("reason", ["what \x00 is no text", "what \udcff is no text"])
async def test_a_reason_that_the_database_cannot_store_is_made_storable(
    store: Store, clerk: Clerk, shelf: Shelf, reason: str
) -> None:
    await clerk.do(give(9, TEACHER), give(9, SCHOOL))
    shelf.result = lambda message: Undeliverable(reason) if message.key == "teacher" else Acked()

    async with relaying(store, shelf):
        await until_shipped(store)

    parked = await store.outbox.parked(10)
    assert {one.reason for one in parked} == {"what \ufffd is no text"}


async def test_a_relay_with_a_slow_sink_shares_with_a_later_relay(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    class Slow(Shelf):
        async def publish(self, messages: Sequence[Message]) -> list[PublishResult]:
            await asyncio.sleep(0.3)
            return await super().publish(messages[:1])

    given = Destination(sink=shelf, name="shelf", lease_s=1.2)
    other = Relay(store.outbox, given, name="b", source="entitlements_service")
    async with relaying(store, Slow(), lease_s=1.2) as first:
        await until(lambda: first.buckets == BUCKETS)
        other.start()
        await until(lambda: other.buckets == BUCKETS // 2)
        await until(lambda: len(shelf.taken) > 0)

        assert first.buckets == BUCKETS // 2
    await other.stop()

    assert len(await everything(store)) < len(events)


def exceeded() -> LimitExceeded:
    return LimitExceeded(
        subject=Subject("user", "ada"),
        metric="cj",
        minute=36_900_000,
        event_id=uuid7(),
        event_type="limit",
        key="ada",
        payload="{}",
        created_at=NOON,
    )


async def test_a_sink_that_fails_for_a_single_subject_counts_as_failing(
    store: Store, clerk: Clerk, shelf: Shelf
) -> None:
    await clerk.do(give(9, TEACHER))
    shelf.result = lambda _: NotAcked("away")

    async with relaying(store, shelf) as relay:
        await until(lambda: relay.is_failing)
        shelf.result = lambda _: Acked()
        await until_shipped(store)
        await until(lambda: not relay.is_failing)


async def test_limit_events_that_fail_do_not_delay_other_events(
    store: Store, clerk: Clerk, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 3_600.0)
    limit = exceeded()
    await store.limits.add_limit_exceeded([limit])
    shelf.result = lambda one: NotAcked("no such topic") if one.topic == "limit" else Acked()

    async with relaying(store, shelf) as relay:
        await until(lambda: relay.failed == 1)
        await clerk.do(give(9, TEACHER))
        await until_shipped(store)

        assert relay.is_failing
        await store.outbox.mark_limit_events([limit])
        relay._limits_at = 0.0
        await until(lambda: not relay.is_failing)


async def test_a_batch_of_slow_handlers_is_limited_in_time_and_do_not_block_the_relay(
    store: Store, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "TURN_S", 0.05)
    seen: list[BusEvent] = []

    async def slow(event: BusEvent) -> None:
        seen.append(event)
        await asyncio.sleep(0.02)

    bus = Bus()
    bus.subscribe(slow)
    async with relaying(store, bus, name="bus") as relay:
        await until(lambda: relay.published > 0)

        assert relay.published < len(events) / 10
        assert relay.failed == 0
        monkeypatch.setattr(module, "DRAIN_S", 0.0)
