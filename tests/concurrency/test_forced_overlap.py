"""A rival holds the wallet while our command waits; what it did meanwhile must be seen.

Ten debits through `gather` pass without any lock; these scenes do not.
"""

from datetime import timedelta

import pytest

from entitlements.adapters.postgres.statements import SQL
from entitlements.core.outcomes import Consumed, RefusalCode, Refused
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
    """So that the command decides after its first wait, not in a later attempt."""
    monkeypatch.setitem(SQL, "begin", SQL["begin"].replace("'250ms'", "'9s'"))


async def test_a_grant_the_rival_adds_pays_for_the_command_that_waited(url: str) -> None:
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


async def test_a_sooner_grant_the_rival_adds_is_burnt_first(url: str) -> None:
    async with engines(url) as [engine], Rival.on(url, engine) as rival:
        late = await given(engine, user("ada"), 10)
        await rival.locks(user("ada"))
        ours = waits_for(engine, consume("ada", 10))
        await rival.is_waited_for()
        soon = (await engine.store.books([user("ada")])).now + timedelta(days=1)
        await rival.writes(grant(user("ada"), 10, expires_at=soon))
        await rival.commits()
        await ours
        untouched = await engine.store.grant(late)
        assert untouched is not None
        assert untouched.remaining == 10


async def test_credits_the_rival_drains_are_not_spent_again(url: str) -> None:
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


async def test_the_users_wallet_pays_once_the_rival_has_drained_the_orgs(url: str) -> None:
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


async def test_a_receipt_the_rival_writes_under_our_lock_wait_answers_for_us(url: str) -> None:
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


async def test_a_key_the_rival_uses_on_another_wallet_is_refused_and_its_neighbour_is_not(
    url: str,
) -> None:
    """We hold our wallets already when we meet the rival's receipt, at our own insert."""
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
        assert isinstance(outcome, Refused)
        assert outcome.code is RefusalCode.KEY_REUSED
        beside = await neighbour
        assert isinstance(beside, Consumed)
        assert beside.success
        assert [await balance(engine, user(name)) for name in ("ada", "bob", "eve")] == [
            100,
            90,
            90,
        ]


async def test_a_job_the_rival_consumes_under_another_key_is_not_consumed_again(url: str) -> None:
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


async def test_what_the_rival_takes_back_never_happened(url: str) -> None:
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
