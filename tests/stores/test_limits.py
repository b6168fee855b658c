"""The contract of `LimitStore`, on every engine."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from msgspec.structs import replace

from entitlements.app.ports import (
    PastUse,
)
from entitlements.app.process.clock import in_ms
from entitlements.core import commands as c
from entitlements.core.model import Subject
from entitlements.core.policy import Cost
from entitlements.core.windows import slice_at
from entitlements.ids import uuid7
from tests.stores.clerk import (
    NOON,
    TEACHER,
    Clerk,
    Clock,
    Store,
    a_clerk,
    a_limit_event,
    a_near_event,
    a_policy,
    an_entry,
    consume,
    first_column,
    give,
    origin,
    together,
)

FREE = Cost(credits=0)


async def limit_event_ids(store: Store) -> set[str]:
    return {str(event_id) for event_id in await first_column(store, "limit_exceeded", "event_id")}


async def test_limit_events_are_unique_per_subject_metric_and_minute(store: Store) -> None:
    first = a_limit_event()
    others = [
        a_limit_event(subject=Subject("org", "teacher")),
        a_limit_event(subject=Subject("user", "other")),
        a_limit_event(metric="ai"),
        a_limit_event(minute=36_900_001),
    ]

    await store.limits.add_limit_exceeded([first])
    await store.limits.add_limit_exceeded([a_limit_event(), *others, a_limit_event()])
    await store.limits.add_limit_exceeded([])

    assert await limit_event_ids(store) == {event.event_id for event in [first, *others]}


async def test_limit_events_are_purged_after_a_day(store: Store, clock: Clock) -> None:
    events = [a_limit_event(minute=n, created_at=clock.at(n)) for n in (1, 2, 3)]
    await store.limits.add_limit_exceeded(events)
    clock.turn_to(24 * 3600 + 2.5)

    await store.limits.purge(10)

    assert await limit_event_ids(store) == {events[2].event_id}


async def near_event_ids(store: Store) -> set[str]:
    return {str(event_id) for event_id in await first_column(store, "limit_near", "event_id")}


async def test_near_events_are_unique_per_subject_metric_and_window(store: Store) -> None:
    first = a_near_event()
    others = [
        a_near_event(subject=Subject("org", "teacher")),
        a_near_event(subject=Subject("user", "other")),
        a_near_event(metric="ai"),
        a_near_event(window_s=3_600),
    ]

    await store.limits.add_limit_near([first])
    again_at = await store.limits.add_limit_near([a_near_event(), *others, a_near_event()])

    assert await store.limits.add_limit_near([]) == {}
    assert await near_event_ids(store) == {event.event_id for event in [first, *others]}
    assert again_at == {
        event.window: NOON + timedelta(seconds=event.window_s) for event in [first, *others]
    }


async def test_a_window_has_its_next_near_event_when_its_length_has_passed(store: Store) -> None:
    first, early, next_one = (
        a_near_event(created_at=NOON + timedelta(seconds=s)) for s in (0, 59.999999, 60)
    )
    await store.limits.add_limit_near([first])
    await store.outbox.mark_limit_events([first])

    again_at = await store.limits.add_limit_near([early])
    refused = await store.outbox.limit_events(10)
    await store.limits.add_limit_near([next_one, early])

    assert refused == []
    assert again_at == {early.window: NOON + timedelta(seconds=60)}
    assert [one.event_id for one in await store.outbox.limit_events(10)] == [next_one.event_id]
    assert await near_event_ids(store) == {next_one.event_id}


async def test_of_concurrent_near_events_of_a_window_one_is_stored(store: Store) -> None:
    events = [a_near_event() for _ in range(20)]

    await asyncio.gather(*(store.limits.add_limit_near([event]) for event in events))

    assert len(await near_event_ids(store)) == 1


async def test_near_events_are_purged_a_day_after_the_time_of_their_window(
    store: Store, clock: Clock
) -> None:
    short, long = a_near_event(window_s=3_600), a_near_event(window_s=30 * 86_400)
    await store.limits.add_limit_near([short, long])
    seen = []

    for passed_s in (3_600 + 86_400, 3_600 + 86_401, 31 * 86_400, 31 * 86_400 + 1):
        clock.turn_to(passed_s)
        await store.limits.purge(10)
        seen.append(await near_event_ids(store))

    both = {short.event_id, long.event_id}
    assert seen == [both, {long.event_id}, {long.event_id}, set()]


async def test_past_uses_are_summed_by_slice_oldest_first(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(costs={"cj": Cost(credits=1), "ai": FREE}))
    first = slice_at(in_ms(NOON), 600)
    await clerk.do(give(100))
    for second, units in ((0, 2), (9.999, 3), (10, 4)):
        clock.turn_to(second)
        await clerk.do(consume(units), consume(units, metric="ai", org_id="school"))
    await clerk.do(consume(1_000), consume(7, user_id="other", metric="ai"))  # the first fails

    uses = await store.limits.past_uses(["cj", "ai"], window_s=600, since=NOON)
    middle = NOON + timedelta(seconds=10)
    later = await store.limits.past_uses(["cj", "nothing"], window_s=600, since=middle)
    before = await store.limits.past_uses(["cj"], window_s=600, since=NOON, until=middle)

    assert [use.slice for use in uses] == sorted(use.slice for use in uses)
    assert sorted(uses, key=str) == sorted(
        [
            PastUse("teacher", None, "cj", first, 5),
            PastUse("teacher", None, "cj", first + 1, 4),
            PastUse("teacher", "school", "ai", first, 5),
            PastUse("teacher", "school", "ai", first + 1, 4),
            PastUse("other", None, "ai", first + 1, 7),
        ],
        key=str,
    )
    assert later == [PastUse("teacher", None, "cj", first + 1, 4)]
    assert before == [PastUse("teacher", None, "cj", first, 5)]


async def test_past_uses_before_a_reset_do_not_count_for_the_reset_subject(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(costs={"cj": FREE, "ai": FREE}))
    for second, metric, subject in ((1, "cj", "teacher"), (2, "cj", "school"), (3, "ai", "other")):
        await clerk.do(consume(1, org_id="school"), consume(10, metric="ai", org_id="school"))
        entry = an_entry("rate_limit.reset", second)
        await store.acts.add_audit(
            replace(entry, subject=Subject("user", subject), detail={"metric": metric})
        )
        clock.turn_to(second + 0.5)
    await clerk.do(consume(1, org_id="school"))
    await store.acts.add_audit(replace(an_entry("adjust", 9), detail={"metric": "cj"}))

    uses = await store.limits.past_uses(["cj"], window_s=3600, since=NOON)

    told = {(use.of_user, use.of_org): use.units for use in uses}
    # Usage at 0, 1.5, 2.5 and 3.5 seconds; resets of the teacher at 1 and of the school at 2.
    assert told == {(False, False): 1, (True, False): 1, (True, True): 2}


async def test_adjustments_count_as_uses_of_their_actor_once_per_request(
    store: Store, clerk: Clerk, clock: Clock
) -> None:
    def gift(amount: int) -> c.Adjust:
        return c.Adjust(id=uuid7(), origin=origin(), wallet=TEACHER, amount=amount, reason="gift")

    for second in range(3):
        clock.turn_to(second)
        await clerk.do(gift(second + 1))
    clock.turn_to(4)
    await clerk.do(together(gift(1), gift(2)))

    assert await store.limits.past_uses(["cj", "credit_adjustment"], window_s=3600, since=NOON) == [
        PastUse("tester", None, "credit_adjustment", slice_at(in_ms(NOON), 3600), 4)
    ]
