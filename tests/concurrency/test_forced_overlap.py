"""A command that waits for a wallet locked by a rival must see the rival's changes.

Ten debits through `gather` would pass even without locks. These tests would not.
"""

from datetime import timedelta

import pytest

from entitlements.adapters.postgres.statements import SQL
from entitlements.core.outcomes import Consumed, Refusal
from entitlements.core.reasons import RefusalCode
from tests.concurrency.scene import (
    Rival,
    adjust,
    balance,
    consume,
    engines,
    given,
    grant,
    org,
    submit,
    user,
    waits_for,
)


@pytest.fixture(autouse=True)
def patient_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the lock timeout, so that a command is decided after its first wait."""
    monkeypatch.setitem(SQL, "begin", SQL["begin"].replace("'250ms'", "'9s'"))


async def test_a_grant_that_the_rival_adds_pays_for_the_waiting_command(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        await given(engine, user("ada"), 5)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 12))
        await rival.is_waited_for()
        await rival.writes(grant(user("ada"), 10))
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.success
        assert outcome.new_balance == 3


async def test_a_sooner_expiring_grant_that_the_rival_adds_is_drawn_first(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        late = await given(engine, user("ada"), 10)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 10))
        await rival.is_waited_for()
        soon = (await engine.store.reads.books([user("ada")])).now + timedelta(days=1)
        await rival.writes(grant(user("ada"), 10, expires_at=soon))
        await rival.commits()
        await ours
        untouched = await engine.store.reads.grant(late)
        assert untouched is not None
        assert untouched.grant.remaining == 10


async def test_credits_that_the_rival_spends_are_not_spent_again(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        await given(engine, user("ada"), 10)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 10))
        await rival.is_waited_for()
        await rival.writes(consume("ada", 1))
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert not outcome.success
        assert outcome.owed == 10
        assert await balance(engine, user("ada")) == 9


async def test_the_user_pays_after_the_rival_has_drained_the_org(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        await given(engine, org("school"), 10)
        await given(engine, user("ada"), 10)
        await rival.locks(org("school"))
        ours = waits_for(engine, consume("ada", 10, org_id="school"))
        await rival.is_waited_for()
        await rival.writes(adjust(org("school"), -1))
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.success
        assert outcome.consumed_from == "user"


async def test_a_receipt_that_the_rival_writes_during_the_lock_wait_is_replayed(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        await given(engine, user("ada"), 100)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 10, key="same"))
        await rival.is_waited_for()
        await rival.writes(consume("ada", 10, key="same"))
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.replayed
        assert await balance(engine, user("ada")) == 90


async def test_a_key_that_the_rival_uses_on_another_wallet_is_refused_alone_in_its_batch(
    url: str,
) -> None:
    """The command has locked its wallet before it meets the rival's receipt, at its own insert."""
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        for name in ("ada", "bob", "eve"):
            await given(engine, user(name), 100)
        await rival.locks(user("bob"))
        await rival.writes(consume("bob", 10, key="same"))
        ours = waits_for(engine, consume("ada", 10, key="same"))
        neighbour = waits_for(engine, consume("eve", 10))
        await rival.is_waited_for()
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Refusal)
        assert outcome.code is RefusalCode.KEY_REUSED
        beside = await neighbour
        assert isinstance(beside, Consumed)
        assert beside.success
        assert [await balance(engine, user(name)) for name in ("ada", "bob", "eve")] == [
            100,
            90,
            90,
        ]


async def test_a_job_that_the_rival_consumes_under_another_key_is_not_consumed_again(
    url: str,
) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        await given(engine, user("ada"), 100)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 10, job="essay-7"))
        await rival.is_waited_for()
        await rival.writes(consume("ada", 10, job="essay-7"))
        await rival.commits()
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.replayed
        assert await balance(engine, user("ada")) == 90


async def test_a_transaction_that_the_rival_rolls_back_has_no_effect(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 10)
        async with Rival.on(url, engine) as rival:
            await rival.locks(user("ada"))
            ours = waits_for(engine, consume("ada", 10))
            await rival.is_waited_for()
            await rival.writes(consume("ada", 10))
        outcome = await ours
        assert isinstance(outcome, Consumed)
        assert outcome.success
        await submit(engine, consume("ada", 1))
        assert await balance(engine, user("ada")) == 0
