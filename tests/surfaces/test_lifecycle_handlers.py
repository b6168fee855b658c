"""Users' own lifecycle handlers, named by the policy and called by the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from entitlements import (
    EntitlementLifecycleHandler,
    Entitlements,
    EntitlementService,
    UserEntitlementRead,
    lifecycle_handler,
)
from entitlements.contracts import errors
from entitlements.embedded import PolicyError
from tests.books import assert_books_balance
from tests.surfaces.scene import Clock
from tests.tables import sqlite_url
from tests.waiting import until

POLICY = """
costs: {call: 1}
plans:
  pro:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: noted
  team:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: noted
  blocked:
    grants: [{entitlement_type: feature_unlock, feature: export}]
    lifecycle: blocking
  plain:
    grants: [{entitlement_type: feature_unlock, feature: export}]
"""
Seen = list[tuple[str, str, dict[str, Any]]]


class Board:
    """What the handler has seen, and what it does: ``act`` of each test."""

    seen: ClassVar[Seen] = []
    act: ClassVar[Callable[[EntitlementService, str, dict[str, Any]], Any] | None] = None


@lifecycle_handler("noted")
class Noted(EntitlementLifecycleHandler):
    async def _note(self, change: str, name: str, context: dict[str, Any]) -> None:
        Board.seen.append((change, name, context))
        if Board.act is not None:
            await Board.act(self.entitlement_service, change, context)

    async def handle_subscription_activated(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        await self._note("activated", subscription_id, context)
        return await super().handle_subscription_activated(subscription_id, db, **context)

    async def handle_subscription_changed(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        await self._note("changed", subscription_id, context)
        return await super().handle_subscription_changed(subscription_id, db, **context)

    async def handle_subscription_past_due(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        await self._note("past_due", subscription_id, context)
        return await super().handle_subscription_past_due(subscription_id, db, **context)

    async def handle_subscription_cancelled(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        await self._note("cancelled", subscription_id, context)
        return await super().handle_subscription_cancelled(subscription_id, db, **context)

    async def handle_subscription_expired(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        await self._note("expired", subscription_id, context)
        return await super().handle_subscription_past_due(subscription_id, db, **context)


@lifecycle_handler("blocking")
class Blocking:
    def __init__(self, _service: EntitlementService) -> None:
        pass

    def handle_subscription_activated(self, *_: object, **_context: Any) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def board() -> None:
    Board.seen = []
    Board.act = None


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    place = sqlite_url(tmp_path)
    if request.param == "postgres":
        place = request.getfixturevalue("postgres_url")
    yield place
    asyncio.run(assert_books_balance(place))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(url: str, clock: Clock) -> AsyncIterator[Entitlements]:
    async with Entitlements.open(url, policy=POLICY, clock=clock) as opened:
        yield opened


def changes(name: str = "s") -> list[str]:
    return [change for change, of, _ in Board.seen if of == name]


async def seen(*expected: str, name: str = "s") -> None:
    await until(lambda: len(changes(name)) >= len(expected))
    assert changes(name) == [*expected]


async def seen_later(clock: Clock, *expected: str) -> None:
    """Wait for the calls, some of which are made after a delay."""

    def is_over() -> bool:
        clock.advance(minutes=1)
        return len(changes()) >= len(expected)

    await until(is_over)
    assert changes() == [*expected]


async def activate(engine: Entitlements, name: str = "s", plan: str = "pro") -> None:
    await engine.activate_subscription(plan_id=plan, subscription_id=name, user_id="ada")


async def test_each_change_calls_the_handler_once_and_in_order(
    engine: Entitlements, clock: Clock
) -> None:
    await activate(engine)
    await engine.change_subscription("s", plan_id="team")
    await engine.mark_subscription_past_due("s")
    await engine.expire_subscription("s")

    await seen("activated", "changed", "past_due", "expired")
    _, _, context = Board.seen[1]
    assert context["user_id"] == context["subject_id"] == "ada"
    assert (context["old_plan_id"], context["plan_id"]) == ("pro", "team")
    assert context["at"] == clock()
    assert (await engine.lifecycle_calls()).count == 0


async def test_a_plan_without_a_handler_calls_none(engine: Entitlements) -> None:
    await activate(engine, "other", plan="plain")
    await engine.cancel_subscription("other")
    await activate(engine)
    await seen("activated")
    assert not changes("other")


async def test_a_cancellation_is_handled_when_it_takes_effect(
    engine: Entitlements, clock: Clock
) -> None:
    await activate(engine)
    asked = await engine.cancel_subscription("s", at="period_end")
    assert asked.cancels_at is not None
    await seen("activated")

    clock.advance(days=40)
    await engine.check_feature("export", user_id="ada")
    await engine.adjust(1, subject_type="user", subject_id="ada", reason="touch")
    await seen("activated", "cancelled")
    assert Board.seen[-1][2]["at"] == asked.cancels_at


async def test_a_cancellation_can_name_a_handler(engine: Entitlements) -> None:
    await activate(engine, plan="plain")
    await engine.cancel_subscription("s", lifecycle="noted")
    await seen("cancelled")


async def test_an_unknown_handler_is_refused_where_it_is_named(engine: Entitlements) -> None:
    with pytest.raises(errors.InvalidRequest, match="no lifecycle handler 'notde'"):
        await engine.apply_policy(POLICY.replace("lifecycle: noted", "lifecycle: notde"))
    checked = await engine.check_policy(POLICY.replace("lifecycle: noted", "lifecycle: notde"))
    assert not checked.valid
    assert {one.line for one in checked.problems} == {6, 9}
    await activate(engine, plan="plain")
    with pytest.raises(errors.InvalidRequest, match="no lifecycle handler 'notde'"):
        await engine.cancel_subscription("s", lifecycle="notde")
    with pytest.raises(errors.InvalidRequest, match="only with at: now"):
        await engine.cancel_subscription("s", at="period_end", lifecycle="noted")
    with pytest.raises(errors.InvalidRequest, match="takes no days"):
        await engine.cancel_subscription("s", lifecycle="noted(days=3)")


async def test_a_failing_handler_is_called_again_and_blocks_its_subscription_alone(
    engine: Entitlements, clock: Clock
) -> None:
    async def fail(_service: EntitlementService, change: str, context: dict[str, Any]) -> None:
        if context["subject_id"] == "ada" and len(changes()) < 3:
            raise ConnectionError("the CRM does not respond")

    Board.act = fail
    await activate(engine)
    await engine.cancel_subscription("s")
    await engine.activate_subscription(plan_id="pro", subscription_id="bobs", user_id="bob")
    await seen("activated", name="bobs")
    await until(lambda: changes() == ["activated"])

    await until_failed(engine)
    (waiting, behind) = [
        one for one in (await engine.lifecycle_calls()).calls if one.subscription_id == "s"
    ]
    assert (waiting.change, behind.change) == ("activated", "cancelled")
    await seen_later(clock, "activated", "activated", "activated", "cancelled")


async def until_failed(engine: Entitlements) -> None:
    async def has_failed() -> bool:
        (first, *_) = (await engine.lifecycle_calls()).calls
        return first.last_error == "ConnectionError: the CRM does not respond"

    await until(has_failed)


async def test_what_a_handler_grants_is_granted_once_however_often_it_is_called(
    engine: Entitlements, clock: Clock
) -> None:
    async def grant_then_fail(
        service: EntitlementService, change: str, context: dict[str, Any]
    ) -> None:
        for feature in ("crm", "crm"):
            await service.grant_entitlement(
                user_id=context["user_id"],
                entitlement_type="usage_allowance",
                metric=feature,
                quantity_granted=5,
                grant_reason="bonus",
                expires_at=context["at"] + timedelta(days=30),
            )
        if len(changes()) < 3:
            raise ConnectionError("after the grants")

    Board.act = grant_then_fail
    await activate(engine)
    await seen_later(clock, "activated", "activated", "activated")
    await until_made(engine)

    access = await engine.check_access("usage_allowance", user_id="ada", metric="crm")
    assert access.total_available_quantity == 10  # two grants of one call
    found = await engine.operations(subject_type="user", subject_id="ada")
    assert len({one.correlation_id for one in found.operations}) == 1


async def until_made(engine: Entitlements) -> None:
    async def is_made() -> bool:
        return not (await engine.lifecycle_calls()).count

    await until(is_made)


async def test_a_change_that_is_refused_calls_nothing(engine: Entitlements) -> None:
    with pytest.raises(errors.EntitlementsError):
        await activate(engine, plan="unknown")
    await activate(engine)
    await activate(engine)  # as it is
    await seen(*["activated"] * len(changes()))


async def test_a_call_waits_for_a_process_that_has_the_handler(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Entitlements.open(url, policy=POLICY, clock=clock) as engine:
        with monkeypatch.context() as without:
            without.setattr("entitlements.handling.known_handlers", frozenset)
            async with Entitlements.open(url, clock=clock) as other:
                await activate(other)
        await seen("activated")
        await until_made(engine)


async def test_a_call_that_a_stop_cut_off_is_made_by_the_next_process_at_once(
    url: str, clock: Clock
) -> None:
    entered = asyncio.Event()

    async def hang(_service: EntitlementService, _change: str, _context: dict[str, Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    Board.act = hang
    async with Entitlements.open(url, policy=POLICY, clock=clock) as engine:
        await activate(engine)
        await entered.wait()
    Board.act = None
    async with Entitlements.open(url, clock=clock) as engine:
        await until_made(engine)
    assert changes() == ["activated", "activated"]


async def test_a_late_cancellation_spares_a_subscription_that_has_begun_again(
    engine: Entitlements, clock: Clock
) -> None:
    """The base class revokes by the reference, which old and new grants have."""

    async def fail(service: EntitlementService, change: str, context: dict[str, Any]) -> None:
        if len(changes()) < 2:
            raise ConnectionError("the CRM does not respond")
        if change == "activated" and changes().count("cancelled") == 0:
            await service.grant_entitlement(
                user_id=context["user_id"],
                entitlement_type="feature_unlock",
                feature="crm",
                grant_reason="bonus",
                reference_id="s",
            )

    Board.act = fail
    await activate(engine)
    await engine.cancel_subscription("s")
    await activate(engine)
    await seen_later(clock, "activated", "activated", "cancelled", "activated")
    await until_made(engine)

    assert (await engine.subscription("s")).status == "active"
    assert (await engine.check_feature("export", user_id="ada")).has_access
    assert not (await engine.check_feature("crm", user_id="ada")).has_access


async def test_a_handler_that_hangs_delays_no_other_subscription(engine: Entitlements) -> None:
    async def hang(_service: EntitlementService, _change: str, context: dict[str, Any]) -> None:
        if context["subject_id"] == "ada":
            await asyncio.Event().wait()

    Board.act = hang
    await activate(engine)
    await seen("activated")
    await engine.activate_subscription(plan_id="pro", subscription_id="bobs", user_id="bob")
    await engine.change_subscription("bobs", plan_id="team")
    await seen("activated", "changed", name="bobs")
    assert changes() == ["activated"]


async def test_a_cancelled_task_of_a_handler_is_a_failure_of_its_call(
    engine: Entitlements, clock: Clock
) -> None:
    async def cancelled(_service: EntitlementService, _change: str, _c: dict[str, Any]) -> None:
        if len(changes()) < 2:
            task = asyncio.create_task(asyncio.sleep(0))
            task.cancel()
            await task

    Board.act = cancelled
    await activate(engine)
    await seen_later(clock, "activated", "activated")
    await until_made(engine)


async def test_a_handler_that_is_not_async_is_named_in_its_error(engine: Entitlements) -> None:
    await activate(engine, plan="blocked")

    async def is_named() -> bool:
        (waiting,) = (await engine.lifecycle_calls()).calls
        return waiting.last_error == (
            "TypeError: Blocking.handle_subscription_activated is not async"
        )

    await until(is_named)


def test_names_of_rules_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="rule of the ledger"):
        lifecycle_handler("freemium")


async def test_a_new_policy_with_an_unknown_handler_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no lifecycle handler 'nobody'"):
        async with Entitlements.open(
            sqlite_url(tmp_path), policy=POLICY.replace("lifecycle: noted", "lifecycle: nobody")
        ):
            pass
