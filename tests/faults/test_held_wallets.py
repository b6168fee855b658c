"""A foreign session sits on a wallet's row."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from entitlements.app.committer import DeadlineExceeded
from entitlements.core.outcomes import Consumed
from tests.concurrency.scene import (
    Rival,
    balance,
    consume,
    engines,
    given,
    grant,
    paid,
    submit,
    submit_all,
    user,
    waits_for,
)
from tests.waiting import PATIENCE_S

ROUNDS = 30


async def test_other_wallets_go_on_while_one_is_held_and_its_commands_follow_the_release(
    url: str,
) -> None:
    names = [f"u{n}" for n in range(20)]
    async with engines(url, deadline_s=2 * PATIENCE_S) as [engine]:
        await submit_all([engine], [grant(user(name), 10_000) for name in ["ada", *names]])
        async with Rival.on(url, engine) as rival:
            await rival.locks(user("ada"))
            held = [waits_for(engine, consume("ada", 1)) for _ in range(10)]
            # The rival commits only after these: a command that waited for it would wait for ever.
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(ROUNDS):
                    held.append(waits_for(engine, consume("ada", 1)))
                    others = await submit_all([engine], [consume(name, 1) for name in names])
                    assert len(paid(others)) == len(names)
            assert not any(task.done() for task in held)
            await rival.commits()
        assert len(paid(await asyncio.gather(*held))) == len(held)
        assert await balance(engine, user("ada")) == 10_000 - len(held)
        assert {await balance(engine, user(name)) for name in names} == {10_000 - ROUNDS}


async def test_commands_on_a_held_wallet_end_at_their_deadline_and_change_nothing(
    url: str,
) -> None:
    async with engines(url, deadline_s=1.0) as [engine]:
        await given(engine, user("ada"), 100)
        async with Rival.on(url, engine) as rival:
            await rival.locks(user("ada"))
            held = [waits_for(engine, consume("ada", 1)) for _ in range(5)]
            async with asyncio.timeout(PATIENCE_S):
                outcomes = await asyncio.gather(*held, return_exceptions=True)
            assert [type(one) for one in outcomes] == [DeadlineExceeded] * 5
        await submit(engine, consume("ada", 10))
        assert await balance(engine, user("ada")) == 90


async def test_the_engine_stops_while_a_wallet_is_held(url: str) -> None:
    async with AsyncExitStack() as stack:
        async with engines(url, deadline_s=1.5) as [engine]:
            await given(engine, user("ada"), 100)
            rival = await stack.enter_async_context(Rival.on(url, engine))
            await rival.locks(user("ada"))
            held = waits_for(engine, consume("ada", 1))
            await rival.is_waited_for()
        with pytest.raises(DeadlineExceeded):
            await held


async def test_a_hold_shorter_than_the_patience_of_a_batch_delays_it_and_no_more(
    url: str,
) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        for _ in range(5):
            async with Rival.on(url, engine) as rival:
                await rival.locks(user("ada"))
                ours = waits_for(engine, consume("ada", 1))
                await rival.is_waited_for()
                await rival.commits()
                outcome = await ours
                assert isinstance(outcome, Consumed)
                assert outcome.success
        assert await balance(engine, user("ada")) == 95
