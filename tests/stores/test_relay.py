"""A relay ships what is committed: all of it, in order, and only until somebody has it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app import backoff
from entitlements.app import bus as bus_module
from entitlements.app import relay as module
from entitlements.app.bus import Bus, BusEvent
from entitlements.app.engine import Store
from entitlements.app.outbox import BUCKETS, Event
from entitlements.app.ports import LimitExceeded
from entitlements.app.relay import Relay, Shipping
from entitlements.app.sinks import Failed, Fate, Message, Refused, Taken
from entitlements.core.model import Subject, WalletKey
from entitlements.ids import uuid7
from tests.stores.clerk import NOON, SCHOOL, TEACHER, Clerk, consume, give, origin
from tests.waiting import until

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
USERS = [WalletKey("user", f"u{n}", "credits") for n in range(30)]


class Shelf:
    """Keeps what it takes. ``fate`` decides, by message, what becomes of it."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.tried = 0
        self.fate: Callable[[Message], Fate] = lambda _: Taken()

    async def publish(self, messages: Sequence[Message]) -> list[Fate]:
        self.tried += 1
        failed: set[str] = set()
        fates: list[Fate] = []
        for message in messages:
            fate = Failed("behind") if message.key in failed else self.fate(message)
            if isinstance(fate, Failed):
                failed.add(message.key)
            if isinstance(fate, Taken):
                self.taken.append(message)
            fates.append(fate)
        return fates

    def ids(self, key: str | None = None) -> list[str]:
        return [one.event_id for one in self.taken if key in (None, one.key)]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@asynccontextmanager
async def relaying(store: Store, shelf: Shelf | Bus, **shipping: Any) -> AsyncIterator[Relay]:
    given = Shipping(sink=shelf, **({"name": "shelf"} | shipping))
    relay = Relay(store.outbox, given, name="a", source="entitlements_service")
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def everything(store: Store) -> list[Event]:
    return await store.outbox.waiting(range(BUCKETS), each=10_000, at_most=10_000)


def by_key(events: Sequence[Event]) -> dict[str, list[str]]:
    """Event ids in the order of the only wallet of each key."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in sorted(events, key=lambda one: (one.seq, one.n)):
        found[event.key].append(event.event_id)
    return found


async def until_shipped(store: Store) -> None:
    async def is_empty() -> bool:
        return (await store.backlog()).events == 0

    await until(is_empty)


@pytest.fixture
async def events(clerk: Clerk) -> list[Event]:
    """Many wallets, and one that is busy."""
    await clerk.do(*(give(9, user) for user in USERS))
    await clerk.do(*(consume(1, user_id=user.subject_id) for user in USERS for _ in range(3)))
    await clerk.do(give(2_000, TEACHER), *(consume(1) for _ in range(1_200)))
    return await everything(clerk.store)


async def test_everything_arrives_once_and_in_order(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf) as relay:
        await until_shipped(store)

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)
    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)
    assert relay.published == len(events)
    assert {line.holder for line in await store.outbox.leases()} == {None}, "given back"


async def test_a_busy_wallet_keeps_nobody_waiting(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf):
        await until(lambda: len(shelf.taken) > 0)
        first = shelf.taken[: module.EACH_LEAST * BUCKETS]

    assert {one.key for one in first} == {event.key for event in events}


async def test_a_record_says_what_it_is(store: Store, clerk: Clerk, shelf: Shelf) -> None:
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


async def test_what_fails_comes_again_and_holds_up_its_own_key_alone(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    stuck = {"teacher"}
    shelf.fate = lambda one: Failed("not now") if one.key in stuck else Taken()

    async with relaying(store, shelf) as relay:
        await until(lambda: len(shelf.taken) == sum(event.key != "teacher" for event in events))
        await until(lambda: relay.failed > 0)
        assert shelf.ids("teacher") == []
        stuck.clear()
        await until_shipped(store)

    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)


async def test_while_nothing_passes_nothing_is_written_and_then_all_arrives(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    shelf.fate = lambda _: Failed("the broker is away")

    async with relaying(store, shelf) as relay:
        await until(lambda: shelf.tried >= 4)
        assert await everything(store) == events
        failing = relay.is_failing
        shelf.fate = lambda _: Taken()
        await until_shipped(store)
        assert (failing, relay.is_failing) == (True, False)

    assert {key: shelf.ids(key) for key in by_key(events)} == by_key(events)


async def test_a_sink_that_breaks_is_tried_again(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    def broken(_: Message) -> Fate:
        raise RuntimeError("a bug")

    shelf.fate = broken
    async with relaying(store, shelf):
        await until(lambda: shelf.tried >= 2)
        shelf.fate = lambda _: Taken()
        await until_shipped(store)

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)


async def test_what_is_refused_is_parked_and_later_events_go_on(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    expected = by_key(events)
    bad = {expected["teacher"][4], expected["u3"][0]}
    shelf.fate = lambda one: Refused("too large") if one.event_id in bad else Taken()

    async with relaying(store, shelf) as relay:
        await until_shipped(store)

    parked = await store.outbox.parked(10)
    assert {one.event_id for one in parked} == bad
    assert {(one.reason, one.attempts) for one in parked} == {("too large", 1)}
    assert (relay.parked, relay.failed) == (2, 2)
    for key, ids in expected.items():
        assert shelf.ids(key) == [one for one in ids if one not in bad]


async def test_a_relay_is_woken_at_once(
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


async def test_a_stop_ships_what_is_there(store: Store, events: list[Event], shelf: Shelf) -> None:
    async with relaying(store, shelf):
        pass

    assert sorted(shelf.ids()) == sorted(event.event_id for event in events)


async def test_without_retention_nothing_is_kept(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    async with relaying(store, shelf, retention_s=0):
        await until_shipped(store)

    assert len(shelf.taken) == len(events)
    epochs = (await store.outbox.tend("b", sink="shelf", lease_s=30)).epochs
    assert await store.outbox.clean("b", epochs, retention_s=-1, limit=10_000) == 0


async def test_a_relay_cleans_up_after_the_retention(
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
    if hasattr(store, "_pool"):
        async with store._connection() as db:  # type: ignore[attr-defined]
            return int(await db.fetchval(sql))
    found = await store._read(lambda db: db.execute(sql).fetchall())  # type: ignore[attr-defined]
    return int(found[0][0])


async def test_two_relays_ship_everything_between_them(store: Store, events: list[Event]) -> None:
    shelves = Shelf(), Shelf()

    async def gradually(shelf: Shelf, name: str) -> Relay:
        relay = Relay(store.outbox, Shipping(sink=shelf, name="shelf"), name=name, source="s")
        relay.start()
        await until(lambda: relay.buckets > 0)
        return relay

    shelves[0].fate = shelves[1].fate = lambda _: Failed("wait")
    first = await gradually(shelves[0], "a")
    second = Relay(store.outbox, Shipping(sink=shelves[1], name="shelf"), name="b", source="s")
    second.start()
    try:
        first._tend_at = 0.0
        await until(lambda: (first.buckets, second.buckets) == (32, 32))
        shelves[0].fate = shelves[1].fate = lambda _: Taken()
        await until_shipped(store)
    finally:
        await first.stop()
        await second.stop()

    assert all(shelf.taken for shelf in shelves)
    both = shelves[0].ids() + shelves[1].ids()
    assert sorted(both) == sorted(event.event_id for event in events)


async def test_what_nobody_wants_counts_as_shipped(
    store: Store, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAF_S", 0.0)
    bus = Bus()
    async with relaying(store, bus, name="bus", is_heard=lambda: bus.is_heard) as relay:
        await until_shipped(store)

    assert relay.published == len(events)


async def test_handlers_see_the_types_they_want_in_order(store: Store, events: list[Event]) -> None:
    bus = Bus()
    all_of_them: list[BusEvent] = []
    balances: list[BusEvent] = []

    async def see(event: BusEvent) -> None:
        all_of_them.append(event)

    async def see_balance(event: BusEvent) -> None:
        balances.append(event)

    bus.subscribe(see)
    bus.subscribe(see_balance, "*.credit.balance.changed.v1", "nothing")
    async with relaying(store, bus, name="bus", is_heard=lambda: bus.is_heard):
        await until_shipped(store)

    assert {e.event_type for e in balances} == {"huleedu.entitlements.credit.balance.changed.v1"}
    assert len(all_of_them) == len(events)
    of_teacher = [e.data["seq"] for e in balances if e.data["subject"]["id"] == "teacher"]
    assert of_teacher == list(range(1, 1_202))


async def test_a_handler_that_raises_sees_the_event_again_until_it_is_parked(
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


async def test_events_wait_for_handlers_that_may_be_on_their_way(
    store: Store, clerk: Clerk
) -> None:
    bus = Bus()
    seen: list[BusEvent] = []

    async def see(event: BusEvent) -> None:
        seen.append(event)

    await clerk.do(give(9, TEACHER))
    async with relaying(store, bus, name="bus", is_heard=lambda: bus.is_heard) as relay:
        await until(lambda: relay.buckets == BUCKETS)
        bus.subscribe(see)
        await until_shipped(store)

    assert len(seen) == 2


async def test_a_subscription_ends(
    store: Store, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAF_S", 0.0)
    bus = Bus()

    async def see(_: BusEvent) -> None:
        raise AssertionError("not wanted any more")

    end = bus.subscribe(see)
    end()
    end()

    assert not bus.is_heard
    await clerk.do(give(9, TEACHER))
    async with relaying(store, bus, name="bus", is_heard=lambda: bus.is_heard):
        await until_shipped(store)


@pytest.mark.parametrize("reason", ["what \x00 is no text", "what \udcff is no text"])
async def test_a_reason_that_no_database_can_keep_stops_nothing(
    store: Store, clerk: Clerk, shelf: Shelf, reason: str
) -> None:
    await clerk.do(give(9, TEACHER), give(9, SCHOOL))
    shelf.fate = lambda message: Refused(reason) if message.key == "teacher" else Taken()

    async with relaying(store, shelf):
        await until_shipped(store)

    parked = await store.outbox.parked(10)
    assert {one.reason for one in parked} == {"what \ufffd is no text"}


async def test_a_slow_sink_shares_with_a_relay_that_comes_later(
    store: Store, events: list[Event], shelf: Shelf
) -> None:
    class Slow(Shelf):
        async def publish(self, messages: Sequence[Message]) -> list[Fate]:
            await asyncio.sleep(0.3)
            return await super().publish(messages[:1])

    given = Shipping(sink=shelf, name="shelf", lease_s=1.2)
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


async def test_a_sink_that_takes_nothing_is_known_by_a_single_subject(
    store: Store, clerk: Clerk, shelf: Shelf
) -> None:
    await clerk.do(give(9, TEACHER))
    shelf.fate = lambda _: Failed("away")

    async with relaying(store, shelf) as relay:
        await until(lambda: relay.is_failing)
        shelf.fate = lambda _: Taken()
        await until_shipped(store)
        await until(lambda: not relay.is_failing)


async def test_events_of_limits_that_fail_hold_up_no_others(
    store: Store, clerk: Clerk, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 3_600.0)
    limit = exceeded()
    await store.add_limit_exceeded([limit])
    shelf.fate = lambda one: Failed("no such topic") if one.topic == "limit" else Taken()

    async with relaying(store, shelf) as relay:
        await until(lambda: relay.failed == 1)
        await clerk.do(give(9, TEACHER))
        await until_shipped(store)

        assert relay.is_failing
        await store.outbox.limit_events_told([limit])
        relay._limits_at = 0.0
        await until(lambda: not relay.is_failing)


async def test_slow_handlers_have_their_turns_and_others_need_not_wait_for_the_last(
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
