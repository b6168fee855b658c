"""Every event that an endpoint subscribes to is delivered, signed, whatever fails on the way."""

import asyncio
from datetime import timedelta
from email.utils import format_datetime

import pytest

from entitlements.app.webhooks import deliverer
from entitlements.app.webhooks.deliverer import (
    AT_ONCE,
    LEASE_S,
    RETRY_MAX_S,
    next_try_s,
    retry_in_s,
)
from entitlements.app.webhooks.store import Answered, DeliveryBacklog, NotReached
from entitlements.webhooks import verify
from tests.app.webhooks.receiver import Message, Receiver, status
from tests.app.webhooks.scene import BALANCE, DAY_S, USAGE, Scene
from tests.audit import audited
from tests.logs import captured_logs
from tests.stores.clerk import NOON, Clock

OURS = "huleedu.entitlements"


async def test_a_delivery_is_signed_and_carries_the_event(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, secret = await scene.endpoint(receiver.url)
    [event] = await scene.happens(BALANCE)

    await scene.deliver()

    [message] = receiver.got
    assert message.id == message.event["event_id"] == event
    assert message.headers["content-type"] == "application/json"
    assert message.fits(secret)
    assert verify(message.body, message.headers, secret, now=clock().timestamp()) == event
    delivery = await scene.delivery(endpoint)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 200)
    assert delivery.delivered_at == clock()
    assert scene.deliverer.results == {"delivered": 1, "retried": 0, "failed": 0}


async def test_an_endpoint_gets_the_events_that_match_its_filter(
    scene: Scene, receiver: Receiver
) -> None:
    await scene.endpoint(receiver.url, f"{OURS}.credit.*", f"{OURS}.rate_limit.*.v1")
    wanted = [f"{OURS}.credit.shortfall.recorded.v1", BALANCE, f"{OURS}.rate_limit.near.v1"]
    others = [
        f"{OURS}.rate_limit.near.v2",
        f"{OURS}.rateXlimit.near.v1",
        f"{OURS.upper()}.credit.x",
    ]
    await scene.happens(*wanted, USAGE, *others)

    await scene.deliver()

    listed = await scene.deliveries((await scene.webhooks.all())[0])
    assert sorted(delivery.event_type for delivery in listed) == sorted(wanted)


async def test_an_event_is_delivered_once_per_endpoint_however_often_it_is_published(
    scene: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.endpoint(receiver.url)
    await scene.endpoint(f"{receiver.url}/second")
    monkeypatch.setattr(
        "tests.app.webhooks.scene.uuid7", lambda: "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"
    )
    await scene.happens(BALANCE)
    await scene.happens(BALANCE)

    await scene.deliver()

    assert len(receiver.got) == 2


async def test_events_before_the_creation_of_an_endpoint_are_not_sent(
    scene: Scene, receiver: Receiver
) -> None:
    await scene.happens(BALANCE)
    await scene.endpoint(receiver.url)

    await scene.deliver()

    assert receiver.got == []


@pytest.mark.parametrize("code", [100, 301, 400, 404, 500, 503])
async def test_a_failed_delivery_is_retried_with_growing_delays(
    scene: Scene, receiver: Receiver, clock: Clock, code: int
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(code)
    [event] = await scene.happens(BALANCE)

    at = 0
    for attempt, wait_s in enumerate((5, 15, 45, 135), start=1):
        await scene.deliver()
        assert len(receiver.got) == attempt
        clock.turn_to(at + 0.79 * wait_s)
        await scene.deliver()
        assert len(receiver.got) == attempt, "too early"
        at += round(1.2 * wait_s) + 1
        clock.turn_to(at)

    receiver.answer = lambda _: status(204)
    await scene.deliver()
    assert {message.id for message in receiver.got} == {event}
    assert (await scene.delivery(endpoint)).state == "delivered"


async def test_a_retry_has_a_new_signature(scene: Scene, receiver: Receiver, clock: Clock) -> None:
    _, secret = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    await scene.happens(BALANCE)
    await scene.deliver()
    clock.turn_to(3_600)

    await scene.deliver()

    first, second = receiver.got
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert verify(second.body, second.headers, secret, now=clock().timestamp()) == first.id


async def test_a_delivery_fails_after_three_days(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    await scene.happens(BALANCE)

    for hour in range(0, 80, 8):
        clock.turn_to(hour * 3_600)
        await scene.deliver()

    delivery = await scene.delivery(endpoint)
    assert (delivery.state, delivery.last_error) == ("failed", "HTTP 500")
    assert 8 <= len(receiver.got) <= 10
    assert scene.deliverer.results["failed"] == 1


def test_retry_after_delays_the_next_attempt() -> None:
    in_an_hour = format_datetime(NOON + timedelta(hours=1), usegmt=True)
    for asked, wait_s in (("3600", 3_600), (in_an_hour, 3_600), ("9" * 9, RETRY_MAX_S)):
        assert next_try_s(1, Answered(429, asked), NOON) == wait_s, asked
    for useless in (None, "", "0", "soon", "-1", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert next_try_s(1, Answered(503, useless), NOON) in range(4, 7), useless
    assert next_try_s(1, NotReached("lost"), NOON) in range(4, 7)


def test_retries_spread_between_five_seconds_and_six_hours() -> None:
    assert {retry_in_s(1) for _ in range(1_000)} == {4, 5, 6}
    late = [retry_in_s(attempt) for attempt in (10, 50, 10**6) for _ in range(100)]
    assert 0.8 * 21_600 <= min(late) < max(late) <= 1.2 * 21_600


async def test_a_410_response_disables_the_endpoint(scene: Scene, receiver: Receiver) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(410)
    await scene.happens(BALANCE)
    await scene.deliver()

    await scene.happens(BALANCE)
    await scene.deliver()

    assert len(receiver.got) == 1
    assert (await scene.delivery(endpoint)).state == "failed"
    shown = await scene.webhooks.show(endpoint.id)
    assert (shown.active, shown.disabled_because) == (False, "gone")
    entry = await scene.audited("webhook.disable")
    assert entry.actor == "system"
    assert entry.detail == {"endpoint_ids": [endpoint.id]}


async def test_a_slow_endpoint_does_not_delay_another(scene: Scene, receiver: Receiver) -> None:
    answering = asyncio.Event()

    async def slow(_: Message) -> bytes:
        await answering.wait()
        return status(200)

    async with Receiver(slow) as sluggish:
        await scene.endpoint(sluggish.url, USAGE)
        await scene.endpoint(receiver.url, BALANCE)
        await scene.happens(*[USAGE] * (3 * AT_ONCE), BALANCE)

        async with scene.deliverer.running():
            await receiver.has(1)
            await sluggish.has(AT_ONCE)
            await scene.happens(BALANCE)
            scene.deliverer.wake()
            await receiver.has(2)
            assert len(sluggish.got) == AT_ONCE

            answering.set()
            await sluggish.has(3 * AT_ONCE)


async def test_a_failing_endpoint_is_called_less_often(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    await scene.happens(*[BALANCE] * 40)

    await scene.deliver()
    assert len(receiver.got) == AT_ONCE
    await scene.deliver()
    assert len(receiver.got) == AT_ONCE, "it is not called again immediately"
    clock.turn_to(1)
    await scene.deliver()
    assert len(receiver.got) == AT_ONCE + 2

    receiver.answer = lambda _: status(200)
    clock.turn_to(120)
    await scene.deliver()
    await scene.deliver()
    assert len(receiver.got) == AT_ONCE + 4 + AT_ONCE


async def test_a_clock_that_steps_back_makes_no_pause_longer(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    clock.turn_to(3_600)
    await scene.happens(BALANCE)
    await scene.deliver()
    clock.turn_to(0)
    await scene.happens(BALANCE)

    await scene.deliver()

    assert len(receiver.got) == 2


async def test_deliveries_of_a_killed_process_are_taken_over_after_its_lease(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    await scene.endpoint(receiver.url)
    [event] = await scene.happens(BALANCE)
    await scene.store.webhooks.claim_deliveries({}, 1, lease_s=LEASE_S)

    clock.turn_to(LEASE_S - 1)
    await scene.deliver()
    assert receiver.got == []

    clock.turn_to(LEASE_S)
    await scene.deliver()
    assert [message.id for message in receiver.got] == [event]


async def test_two_deliverers_never_claim_the_same_delivery(
    scene: Scene, receiver: Receiver
) -> None:
    await scene.endpoint(receiver.url)
    events = await scene.happens(*[BALANCE] * 30)
    rival = scene.another()

    for _ in range(3):
        await asyncio.gather(scene.deliverer.round(), rival.round())
        await asyncio.gather(scene.deliverer.drained(), rival.drained())

    assert sorted(message.id for message in receiver.got) == sorted(events)


async def test_a_deliverer_that_lost_its_lease_records_no_result(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    await scene.happens(BALANCE)
    answering = asyncio.Event()

    async def late_and_bad(_: Message) -> bytes:
        await answering.wait()
        return status(500)

    receiver.answer = late_and_bad
    await scene.deliverer.round()
    await receiver.has(1)
    clock.turn_to(LEASE_S)
    receiver.answer = lambda _: status(200)
    rival = scene.another()
    await rival.round()
    await rival.drained()
    answering.set()
    await scene.deliverer.drained()

    delivery = await scene.delivery(endpoint)
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 2, 200)


async def test_both_secrets_sign_until_the_overlap_ends(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, old = await scene.endpoint(receiver.url)
    changed, new = await scene.webhooks.rotate(endpoint.id, DAY_S, scene.act())
    assert scene.webhooks.rotating_until(changed) == clock.at(DAY_S)

    await scene.happens(BALANCE)
    await scene.deliver()
    clock.turn_to(DAY_S)
    await scene.happens(BALANCE)
    await scene.deliver()

    first, second = receiver.got
    assert first.fits(old)
    assert first.fits(new)
    assert not second.fits(old)
    assert second.fits(new)


async def test_a_repeated_rotation_ends_no_secret_early(scene: Scene, receiver: Receiver) -> None:
    endpoint, in_use = await scene.endpoint(receiver.url)
    await scene.webhooks.rotate(endpoint.id, DAY_S, scene.act())
    _, newest = await scene.webhooks.rotate(endpoint.id, DAY_S, scene.act())

    await scene.happens(BALANCE)
    await scene.deliver()

    assert receiver.got[0].fits(in_use)
    assert receiver.got[0].fits(newest)


async def test_without_an_overlap_the_old_secret_ends_immediately(
    scene: Scene, receiver: Receiver
) -> None:
    endpoint, stolen = await scene.endpoint(receiver.url)
    _, new = await scene.webhooks.rotate(endpoint.id, 0, scene.act())

    await scene.happens(BALANCE)
    await scene.deliver()

    assert receiver.got[0].fits(new)
    assert not receiver.got[0].fits(stolen)


async def test_a_failed_delivery_can_be_retried_manually(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(410)
    [event] = await scene.happens(BALANCE)
    await scene.deliver()
    receiver.answer = lambda _: status(200)
    await scene.webhooks.change(endpoint.id, scene.active(on=True), scene.act())

    await scene.webhooks.retry(endpoint.id, event, scene.act("mended"))
    clock.turn_to(1)
    await scene.deliver()

    assert [message.id for message in receiver.got] == [event, event]
    assert (await scene.delivery(endpoint)).state == "delivered"
    assert (await scene.audited("webhook.retry")).detail == {
        "endpoint_id": endpoint.id,
        "event_id": event,
    }


async def test_a_resumed_endpoint_gets_the_pending_events_and_none_from_the_pause(
    scene: Scene, receiver: Receiver
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    [waited] = await scene.happens(BALANCE)
    await scene.webhooks.change(endpoint.id, scene.active(on=False), scene.act())
    await scene.happens(BALANCE)
    await scene.deliver()
    assert receiver.got == []

    await scene.webhooks.change(endpoint.id, scene.active(on=True), scene.act())
    await scene.deliver()

    assert [message.id for message in receiver.got] == [waited]


async def test_deliveries_to_a_paused_endpoint_fail_after_three_days(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    await scene.happens(BALANCE)
    await scene.webhooks.change(endpoint.id, scene.active(on=False), scene.act())
    clock.turn_to(3 * DAY_S - 1)
    await scene.deliverer.clean_up()
    assert (await scene.delivery(endpoint)).state == "pending"

    clock.turn_to(3 * DAY_S)
    await scene.deliverer.clean_up()

    delivery = await scene.delivery(endpoint)
    assert (delivery.state, delivery.last_error) == ("failed", "the endpoint is not active")


async def test_deliveries_scheduled_by_a_clock_ahead_are_delivered_after_it_steps_back(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    clock.turn_to(2 * DAY_S)
    await scene.happens(BALANCE)
    await scene.deliver()
    clock.turn_to(0)
    receiver.answer = lambda _: status(200)
    await scene.deliver()
    assert (await scene.delivery(endpoint)).state == "pending"

    await scene.deliverer.clean_up()
    await scene.deliver()

    assert (await scene.delivery(endpoint)).state == "delivered"


async def test_a_deleted_endpoint_leaves_no_deliveries(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    await scene.happens(*[BALANCE] * 3)
    await scene.webhooks.delete(endpoint.id, scene.act())
    await scene.deliver()
    await scene.deliverer.clean_up()

    assert receiver.got == []
    assert await scene.deliveries(endpoint) == []
    assert await scene.webhooks.all() == []
    again, _ = await scene.endpoint(receiver.url)
    clock.turn_to(3_600)
    await scene.deliverer.clean_up()
    assert [one.id for one in await scene.webhooks.all()] == [again.id]


async def test_finished_deliveries_are_deleted_after_the_retention(
    scene: Scene, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliverer, "DELETED_AT_ONCE", 2)
    endpoint, _ = await scene.endpoint(receiver.url)
    await scene.happens(*[BALANCE] * 5)
    await scene.deliver()
    clock.turn_to(7 * DAY_S - 1)
    await scene.happens(BALANCE)
    await scene.deliverer.clean_up()
    assert len(await scene.deliveries(endpoint)) == 6

    clock.turn_to(7 * DAY_S)
    await scene.deliverer.clean_up()

    assert [one.state for one in await scene.deliveries(endpoint)] == ["pending"]


async def test_an_endpoint_that_fails_for_more_than_an_hour_is_reported(
    scene: Scene, receiver: Receiver, clock: Clock
) -> None:
    endpoint, _ = await scene.endpoint(receiver.url)
    receiver.answer = lambda _: status(500)
    await scene.happens(BALANCE)
    await scene.deliver()
    clock.turn_to(3_600)
    await scene.deliverer.clean_up()
    assert not scene.fails_long()
    assert (await scene.webhooks.show(endpoint.id)).failing_since == clock.at(0)

    clock.turn_to(3_601)
    assert scene.fails_long()
    assert scene.deliverer.backlog == DeliveryBacklog(
        pending=1, failing=1, failing_since=clock.at(0)
    )

    receiver.answer = lambda _: status(200)
    await scene.deliver()
    await scene.deliverer.clean_up()
    assert not scene.fails_long()
    assert (await scene.webhooks.show(endpoint.id)).failing_since is None


async def test_a_graceful_stop_records_deliveries_in_progress(
    scene: Scene, receiver: Receiver
) -> None:
    answering = asyncio.Event()

    async def slow(_: Message) -> bytes:
        await answering.wait()
        return status(200)

    receiver.answer = slow
    endpoint, _ = await scene.endpoint(receiver.url)
    await scene.happens(BALANCE)
    async with scene.deliverer.running():
        await receiver.has(1)
        asyncio.get_running_loop().call_soon(answering.set)

    assert (await scene.delivery(endpoint)).state == "delivered"


async def test_the_deliverer_survives_an_outage_of_the_database(
    scene: Scene, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds continue after any error; here the table is missing for a while."""
    monkeypatch.setattr(deliverer, "POLL_S", 0.01)
    endpoint, _ = await scene.endpoint(receiver.url)
    with captured_logs() as logs:
        async with scene.deliverer.running():
            await scene.rename("webhook_deliveries", "away")
            while not logs:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.01)
            await scene.rename("away", "webhook_deliveries")
            await scene.happens(BALANCE)
            await receiver.has(1)

    assert (await scene.delivery(endpoint)).state == "delivered"


async def test_secrets_are_in_no_log_and_no_listing(scene: Scene, receiver: Receiver) -> None:
    with captured_logs() as logs:
        endpoint, secret = await scene.endpoint(receiver.url)
        receiver.answer = lambda _: status(410)
        await scene.happens(BALANCE)
        await scene.deliver()
        shown = [endpoint, await scene.webhooks.all(), await audited(scene.store, 10)]

    assert logs
    assert secret not in f"{logs} {shown}"
