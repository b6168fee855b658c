"""The contract of stores for the relay, on every engine."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.engine import Store
from entitlements.app.outbox.store import BUCKETS, Epochs, Event, ParkedCursor, Unpublishable
from entitlements.app.ports import Backlog
from entitlements.core.model import AuditEntry, Subject, WalletKey
from entitlements.ids import uuid7
from tests.audit import audited
from tests.books import findings
from tests.stores.clerk import (
    NOON,
    SCHOOL,
    TEACHER,
    Clerk,
    Clock,
    a_limit_event,
    a_near_event,
    consume,
    first_column,
    give,
    origin,
)

LEASE_S = 30.0
ALL = range(BUCKETS)


def an_entry() -> AuditEntry:
    return AuditEntry(
        id=uuid7(),
        at=NOON,
        actor="tester",
        client="tests",
        action="outbox.retry",
        subject=None,
        reason="fixed",
        detail={},
        correlation_id="c",
    )


async def hold(store: Store, relay: str = "a", sink: str = "kafka") -> Epochs:
    return (await store.outbox.heartbeat(relay, sink=sink, lease_s=LEASE_S)).epochs


async def unpublished(
    store: Store, buckets: Iterable[int] = ALL, *, each: int = 100, **wanted: Any
) -> list[Event]:
    return await store.outbox.unpublished(buckets, each=each, **({"at_most": 1_000} | wanted))


async def ship(store: Store, epochs: Epochs, events: list[Event], *, keep: bool = True) -> set[int]:
    return await store.outbox.mark_published("a", epochs, events, [], keep=keep)


def refusal(event: Event) -> Unpublishable:
    return Unpublishable(event=event, reason="too large", attempts=3)


async def test_the_first_relay_leases_every_bucket(store: Store) -> None:
    held = await hold(store)

    assert held == dict.fromkeys(ALL, 1)
    assert await hold(store) == held, "the leases are renewed, not claimed again"


async def test_two_relays_share_the_buckets_and_the_last_one_takes_all(store: Store) -> None:
    await hold(store)

    second = await hold(store, "b")
    first = await hold(store)
    second = await hold(store, "b")

    assert (len(first), len(second)) == (32, 32)
    assert first.keys() | second.keys() == set(ALL)
    assert set(second.values()) == {2}
    await store.outbox.release_leases("a")
    assert (await hold(store, "b")).keys() == set(ALL)


async def test_three_relays_share_nearly_equally(store: Store) -> None:
    for _ in range(2):
        shares = [len(await hold(store, name)) for name in "abc"]
    shares = [len(await hold(store, name)) for name in "abc"]

    assert sum(shares) == BUCKETS
    assert sorted(shares) == [20, 22, 22]


async def test_a_relay_that_does_not_renew_its_lease_loses_it(store: Store, clock: Clock) -> None:
    first = await hold(store)
    clock.turn_to(LEASE_S - 1)
    assert await hold(store, "b") == {}
    clock.turn_to(LEASE_S)

    second = await hold(store, "b")

    assert second == dict.fromkeys(ALL, 2)
    assert await store.outbox.mark_published("a", first, [], [], keep=True) == set()
    assert await store.outbox.mark_published("b", second, [], [], keep=True) == set(ALL)
    assert await hold(store) == {}


async def test_an_expired_lease_stays_valid_until_another_relay_claims_it(
    store: Store, clock: Clock
) -> None:
    first = await hold(store)
    clock.turn_to(LEASE_S * 9)

    assert await store.outbox.mark_published("a", first, [], [], keep=True) == set(ALL)
    assert await hold(store) == first


async def test_renewing_without_rebalancing_releases_no_buckets(store: Store) -> None:
    first = await hold(store)
    await hold(store, "b")

    renewed = await store.outbox.heartbeat("a", sink="kafka", lease_s=LEASE_S, rebalance=False)

    assert renewed.epochs == first


async def test_the_bus_yields_to_every_other_sink_until_handed_over(store: Store) -> None:
    assert len(await hold(store, "bus-1", "bus")) == BUCKETS
    await hold(store, "a")

    assert await hold(store, "bus-1", "bus") == {}
    assert len(await hold(store, "a")) == BUCKETS
    await store.outbox.release_leases("a")
    assert await hold(store, "bus-1", "bus") == {}
    assert await store.outbox.release_sink(an_entry()) == BUCKETS
    assert len(await hold(store, "bus-1", "bus")) == BUCKETS


async def test_a_relay_without_subscribers_yields_to_one_with_subscribers(store: Store) -> None:
    assert len(await hold(store, "deaf", "nobody")) == BUCKETS
    await hold(store, "hears", "bus")

    assert await hold(store, "deaf", "nobody") == {}
    assert len(await hold(store, "hears", "bus")) == BUCKETS


async def test_waiting_events_keep_the_order_of_their_wallets(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER), give(10, SCHOOL))
    clerk.clock.turn_to(1)
    await clerk.do(*(consume(1) for _ in range(3)))
    clerk.clock.turn_to(-60)  # the clock steps back
    await clerk.do(consume(1))

    found = [(e.seq, e.n) for e in await unpublished(store) if e.key == "teacher"]

    assert found == sorted(found)
    assert [seq for seq, _ in found] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


async def test_waiting_events_are_limited_per_bucket_and_exclude_the_given_keys(
    store: Store, clerk: Clerk
) -> None:
    users = [f"u{n}" for n in range(20)]
    await clerk.do(*(give(10, WalletKey("user", user, "credits")) for user in users))
    await clerk.do(*(consume(1, user_id="u7") for _ in range(9)))

    all_of_them = await unpublished(store)
    one_each = await unpublished(store, each=1)
    some = await unpublished(store, each=2, at_most=5)
    without = await unpublished(store, without=["u7", "u8"])

    assert len(all_of_them) == 20 * 2 + 9 * 2
    assert [e.bucket for e in one_each] == sorted({e.bucket for e in all_of_them})
    assert len(some) == 5
    assert {e.key for e in without} == set(users) - {"u7", "u8"}
    (hot,) = {e.bucket for e in all_of_them if e.key == "u7"}
    assert {e.bucket for e in await unpublished(store, [hot])} == {hot}
    assert await unpublished(store, []) == []


@pytest.mark.parametrize("keep", [True, False])
async def test_published_events_no_longer_wait(store: Store, clerk: Clerk, *, keep: bool) -> None:
    await clerk.do(give(10, TEACHER), give(10, SCHOOL))
    events = await unpublished(store)

    held = await ship(store, await hold(store), events[:3], keep=keep)

    assert held == set(ALL)
    assert await unpublished(store) == events[3:]
    assert (await store.outbox.backlog()).events == len(events) - 3


async def test_a_stale_relay_marks_nothing(store: Store, clerk: Clerk, clock: Clock) -> None:
    await clerk.do(give(10, TEACHER), give(10, SCHOOL))
    stale = await hold(store)
    events = await unpublished(store)
    clock.turn_to(LEASE_S)
    await hold(store, "b")

    for keep in (True, False):
        held = await store.outbox.mark_published(
            "a", stale, events, [refusal(events[0])], keep=keep
        )
        assert held == set()
    assert await store.outbox.discard_unsubscribed("a", stale, at_most=10) == 0
    assert await store.outbox.clean("a", stale, retention_s=0, limit=10) == 0
    assert await unpublished(store) == events


async def test_a_relay_with_an_earlier_epoch_marks_nothing(
    store: Store, clerk: Clerk, clock: Clock
) -> None:
    await clerk.do(give(10, TEACHER))
    stale = await hold(store)
    events = await unpublished(store)
    clock.turn_to(LEASE_S)
    await hold(store, "b")
    clock.turn_to(LEASE_S * 2)
    again = await hold(store)

    assert await ship(store, stale, events) == set()
    assert await unpublished(store) == events
    assert await ship(store, again, events) == set(ALL)


async def test_only_events_in_buckets_still_leased_are_marked(store: Store, clerk: Clerk) -> None:
    users = [WalletKey("user", f"u{n}", "credits") for n in range(200)]
    await clerk.do(*(give(10, user) for user in users))
    first = await hold(store)
    events = await unpublished(store)
    await hold(store, "b")
    kept = (await hold(store)).keys()
    await hold(store, "b")

    assert await ship(store, first, events) == kept
    assert {e.bucket for e in await unpublished(store)} == set(ALL) - kept


async def test_refused_events_are_parked_with_their_reasons(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    first, *others = await unpublished(store)

    await store.outbox.mark_published("a", await hold(store), others, [refusal(first)], keep=True)

    backlog = await store.outbox.backlog()
    (parked,) = await store.outbox.parked(10)
    assert (backlog.events, backlog.parked) == (0, 1)
    assert (parked.event_id, parked.event_type) == (first.event_id, first.event_type)
    assert (parked.wallet, parked.seq) == (TEACHER, 1)
    assert (parked.reason, parked.attempts, parked.parked_at) == ("too large", 3, NOON)


async def test_parked_events_are_paged_and_retried(store: Store, clerk: Clerk) -> None:
    await clerk.do(*(give(1, WalletKey("user", f"u{n}", "credits")) for n in range(5)))
    events = await unpublished(store)
    epochs = await hold(store)
    refused = [refusal(event) for event in events[:5]]
    await store.outbox.mark_published("a", epochs, events[5:], refused, keep=True)

    page = await store.outbox.parked(3)
    rest = await store.outbox.parked(3, ParkedCursor(page[-1].parked_at, page[-1].event_id))

    assert sorted(p.event_id for p in page + rest) == sorted(e.event_id for e in events[:5])
    assert await store.outbox.retry(uuid7(), an_entry()) == 0
    assert await store.outbox.retry(events[0].event_id, an_entry()) == 1
    assert await unpublished(store) == [events[0]]
    assert await store.outbox.retry(None, an_entry()) == 4
    assert sorted(e.event_id for e in await unpublished(store)) == sorted(
        e.event_id for e in events[:5]
    )
    acts = [entry.action for entry in await audited(store, 10)]
    assert acts.count("outbox.retry") == 2
    await ship(store, epochs, events[:5])


async def test_events_without_subscribers_are_discarded(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER), *(consume(1) for _ in range(4)))
    epochs = await hold(store, sink="nobody")
    first = (await unpublished(store))[:3]

    assert await store.outbox.discard_unsubscribed("a", epochs, at_most=3) == 3

    left = await unpublished(store)
    assert len(left) == 7
    assert not {e.event_id for e in left} & {e.event_id for e in first}
    assert await store.outbox.discard_unsubscribed("a", epochs, at_most=100) == 7


async def test_published_events_are_deleted_after_their_retention(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    epochs = await hold(store)
    await ship(store, epochs, await unpublished(store))
    clerk.clock.turn_to(60)
    await clerk.do(consume(1))
    late = await unpublished(store)
    await ship(store, epochs, late[:1])

    clerk.clock.turn_to(119.9)
    assert await store.outbox.clean("a", epochs, retention_s=120, limit=10) == 0
    clerk.clock.turn_to(120)
    assert await store.outbox.clean("a", epochs, retention_s=120, limit=1) == 1
    assert await store.outbox.clean("a", epochs, retention_s=120, limit=10) == 1
    assert await store.outbox.clean("a", epochs, retention_s=120, limit=10) == 0
    assert await unpublished(store) == late[1:]


@pytest.mark.parametrize("keep", [True, False])
async def test_a_missing_event_newer_than_the_deleted_ones_is_found(
    store: Store, clerk: Clerk, request: pytest.FixtureRequest, *, keep: bool
) -> None:
    await clerk.do(give(10, TEACHER))
    epochs = await hold(store)
    await ship(store, epochs, await unpublished(store), keep=keep)
    await store.outbox.clean("a", epochs, retention_s=0, limit=10)
    clerk.clock.turn_to(1)
    await clerk.do(consume(1))
    url = (
        request.getfixturevalue("postgres_url")
        if isinstance(store, PostgresStore)
        else f"sqlite:///{request.getfixturevalue('tmp_path')}/books.db"
    )
    assert await findings(url) == []
    lost = await unpublished(store)
    # As if the events had never been written: delete them and reset `cleaned_until`.
    await ship(store, epochs, lost, keep=False)
    await turn_note_back(store)

    found = await findings(url)

    assert {finding.invariant for finding in found} == {
        "balance_change_has_one_event",
        "usage_has_one_event",
    }
    await ship(store, epochs, lost, keep=False)


async def turn_note_back(store: Store) -> None:
    sql = "UPDATE relay_leases SET cleaned_until = {} WHERE cleaned_until IS NOT NULL"
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            await db.execute(sql.format("'2040-03-01 12:00:00+00'"))
        return
    at = round(NOON.timestamp() * 1_000_000)
    await store.db.write(lambda db: db.execute(sql.format(at)).fetchall())  # type: ignore[attr-defined]


async def waiting_limit_events(store: Store, limit: int = 10) -> list[str]:
    return [event.event_id for event in await store.outbox.limit_events(limit)]


async def test_limit_events_are_published_once(store: Store) -> None:
    events = [
        a_limit_event(Subject("user", f"u{n}"), created_at=NOON + timedelta(seconds=n))
        for n in range(3)
    ]
    await store.limits.add_limit_exceeded(events)

    assert await waiting_limit_events(store, 2) == [event.event_id for event in events[:2]]
    await store.outbox.mark_limit_events(events[:2])
    left = [events[2].event_id]
    assert await waiting_limit_events(store) == left
    await store.limits.add_limit_exceeded(events)
    assert await waiting_limit_events(store) == left, "a limit has one event per minute"


async def test_exceeded_and_near_limits_are_published_oldest_first(store: Store) -> None:
    at = [NOON + timedelta(seconds=n) for n in range(4)]
    users = [Subject("user", f"u{n}") for n in range(4)]
    exceeded = [a_limit_event(users[n], created_at=at[n]) for n in (1, 3)]
    near = [a_near_event(users[n], created_at=at[n]) for n in (0, 2)]
    await store.limits.add_limit_exceeded(exceeded)
    await store.limits.add_limit_near(near)
    ids = [event.event_id for event in (near[0], exceeded[0], near[1], exceeded[1])]

    found = await store.outbox.limit_events(3)

    assert [event.event_id for event in found] == ids[:3]
    assert [event.payload for event in found] == [
        near[0].payload,
        exceeded[0].payload,
        near[1].payload,
    ]
    await store.outbox.mark_limit_events(found)
    assert await waiting_limit_events(store) == ids[3:]


async def test_a_near_event_that_replaced_a_published_one_is_published_too(store: Store) -> None:
    first, later = a_near_event(), a_near_event(created_at=NOON + timedelta(seconds=60))
    await store.limits.add_limit_near([first])
    published = await store.outbox.limit_events(10)
    await store.limits.add_limit_near([later])

    await store.outbox.mark_limit_events(published)

    assert await waiting_limit_events(store) == [later.event_id]


async def test_the_leases_name_their_holder_and_sink(store: Store, clock: Clock) -> None:
    await hold(store)

    lines = await store.outbox.leases()

    assert [line.bucket for line in lines] == list(ALL)
    assert {(line.holder, line.epoch, line.sink) for line in lines} == {("a", 1, "kafka")}
    assert {line.expires_at for line in lines} == {clock.at(LEASE_S)}


async def test_a_clock_that_steps_back_makes_no_lease_longer(store: Store, clock: Clock) -> None:
    clock.turn_to(3_600)
    await hold(store, "killed")
    clock.turn_to(0)

    assert await hold(store, "b") == dict.fromkeys(ALL, 2)


async def test_nothing_is_discarded_once_there_is_a_subscriber(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(9, TEACHER))
    epochs = await hold(store, "deaf", "nobody")
    await hold(store, "hears", "bus")

    assert await store.outbox.discard_unsubscribed("deaf", epochs, at_most=10) == 0
    assert len(await unpublished(store)) == 2


async def test_the_backlog_is_the_number_of_unpublished_events_and_the_age_of_the_oldest(
    store: Store, clerk: Clerk
) -> None:
    before = await store.outbox.backlog()

    await clerk.do(give(10, TEACHER))
    clerk.clock.turn_to(5)
    await clerk.do(consume(4))

    assert before == Backlog()
    assert await store.outbox.backlog() == Backlog(events=4, oldest_at=NOON), "two per operation"


async def test_events_keep_the_traceparent_of_their_request(store: Store, clerk: Clerk) -> None:
    span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    await clerk.do(give(10, TEACHER))
    await clerk.do(consume(4, replace(origin(), traceparent=span)))

    kept = await first_column(store, "event_outbox", "traceparent")
    assert sorted(kept, key=str) == [span, span, None, None]
