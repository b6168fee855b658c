"""From a commit to the receiver: events that the relay publishes or discards are delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.outbox.bus import Bus, BusEvent
from entitlements.app.outbox.relay import Destination, Relay
from entitlements.app.outbox.sink import NotAcked
from entitlements.app.outbox.store import BUCKETS
from entitlements.wiring import bus_destination
from tests.app.outbox.test_relay import Shelf, everything, exceeded, relaying, until_shipped
from tests.app.webhooks.receiver import Receiver
from tests.app.webhooks.scene import BALANCE, Scene
from tests.stores.clerk import (
    SCHOOL,
    TEACHER,
    Clerk,
    Store,
    a_limit_event,
    a_near_event,
    consume,
    give,
)
from tests.stores.conftest import clerk
from tests.waiting import until

__all__ = ["clerk"]


@asynccontextmanager
async def passing_over(store: Store, **given: Any) -> AsyncIterator[Relay]:
    """Run a relay of a process without subscribers."""
    destination = replace(bus_destination(Bus()), **given)
    relay = Relay(store.outbox, destination, name="nobody", source="entitlements_service")
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@pytest.mark.parametrize("retention_s", [3_600, 0], ids=["kept", "deleted at once"])
async def test_events_that_the_sink_accepted_are_delivered(
    scene: Scene, clerk: Clerk, receiver: Receiver, retention_s: int
) -> None:
    _, secret = await scene.endpoint(receiver.url)
    await clerk.do(give(9, TEACHER), consume(2))
    events = {event.event_id: event.payload for event in await everything(clerk.store)}
    assert len(events) >= 3

    async with relaying(clerk.store, Shelf(), retention_s=retention_s):
        await until_shipped(clerk.store)
    await scene.deliver()

    assert {message.id: message.body.decode() for message in receiver.got} == events
    assert all(message.fits(secret) for message in receiver.got)


async def test_events_without_other_subscribers_are_delivered_too(
    scene: Scene, clerk: Clerk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entitlements.app.outbox.relay.NO_SUBSCRIBER_GRACE_S", 0.0)
    await scene.endpoint(receiver.url, BALANCE)
    await clerk.do(give(9, TEACHER), consume(2))

    async with passing_over(clerk.store):
        await until_shipped(clerk.store)
    await scene.deliver()

    data = [message.event["data"] for message in receiver.got]
    assert sorted((one["seq"], one["delta"]) for one in data) == [(1, 9), (2, -2)]


async def test_events_for_webhooks_do_not_wait_for_subscribers(clerk: Clerk) -> None:
    await clerk.store.limits.add_limit_exceeded([exceeded()])
    async with passing_over(clerk.store, has_webhooks=lambda: True) as relay:
        await until(lambda: relay.buckets == BUCKETS)
        await clerk.do(give(9, TEACHER))
        relay.wake()
        await until_shipped(clerk.store)

    assert await clerk.store.outbox.limit_events(1) == []


async def test_events_of_limits_are_delivered(
    scene: Scene, clerk: Clerk, receiver: Receiver
) -> None:
    await scene.endpoint(receiver.url, "huleedu.entitlements.rate_limit.*")
    exceeded_one, near_one = a_limit_event(), a_near_event()
    await clerk.store.limits.add_limit_exceeded([exceeded_one])
    await clerk.store.limits.add_limit_near([near_one])

    async with passing_over(clerk.store, has_webhooks=lambda: True) as relay:
        await until(lambda: relay.published == 2)
    await scene.deliver()

    got = {message.id: message.body.decode() for message in receiver.got}
    assert got == {event.event_id: event.payload for event in (exceeded_one, near_one)}
    assert await clerk.store.outbox.limit_events(10) == []


async def test_webhooks_take_no_events_from_a_process_with_subscribers(clerk: Clerk) -> None:
    bus, seen = Bus(), []

    async def see(event: BusEvent) -> None:
        seen.append(event.event_id)

    bus.subscribe(see)
    async with (
        passing_over(clerk.store, has_webhooks=lambda: True, lease_s=1.2) as deaf,
        relaying(clerk.store, bus, name="bus", lease_s=1.2) as hears,
    ):
        await until(lambda: (deaf.buckets, hears.buckets) == (0, BUCKETS))
        await clerk.do(give(9, TEACHER), give(9, SCHOOL))
        deaf.wake()
        hears.wake()
        await until(lambda: len(seen) == 4)


async def test_events_that_the_sink_did_not_accept_wait(
    scene: Scene, clerk: Clerk, receiver: Receiver
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    await clerk.do(give(9, TEACHER))
    shelf = Shelf()
    shelf.result = lambda _: NotAcked("away")

    async with relaying(clerk.store, shelf) as relay:
        await until(lambda: relay.failed > 0)

    assert await scene.deliveries(endpoint) == []


async def test_publishing_wakes_the_deliverer(
    scene: Scene, clerk: Clerk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.endpoint(receiver.url)
    async with scene.deliverer.running():
        await until(lambda: scene.deliverer.is_wanted)
        # Disable polling, so that only the wake-up can cause a delivery.
        monkeypatch.setattr("entitlements.app.webhooks.deliverer.POLL_S", 3_600)
        given = replace(SHIPPING, sink=Shelf(), on_published=scene.deliverer.wake)
        relay = Relay(clerk.store.outbox, given, name="a", source="entitlements_service")
        relay.start()
        await clerk.do(give(9, TEACHER))
        relay.wake()
        await receiver.has(2)
        await relay.stop()


SHIPPING = Destination(sink=Shelf(), name="shelf")
