"""Concurrent holds on one wallet, in one process and in two on the same database."""

import asyncio
import random

from entitlements.app.engine import Engine
from entitlements.core.model import Hold
from entitlements.core.outcomes import Consumed, HoldChanged, HoldTaken, Refusal
from entitlements.core.reasons import RefusalCode
from tests.concurrency.scene import (
    consume,
    engines,
    given,
    hold,
    org,
    release,
    settle,
    submit,
    submit_all,
    user,
)
from tests.concurrency.test_parallel import processes

HOLDERS = 64


async def taken(engine: Engine, outcome: object) -> list[Hold]:
    assert isinstance(outcome, HoldTaken), outcome
    return await engine.store.reads.hold(outcome.hold_id)


@processes
async def test_of_20_holds_of_75_on_500_exactly_6_are_taken(any_url: str, number: int) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 500)

        outcomes = await submit_all(running, [hold("ada", 75) for _ in range(20)])

        assert sum(isinstance(outcome, HoldTaken) for outcome in outcomes) == 6
        wallet = (await running[0].reader.means([user("ada")])).wallets[user("ada")]
        assert (wallet.balance, wallet.held) == (500, 450)


@processes
async def test_one_key_16_times_at_once_is_one_hold(any_url: str, number: int) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 500)

        outcomes = await submit_all(running, [hold("ada", 75, key="same") for _ in range(16)])

        ids = {outcome.hold_id for outcome in outcomes if isinstance(outcome, HoldTaken)}
        assert len(ids) == 1
        wallet = (await running[0].reader.means([user("ada")])).wallets[user("ada")]
        assert wallet.held == 75


@processes
async def test_a_settlement_16_times_at_once_without_a_key_charges_once(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        parts = await taken(running[0], await submit(running[0], hold("ada", 50)))

        outcomes = await submit_all(running, [settle(parts, 30) for _ in range(16)])

        changed = [outcome for outcome in outcomes if isinstance(outcome, HoldChanged)]
        assert [one.replayed for one in changed].count(False) == 1
        assert {(one.operation_id, one.charged, one.new_balance) for one in changed} == {
            (changed[0].operation_id, 30, 70)
        }


@processes
async def test_of_a_concurrent_settlement_and_release_one_wins_and_the_other_is_refused(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 1_000)
        for _ in range(10):
            parts = await taken(running[0], await submit(running[0], hold("ada", 50)))

            outcomes = await submit_all(running, [settle(parts, 30), release(parts)])

            codes = [outcome.code for outcome in outcomes if isinstance(outcome, Refusal)]
            assert codes == [RefusalCode.HOLD_CLOSED]


@processes
async def test_64_holders_never_hold_or_spend_more_than_the_wallet_has(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], org("school"), 2_000)
        spent = await asyncio.gather(
            *(holder(running[n % number], random.Random(n), str(n)) for n in range(HOLDERS))
        )

        wallet = (await running[0].reader.means([org("school")])).wallets[org("school")]
        assert (wallet.balance, wallet.held) == (2_000 - sum(spent), 0)
        assert wallet.balance >= 0


async def holder(engine: Engine, rng: random.Random, name: str) -> int:
    """Hold and then settle up to that amount or release; else consume. Return the credits spent."""
    spent = 0
    for _ in range(6):
        most = rng.randint(1, 120)
        outcome = await submit(engine, hold(name, most, org_id="school"))
        if not isinstance(outcome, HoldTaken):
            used = await submit(engine, consume(name, rng.randint(1, 60), org_id="school"))
            assert isinstance(used, Consumed)
            spent += used.credits
            continue
        parts = await taken(engine, outcome)
        if rng.random() < 0.3:
            await submit(engine, release(parts))
            continue
        settled = await submit(engine, settle(parts, rng.randint(0, most)))
        assert isinstance(settled, HoldChanged)
        assert settled.owed == 0
        spent += settled.charged
    return spent
