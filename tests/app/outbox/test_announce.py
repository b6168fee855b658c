"""Events that the ledger publishes for each kind of change."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.outbox.announce import correlation_uuid
from entitlements.core import commands as c
from entitlements.core.model import Hold
from entitlements.core.outcomes import Consumed, Granted, HoldTaken
from entitlements.core.policy import Threshold
from entitlements.core.reasons import ConsumptionType, EntitlementType
from entitlements.core.renewals import Interval, Period
from entitlements.ids import uuid7
from tests.books import announced, assert_books_balance
from tests.contracts.test_events import NINE
from tests.stores import clerk as do
from tests.stores.clerk import SCHOOL, TEACHER, Clerk, Clock, a_clerk, a_policy, origin

Events = list[dict[str, Any]]

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LOW = Threshold(below=90, subject_type="user")


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[Events]:
    """Return the events of a day with every kind of change."""
    clock, file = Clock(), tmp_path / "books.db"
    store = await SqliteStore.open(file, clock=clock)
    await store.migrate()
    await a_day(await a_clerk(store, clock, a_policy(thresholds=(LOW,))), clock)
    await store.close()
    yield [json.loads(payload) for _, payload in (await announced(f"sqlite:///{file}"))]
    await assert_books_balance(f"sqlite:///{file}")


async def a_day(clerk: Clerk, clock: Clock) -> None:
    [bought] = await clerk.do(do.give(100))
    await clerk.do(do.give(7, SCHOOL, expires_at=clock.at(30)))
    await clerk.do(do.give(5, SCHOOL, granted_at=clock.at(20)))
    [paid] = await clerk.do(do.consume(3, named("lektion 7")))
    await clerk.do(do.consume(1_000))
    await clerk.do(do.settle(await held(clerk), 4), do.release(await held(clerk)))
    await clerk.do(adjust(20), adjust(-5))
    await clerk.do(c.SetBalance(id=uuid7(), origin=origin(), wallet=TEACHER, balance=80))
    assert isinstance(paid, Consumed)
    assert isinstance(bought, Granted)
    charged = await clerk.store.reads.operation(str(paid.operation_id))
    assert charged is not None
    again = c.Reverse(id=uuid7(), origin=origin(), operation=charged, amount=None, reason="twice")
    await clerk.do(again)
    await clerk.do(revoke(bought.grant_id))
    clock.turn_to(31)
    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=SCHOOL))


def named(correlation_id: str) -> c.Origin:
    return c.Origin(
        actor="tester",
        client="tests",
        correlation_id=correlation_id,
        key=uuid7(),
        fingerprint="f",
        lifetime_s=60,
    )


def adjust(amount: int) -> c.Adjust:
    return c.Adjust(id=uuid7(), origin=origin(), wallet=TEACHER, amount=amount, reason="by hand")


def revoke(grant_id: str) -> c.Revoke:
    return c.Revoke(id=uuid7(), origin=origin(), wallet=TEACHER, grant_id=grant_id, reason="unpaid")


async def held(clerk: Clerk) -> list[Hold]:
    [taken] = await clerk.do(do.hold(6))
    assert isinstance(taken, HoldTaken), taken
    return list(await clerk.store.reads.hold(taken.hold_id))


def of(events: Events, topic: str) -> Events:
    return [event for event in events if event["event_type"] == f"huleedu.entitlements.{topic}"]


async def test_events_name_the_requesting_user_and_org_whichever_of_them_pays(
    tmp_path: Path,
) -> None:
    clock, file = Clock(), tmp_path / "books.db"
    store = await SqliteStore.open(file, clock=clock)
    await store.migrate()
    clerk = await a_clerk(store, clock, a_policy(thresholds=(LOW,)))
    await clerk.do(do.give(7, SCHOOL), do.give(5, SCHOOL, granted_at=clock.at(20)))
    org: dict[str, Any] = {"org_id": SCHOOL.subject_id}
    asked = replace(origin(), traceparent=SPAN)
    await clerk.do(do.consume(3, asked, **org), do.consume(1_000, **org), do.hold(2, **org))
    clock.turn_to(31)
    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=SCHOOL))
    await store.close()

    told = [json.loads(payload) for _, payload in await announced(f"sqlite:///{file}")]
    both = {"user_id": TEACHER.subject_id, "org_id": SCHOOL.subject_id}
    assert [event["metadata"] for event in of(told, "usage.recorded.v1")] == [
        both | {"traceparent": SPAN}
    ]
    assert [event["metadata"] for event in of(told, "credit.shortfall.recorded.v1")] == [both]
    assert [event["metadata"] for event in of(told, "usage.authorized.v1")] == [both]
    assert [event["metadata"] for event in of(told, "grant.created.v1")] == [{}, {}]
    moved = {
        event["data"]["delta"]: event["metadata"] for event in of(told, "credit.balance.changed.v1")
    }
    assert moved == {7: {}, -3: both | {"traceparent": SPAN}, 5: {}}


async def test_a_renewal_and_a_scheduled_grant_are_announced_with_their_type(
    tmp_path: Path,
) -> None:
    clock, file = Clock(), tmp_path / "books.db"
    store = await SqliteStore.open(file, clock=clock)
    await store.migrate()
    clerk = await a_clerk(store, clock)
    units = SCHOOL._replace(credit_type="units:cj")
    hourly: dict[str, Any] = {
        "consumption": ConsumptionType.RENEWABLE,
        "period": Period(interval=Interval.HOUR),
    }
    allowance = EntitlementType.USAGE_ALLOWANCE
    await clerk.do(
        do.give(7, SCHOOL, granted_at=clock.at(20), **hourly),
        do.give(9, units, entitlement_type=allowance, **hourly),
    )
    clock.turn_to(7_220)
    for wallet in (SCHOOL, units):
        await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=wallet))
    await store.close()

    told = [json.loads(payload) for _, payload in await announced(f"sqlite:///{file}")]
    created, renewed = of(told, "grant.created.v1"), of(told, "grant.renewed.v1")
    assert {one["data"]["entitlement_type"] for one in created} == {"credit_grant", allowance}
    assert [one["data"]["quantity"] for one in renewed] == [0, 0]
    assert {one["data"]["at"] for one in renewed} == {
        "2040-03-01T14:00:20Z",
        "2040-03-01T14:00:00Z",
    }
    balances = of(told, "credit.balance.changed.v1")
    assert [one["data"]["credit_type"] for one in balances] == ["credits"]


async def test_every_kind_of_change_publishes_its_event(events: Events) -> None:
    assert {event["event_type"].removeprefix("huleedu.entitlements.") for event in events} == {
        "credit.balance.changed.v1",
        "credit.shortfall.recorded.v1",
        "credit.threshold.crossed.v1",
        "grant.created.v1",
        "grant.expired.v1",
        "grant.revoked.v1",
        "usage.authorized.v1",
        "usage.recorded.v1",
    }
    assert {event["data"]["reason"] for event in of(events, "credit.balance.changed.v1")} == {
        "cj",
        "expiry",
        "grant",
        "manual_adjustment",
        "reversal",
        "revocation",
        "settlement",
    }


async def test_each_event_has_a_unique_id_all_nine_keys_and_times_in_utc(events: Events) -> None:
    assert len({event["event_id"] for event in events}) == len(events) > 15
    assert all(list(event) == NINE for event in events)
    assert all(event["event_timestamp"].endswith("Z") for event in events)
    assert {event["data_schema_uri"] for event in events} == {None}


async def test_a_correlation_id_that_is_not_a_uuid_becomes_one_in_the_envelope(
    events: Events,
) -> None:
    lesson = [event for event in events if event["data"]["correlation_id"] == "lektion 7"]

    assert len(lesson) == 2
    assert {event["correlation_id"] for event in lesson} == {
        correlation_uuid("lektion 7"),
        "d12760f7-b878-581e-b430-a5cb67fa5f87",
    }


async def test_a_threshold_event_comes_with_the_operation_that_crosses_it(events: Events) -> None:
    crossed = [event["data"] for event in of(events, "credit.threshold.crossed.v1")]
    changes = [event["data"] for event in of(events, "credit.balance.changed.v1")]

    assert sorted((one["balance"], one["direction"]) for one in crossed) == [
        (80, "below"),
        (100, "above"),
    ]
    for one in crossed:
        assert one["subject"] == {"type": "user", "id": "teacher"}
        assert (one["credit_type"], one["threshold"]) == ("credits", 90)
        [cause] = [c for c in changes if c["correlation_id"] == one["correlation_id"]]
        assert cause["new_balance"] == one["balance"]


async def test_the_balance_changes_of_a_wallet_have_no_gap(events: Events) -> None:
    for subject in ("teacher", "school"):
        balances = [event["data"] for event in of(events, "credit.balance.changed.v1")]
        changes = [data for data in balances if data["subject"]["id"] == subject]
        changes.sort(key=lambda data: data["seq"])
        assert len(changes) > 2
        for before, after in pairwise(changes):
            assert before["new_balance"] + after["delta"] == after["new_balance"]
