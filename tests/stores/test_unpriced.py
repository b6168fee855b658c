"""Unpriced work on both engines: it is charged once, whichever command comes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from entitlements.app.ports import Batch, WriteRejected
from entitlements.core import commands as c
from entitlements.core.ledger.book import Book
from entitlements.core.model import Debt, JobKey, Operation, WalletKey
from entitlements.core.outcomes import Consumed, DebtPriced, Refusal
from entitlements.core.policy import Cost
from entitlements.core.reasons import RefusalCode
from entitlements.ids import uuid7
from tests.deciding import apply
from tests.stores.clerk import (
    ANNOUNCER,
    SCHOOL,
    TEACHER,
    Clerk,
    Clock,
    Store,
    a_clerk,
    a_policy,
    consume,
    give,
    origin,
)

TOKENS = WalletKey("user", "teacher", "tokens")


@pytest.fixture
async def clerk(store: Store, clock: Clock) -> Clerk:
    return await a_clerk(store, clock)


def knowing(clerk: Clerk, **cost: Any) -> Clerk:
    """Return a clerk whose policy has the metric ``odd``."""
    costs = {"cj": Cost(credits=1), "odd": Cost(**({"credits": 2} | cost))}
    return Clerk(clerk.store, clerk.clock, a_policy(costs=costs))


async def filed(clerk: Clerk, units: int = 4, asked: c.Origin | None = None, **fields: Any) -> str:
    command = consume(units, asked, metric="odd", **fields)
    await clerk.do(command)
    return command.id


async def pricing(store: Store, operation_id: str) -> c.PriceDebt:
    return c.PriceDebt(id=uuid7(), origin=origin(), operation=await operation(store, operation_id))


async def operation(store: Store, operation_id: str) -> Operation:
    found = await store.reads.operation(operation_id)
    assert found is not None
    return found


async def debt(store: Store, operation_id: str) -> Debt:
    found = await store.reads.debt(operation_id)
    assert found is not None
    return found


async def test_unpriced_work_is_listed_as_a_debt_of_the_root_subject_without_a_price(
    store: Store, clerk: Clerk
) -> None:
    work = await filed(clerk, org_id="school")

    (listed,) = (await store.reads.debts(open_only=True, limit=9)).rows

    assert (listed.operation_id, listed.wallet, listed.owed) == (work, SCHOOL, None)
    assert await store.reads.unpriced_total(9) == 1
    assert await store.reads.unpriced_work(["odd", "cj"], 9) == [work]
    assert await store.reads.unpriced_work(["cj"], 9) == []
    assert await store.reads.unpriced_work(None, 9, without=[work]) == []


async def test_unpriced_work_is_charged_by_an_operation_that_refers_to_it(
    store: Store, clerk: Clerk
) -> None:
    work = await filed(clerk)
    await clerk.do(give(9))
    command = await pricing(store, work)

    (priced,) = await knowing(clerk).do(command)

    assert isinstance(priced, DebtPriced)
    assert (priced.credits, priced.owed, priced.new_balance) == (8, 0, 1)
    assert (await operation(store, command.id)).reverses == work
    assert (await debt(store, work)).closed_by == command.id
    assert await store.reads.unpriced_total(9) == 0


async def test_an_uncovered_price_is_owed_in_its_credit_type(store: Store, clerk: Clerk) -> None:
    work = await filed(clerk)

    await knowing(clerk, credit_type="tokens").do(await pricing(store, work))

    found = await debt(store, work)
    assert (found.wallet, found.owed, found.closed_by) == (TOKENS, 8, None)
    await clerk.do(give(5, TOKENS))
    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TOKENS, debt_id=work)
    await clerk.do(settle)
    assert (await debt(store, work)).owed == 3


async def test_a_repeated_request_charges_it_and_further_ones_replay_the_charge(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(99, TOKENS), give(99))
    asked = origin("k")
    await filed(clerk, asked=asked)
    better = knowing(clerk, credit_type="tokens")
    repeats = [consume(4, asked, metric="odd") for _ in range(2)]

    (first,) = await better.do(repeats[0])
    (second,) = await better.do(repeats[1])

    assert isinstance(first, Consumed)
    assert (first.operation_id, first.credits, first.success) == (repeats[0].id, 8, True)
    assert second == first
    assert (await better.look(TOKENS)).wallets[TOKENS].balance == 91


async def test_a_repeat_of_its_job_charges_it(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(9))
    job = JobKey("teacher", "grader", "7", "odd")
    work = await filed(clerk, job=job)

    (repeated,) = await knowing(clerk).do(consume(4, metric="odd", job=job))

    assert isinstance(repeated, Consumed)
    assert (repeated.success, repeated.credits) == (True, 8)
    assert (await debt(store, work)).closed_by == repeated.operation_id


async def test_of_concurrent_commands_that_charge_it_exactly_one_does(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(99))
    asked = origin("k")
    work = await filed(clerk, asked=asked)
    better = [knowing(clerk) for _ in range(6)]
    commands: list[c.AnyCommand] = [
        *[await pricing(store, work) for _ in range(3)],
        *[consume(4, asked, metric="odd") for _ in range(3)],
    ]

    outcomes = await asyncio.gather(
        *(one.do(command) for one, command in zip(better, commands, strict=True))
    )

    flat = [outcome for (outcome,) in outcomes]
    charged = [one for one in flat if isinstance(one, DebtPriced)]
    refused = [one.code for one in flat if isinstance(one, Refusal)]
    assert set(refused) <= {RefusalCode.DEBT_CLOSED}
    assert len(charged) + len(refused) == 3
    assert {one.credits for one in flat if isinstance(one, Consumed)} == {8}
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 91


async def test_the_database_refuses_to_price_work_twice(store: Store, clerk: Clerk) -> None:
    """The database prevents it even if the book holds stale data."""
    await clerk.do(give(99))
    work = await filed(clerk)
    first, second = await pricing(store, work), await pricing(store, work)
    better = knowing(clerk)
    await better.do(first)

    def forget(book: Book) -> Batch:
        known = book.debts[work]
        book.put_debt(
            Debt(
                operation_id=work,
                wallet=known.wallet,
                owed=None,
                metric="odd",
                created_at=known.created_at,
            )
        )
        apply(book, second)
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes))

    with pytest.raises(WriteRejected):
        await better.commit(better.needs(second), forget)

    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 91


async def test_the_database_refuses_to_settle_a_part_twice(store: Store, clerk: Clerk) -> None:
    await clerk.do(owing := consume(9), give(2))
    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owing.id)
    await clerk.do(settle, give(7))
    again = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owing.id)

    def forget(book: Book) -> Batch:
        known = book.debts[owing.id]
        book.put_debt(
            Debt(
                operation_id=owing.id,
                wallet=TEACHER,
                owed=9,
                metric="cj",
                created_at=known.created_at,
            )
        )
        apply(book, again)
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(again), forget)

    assert (await debt(store, owing.id)).owed == 7
