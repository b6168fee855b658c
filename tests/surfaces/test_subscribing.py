"""Programs that run the engine in process receive its events."""

import asyncio
from pathlib import Path

import pytest

from entitlements import Entitlements, wiring
from entitlements.app.outbox import relay
from entitlements.embedded import BusEvent
from tests.surfaces.scene import Clock
from tests.waiting import PATIENCE_S


class Listener:
    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self.events: list[BusEvent] = []
        self.has_all = asyncio.Event()

    async def __call__(self, event: BusEvent) -> None:
        self.events.append(event)
        if len(self.events) >= self._wanted:
            self.has_all.set()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/books.db"


BALANCES = "*.credit.balance.changed.v1"


async def give(e: Entitlements, amount: int) -> None:
    await e.adjust(amount, subject_type="user", subject_id="ada", reason="test")


async def test_a_handler_gets_the_events_that_the_engine_commits(url: str) -> None:
    listener = Listener(2)
    async with Entitlements.open(url) as e, asyncio.timeout(PATIENCE_S):
        e.subscribe(listener, BALANCES)
        await give(e, 9)
        await e.consume(user_id="ada", metric="cj_comparison", amount=2, correlation_id="c")
        await listener.has_all.wait()

    told = [(event.data["delta"], event.data["new_balance"]) for event in listener.events]
    assert told == [(9, 9), (-2, 7)]
    assert {event.source_service for event in listener.events} == {"entitlements_service"}


async def test_closing_publishes_the_last_committed_events(url: str) -> None:
    listener = Listener(1)
    async with Entitlements.open(url) as e:
        e.subscribe(listener, BALANCES)
        await give(e, 9)

    assert [event.data["delta"] for event in listener.events] == [9]


async def test_closing_does_not_wait_for_a_handler_that_never_returns(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "DRAIN_S", 0.1)
    monkeypatch.setattr(wiring, "HANDLERS_S", 0.1)
    is_called = asyncio.Event()

    async def hanging(_: BusEvent) -> None:
        is_called.set()
        await asyncio.sleep(3_600)

    async with asyncio.timeout(PATIENCE_S), Entitlements.open(url) as e:
        e.subscribe(hanging)
        await give(e, 9)
        await is_called.wait()


async def test_a_handler_that_failed_gets_the_event_at_the_next_run(url: str) -> None:
    async def failing(_: BusEvent) -> None:
        raise RuntimeError("not yet")

    async with Entitlements.open(url) as e:
        e.subscribe(failing, BALANCES)
        await give(e, 9)
    listener = Listener(1)
    async with Entitlements.open(url) as e, asyncio.timeout(PATIENCE_S):
        e.subscribe(listener, BALANCES)
        await listener.has_all.wait()

    assert [event.data["delta"] for event in listener.events] == [9]


PLANS = """
costs: {}
plans: {pro: {grants: []}, team: {grants: []}}
"""


async def test_changes_of_a_subscription_are_announced_when_they_take_effect(url: str) -> None:
    clock, listener = Clock(), Listener(6)
    async with Entitlements.open(url, clock=clock) as e, asyncio.timeout(PATIENCE_S):
        e.subscribe(listener, "*.entitlements.subscription.*")
        await e.apply_policy(PLANS)
        made = await e.activate_subscription(plan_id="pro", subscription_id="s1", user_id="ada")
        await e.change_subscription("s1", plan_id="team")
        await e.mark_subscription_past_due("s1")
        await e.cancel_subscription("s1", at="period_end", correlation_id="leaving")
        await e.activate_subscription(plan_id="pro", subscription_id="s2", user_id="ada")
        await e.expire_subscription("s2")
        clock.now = made.current_period_end
        await give(e, 5)
        await listener.has_all.wait()

    told = [
        (event.event_type.split(".")[-2], *(event.data.get(name) for name in FIELDS))
        for event in listener.events
    ]
    end = "2026-04-01T08:00:00Z"
    assert told == [
        ("activated", "s1", "pro", None, None, None),
        ("changed", "s1", "team", "pro", "active", None),
        ("changed", "s1", "team", "team", "past_due", None),
        ("activated", "s2", "pro", None, None, None),
        ("canceled", "s2", "pro", None, None, "expired"),
        ("canceled", "s1", "team", None, None, "cancelled"),
    ]
    assert listener.events[-1].data["canceled_at"] == end


FIELDS = ("subscription_id", "plan_id", "old_plan_id", "status", "reason")
