"""A foreign session keeps the row of a wallet locked."""

import asyncio
import hashlib
from contextlib import AsyncExitStack

import pytest

from entitlements.app.credits.batch import DeadlineExceeded
from entitlements.core.model import WalletKey
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
from tests.stores.clerk import an_activation
from tests.waiting import PATIENCE_S

ROUNDS = 30


async def test_others_proceed_while_a_wallet_is_locked_and_its_commands_follow_the_release(
    url: str,
) -> None:
    names = [f"u{n}" for n in range(20)]
    async with engines(url, deadline_s=2 * PATIENCE_S) as [engine]:
        await submit_all([engine], [grant(user(name), 10_000) for name in ["ada", *names]])
        async with Rival.on(url, engine) as rival:
            await rival.locks(user("ada"))
            held = [waits_for(engine, consume("ada", 1)) for _ in range(10)]
            # The rival commits only after this loop: a command that waited for it would never end.
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


async def test_commands_on_a_locked_wallet_end_at_their_deadline_and_change_nothing(
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


async def test_the_engine_can_stop_while_a_wallet_is_locked(url: str) -> None:
    async with AsyncExitStack() as stack:
        async with engines(url, deadline_s=1.5) as [engine]:
            await given(engine, user("ada"), 100)
            rival = await stack.enter_async_context(Rival.on(url, engine))
            await rival.locks(user("ada"))
            held = waits_for(engine, consume("ada", 1))
            await rival.is_waited_for()
        with pytest.raises(DeadlineExceeded):
            await held


async def test_a_lock_shorter_than_the_lock_timeout_only_delays_a_batch(
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


async def test_a_repeat_that_finds_a_price_waits_for_the_wallet_of_its_unpriced_debt(
    url: str,
) -> None:
    """The price is in a credit type whose wallet is not locked."""
    tokens = WalletKey("user", "ada", "tokens")
    policy = "costs: {credit: 1}\n"
    known = "costs: {credit: 1, odd: {cost: 1, credit_type: tokens}}\n"
    async with engines(url, policy=policy, deadline_s=2 * PATIENCE_S) as [engine]:
        await submit(engine, consume("ada", 7, metric="odd", key="k"))
        await submit_all([engine], [grant(tokens, 10), grant(user("ben"), 100)])
        async with Rival.on(url, engine) as rival:
            await rival.locks(user("ada"))
            await engine.store.policies.activate(
                hashlib.sha256(known.encode()).hexdigest(), known, an_activation()
            )
            repeat = waits_for(engine, consume("ada", 7, metric="odd", key="k"))
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(ROUNDS):
                    assert len(paid([await submit(engine, consume("ben", 1))])) == 1
            assert not repeat.done()
            await rival.commits()
        outcome = await repeat

        assert isinstance(outcome, Consumed)
        assert (outcome.success, outcome.credits, outcome.replayed) == (True, 7, True)
        assert await balance(engine, tokens) == 3
