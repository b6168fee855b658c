"""Work within a hold that ends in every possible way."""

import asyncio
from collections import Counter
from datetime import datetime
from random import Random

import pytest

from entitlements.api import Entitlements
from entitlements.contracts import errors
from entitlements.contracts.http import HoldChangeResponse
from entitlements.holding import holding, holds_ended
from entitlements.testing import Authority
from tests.profiles import examples
from tests.waiting import PATIENCE_S, until

CALLS = examples(300, long=1_000)
AT_ONCE = 50


async def leave(task: asyncio.Task[None], turns: int) -> None:
    """Cancel the task after ``turns`` iterations of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


@pytest.mark.hypothesis
async def test_work_is_paid_when_its_caller_is_cancelled(
    face: Entitlements,
) -> None:
    """Delivered work is paid wherever a caller is cancelled, and no credits stay held.

    The clock stands still, so that no hold can lapse.
    """
    await face.adjust(10**6, subject_type="user", subject_id="ada", reason="plenty")
    random = Random(7)
    delivered: Counter[str] = Counter()
    leaving: list[asyncio.Task[None]] = []

    async def call() -> None:
        async with holding(face, {"cj_comparison": 9}, user_id="ada") as held:
            for _ in range(random.randint(0, 9)):
                held.use("cj_comparison")
                delivered["credits"] += 1
                await asyncio.sleep(0)
            fate = random.random()
            if fate < 0.2:
                raise ZeroDivisionError
            if fate < 0.6:
                task = asyncio.current_task()
                assert task
                leaving.append(asyncio.create_task(leave(task, random.randint(0, 9))))

    for _ in range(CALLS // AT_ONCE):
        calls = [asyncio.create_task(call()) for _ in range(AT_ONCE)]
        for one in calls:
            for _ in range(random.randint(0, 8)):
                await asyncio.sleep(0)
            if random.random() < 0.5:
                one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*leaving)
    await holds_ended()

    ada = await face.balance("ada")
    assert (ada.user_balance, ada.user_held) == (10**6 - delivered["credits"], 0)
    assert delivered["credits"] > CALLS


async def test_an_exception_in_the_work_is_raised_unchanged(face: Entitlements) -> None:
    await face.adjust(10, subject_type="user", subject_id="ada", reason="some")

    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the work is the block
        async with holding(face, user_id="ada", credits=6) as held:
            held.use_credits(2)
            raise ZeroDivisionError
    assert held.ended
    assert (held.ended.charged, held.ended.returned, held.ended.new_balance) == (2, 4, 8)
    with pytest.raises(errors.InsufficientCredits):
        async with holding(face, user_id="ada", credits=9):
            raise AssertionError("the work must not start")


async def test_a_hold_is_extended_as_long_as_its_work_lasts(entitlements: Authority) -> None:
    """On a real clock, a hold of one second would lapse without extensions."""
    entitlements.give("user:ada", 10)
    seen: list[datetime] = []

    async with holding(entitlements, user_id="ada", credits=6, ttl_s=1) as held:
        first = held.taken.expires_at

        async def is_extended() -> bool:
            seen.append((await entitlements.hold(held.taken.hold_id)).expires_at)
            entitlements.clock.advance(seconds=0.01)
            return seen[-1] > first

        await until(is_extended)
        held.use_credits(2)

    assert held.ended
    assert (held.ended.charged, held.ended.lapsed) == (2, False)


@pytest.mark.parametrize("extend_for_s", [0, 4])
async def test_a_hold_is_extended_only_up_to_the_allowed_time(
    entitlements: Authority, extend_for_s: int
) -> None:
    entitlements.give("user:ada", 10)
    loop = asyncio.get_running_loop()
    extended_until: list[float] = []
    extend = entitlements.extend

    async def noted(hold_id: str, *, ttl_s: int) -> HoldChangeResponse:
        extended_until.append(loop.time() + ttl_s)
        return await extend(hold_id, ttl_s=ttl_s)

    entitlements.extend = noted  # type: ignore[method-assign, assignment]
    before = asyncio.all_tasks()
    began = loop.time()
    async with holding(
        entitlements, user_id="ada", credits=1, ttl_s=2, extend_for_s=extend_for_s
    ) as held:
        (extending,) = asyncio.all_tasks() - before
        await asyncio.wait([extending], timeout=PATIENCE_S)
        assert extending.done()
        held.use_credits(1)

    assert bool(extended_until) <= bool(extend_for_s)
    assert all(until <= began + extend_for_s + 0.5 for until in extended_until)
