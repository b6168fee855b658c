"""Concurrent commands, in one process and in two on the same database."""

import pytest

from entitlements.core.outcomes import Consumed, Refusal
from entitlements.core.reasons import RefusalCode
from tests.concurrency.scene import (
    balance,
    consume,
    engines,
    given,
    grant,
    paid,
    paid_together,
    submit,
    submit_all,
    together,
    user,
)

processes = pytest.mark.parametrize("number", [1, 2], ids=["one engine", "two engines"])


@processes
async def test_of_20_consumptions_of_10_from_100_exactly_10_succeed(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        outcomes = await submit_all(running, [consume("ada", 10) for _ in range(20)])
        assert len(paid(outcomes)) == 10
        assert await balance(running[0], user("ada")) == 0
        assert sum(one.owed for one in outcomes if isinstance(one, Consumed)) == 100


@processes
async def test_of_20_pairs_of_4_and_6_from_100_exactly_10_succeed_and_the_others_take_nothing(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        pairs = [together(consume("ada", 4), consume("ada", 6)) for _ in range(20)]
        outcomes = await submit_all(running, pairs)
        assert len(paid_together(outcomes)) == 10
        assert await balance(running[0], user("ada")) == 0


@processes
async def test_pairs_that_share_a_key_at_once_debit_it_once(any_url: str, number: int) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        pairs = [together(consume("ada", 4, key="shared"), consume("ada", 6)) for _ in range(8)]
        singles = [consume("ada", 4, key="shared") for _ in range(8)]
        outcomes = await submit_all(running, [*pairs, *singles])
        answers = [
            *(pair.results[0] for pair in paid_together(outcomes)),
            *paid(outcomes),
        ]
        assert [one.replayed for one in answers].count(False) == 1
        assert len({one.operation_id for one in answers}) == 1
        assert await balance(running[0], user("ada")) == 100 - 4 - 8 * 6


@processes
async def test_one_key_16_times_at_once_is_one_debit_and_15_replays(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        outcomes = paid(
            await submit_all(running, [consume("ada", 10, key="once") for _ in range(16)])
        )
        assert [one.replayed for one in outcomes].count(False) == 1
        assert [one.replayed for one in outcomes].count(True) == 15
        assert len({one.operation_id for one in outcomes}) == 1
        assert {one.new_balance for one in outcomes} == {90}
        assert await balance(running[0], user("ada")) == 90


@processes
async def test_one_job_8_times_at_once_under_different_keys_is_one_debit(
    any_url: str, number: int
) -> None:
    async with engines(any_url, number) as running:
        await given(running[0], user("ada"), 100)
        outcomes = paid(
            await submit_all(running, [consume("ada", 10, job="essay-7") for _ in range(8)])
        )
        assert [one.replayed for one in outcomes].count(False) == 1
        assert await balance(running[0], user("ada")) == 90


@processes
async def test_8_concurrent_first_grants_of_5_make_40(any_url: str, number: int) -> None:
    async with engines(any_url, number) as running:
        await submit_all(running, [grant(user("new"), 5) for _ in range(8)])
        assert await balance(running[0], user("new")) == 40


async def test_when_two_engines_race_for_a_key_the_rest_of_their_batches_succeeds(
    any_url: str,
) -> None:
    async with engines(any_url, 2) as running:
        names = [f"u{n}" for n in range(40)]
        await submit_all(running, [grant(user(name), 100) for name in names])
        for race in range(5):
            raced = [consume("u0", 3, key=f"race-{race}"), consume("u1", 4, key=f"race-{race}")]
            beside = [consume(name, 1) for name in names[2:]]
            outcomes = await submit_all(running, raced + beside)
            assert len(paid(outcomes[:2])) == 1
            [refused] = [one for one in outcomes[:2] if isinstance(one, Refusal)]
            assert refused.code is RefusalCode.KEY_REUSED
            assert len(paid(outcomes[2:])) == len(beside)
        for name in names[2:]:
            assert await balance(running[0], user(name)) == 95
        total = 200 - await balance(running[0], user("u0")) - await balance(running[0], user("u1"))
        assert 15 <= total <= 20


async def test_two_engines_that_lock_the_same_wallets_never_deadlock(url: str) -> None:
    async with engines(url, 2) as running:
        names = [f"u{n}" for n in range(20)]
        await submit_all(running, [grant(user(name), 100) for name in names])
        ahead = [consume(name, 1) for name in names for _ in range(6)]
        outcomes = await submit_all(running, ahead + ahead[::-1])
        assert len(paid(outcomes)) == 240
        assert {await balance(running[0], user(name)) for name in names} == {94}


async def test_a_read_after_a_response_sees_its_effect(any_url: str) -> None:
    async with engines(any_url, 2) as running:
        await given(running[0], user("ada"), 100)
        for turn in range(1, 11):
            await submit(running[turn % 2], consume("ada", 1))
            assert await balance(running[(turn + 1) % 2], user("ada")) == 100 - turn
