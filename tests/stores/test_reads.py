"""The contract of `LedgerReads`, on every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.credits.reader import Reader
from entitlements.app.policy.active import Policies
from entitlements.app.ports import (
    Cursor,
    GrantsOf,
    OperationsQuery,
)
from entitlements.core import commands as c
from entitlements.core.burndown import Draws, burn_key
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.due import DUE_PER_WALLET, look_ahead, wallet_in
from entitlements.core.ledger.posting import draws_from
from entitlements.core.model import Debt, Expiry, Operation, StoredGrant, Wallet, WalletKey
from entitlements.core.outcomes import (
    DebtClosed,
)
from entitlements.core.policy import BurnOrder
from entitlements.core.reasons import ConsumptionType, EntitlementType, OperationKind
from entitlements.ids import uuid7
from tests.stores.clerk import (
    SCHOOL,
    TEACHER,
    Clerk,
    Store,
    all_operations,
    as_of_now,
    consume,
    consumed,
    give,
    hold,
    origin,
    read,
)


async def test_starts_and_expiries_come_due_at_their_instant(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(10, expires_at=at(30)), give(5, granted_at=at(20)), give(1))
    assert (await store.reads.books([TEACHER])).wallets[TEACHER].next_due_at == at(20)

    seen = []
    for second in (19, 20, 29, 30):
        clerk.clock.turn_to(second)
        seen.append(as_of_now(await read(clerk, TEACHER), TEACHER).balance)
    due = await store.reads.due_wallets(10)
    (spent,) = await clerk.do(consume(6))

    assert seen == [11, 16, 16, 6]
    assert due == [TEACHER]
    assert consumed(spent).new_balance == 0
    assert [o.kind for o in await all_operations(store)].count(OperationKind.ACTIVATION) == 1
    assert await store.reads.due_wallets(10) == []


async def test_expiries_of_many_grants_are_read_as_a_sum(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(5, priority=1, expires_at=at(20)))
    await clerk.do(hold(4, ttl_s=60))
    for _ in range(3):
        await clerk.do(*(give(2, expires_at=at(30)) for _ in range(DUE_PER_WALLET // 2)))
    await clerk.do(give(7))
    clerk.clock.turn_to(30)

    book = await store.reads.books([TEACHER])
    shown = as_of_now(await read(clerk, TEACHER), TEACHER)

    assert len(book.grants[TEACHER]) == 1  # the one that a hold keeps
    assert (shown.balance, shown.held, shown.available) == (11, 4, 7)


async def test_a_read_applies_all_due_effects_and_writes_nothing(
    store: Store, clerk: Clerk
) -> None:
    number = DUE_PER_WALLET + 20
    await clerk.do(*(give(1, expires_at=clerk.clock.at(10)) for _ in range(number)), give(7))
    clerk.clock.turn_to(10)

    book = await read(clerk, TEACHER, SCHOOL)

    assert as_of_now(book, TEACHER).balance == 7
    assert SCHOOL not in book.wallets
    assert book.now == clerk.clock.at(10)
    assert (await store.reads.books([TEACHER])).wallets[TEACHER].balance == number + 7


async def test_the_next_expiry_is_the_amount_lost_next_if_nothing_is_spent(
    store: Store, clerk: Clerk
) -> None:
    at = clerk.clock.at
    await clerk.do(
        give(1),
        give(2, expires_at=at(40)),
        give(3, expires_at=at(30)),
        give(4, expires_at=at(30), priority=90),
        give(5, granted_at=at(10), expires_at=at(20)),  # starts before the others expire
        give(6, granted_at=at(25), expires_at=at(30)),
        give(7, SCHOOL),
    )

    reader = Reader(clerk.store.reads, Policies(clerk.policy))
    seen = []
    for second in (9, 10, 20, 25, 30, 40):
        clerk.clock.turn_to(second)
        seen.append((await reader.holdings([TEACHER]))[TEACHER])

    assert [lost for _, lost in seen] == [
        Expiry(at(30), 7),
        Expiry(at(20), 5),
        Expiry(at(30), 7),
        Expiry(at(30), 13),
        Expiry(at(40), 2),
        None,
    ]
    assert [wallet.balance for wallet, _ in seen] == [10, 15, 10, 16, 3, 1]


@pytest.mark.parametrize(
    ("order", "expected"), [(BurnOrder.EXPIRY, [3, 2]), (BurnOrder.FIFO, [1, 2])]
)
async def test_an_opened_book_has_the_grants_that_pay_first_and_those_that_start_next(
    store: Store, clerk: Clerk, order: BurnOrder, expected: list[int]
) -> None:
    at = clerk.clock.at
    for credits, expires in ((1, None), (2, 90), (3, 60)):
        await clerk.do(give(credits, expires_at=expires and at(expires)))
        clerk.clock.turn_to(credits)
    await clerk.do(give(4, granted_at=at(50)), give(9, expires_at=at(5)))
    clerk.clock.turn_to(10)

    needs = Needs(policy_version="", burn_order=order, wallets={SCHOOL, TEACHER})
    book = await store.reads.opened_books(replace(needs, depth={TEACHER: 2}))

    live = {g.quantity: g for g in book.grants[TEACHER].values() if g.is_live}
    first = sorted(live.values(), key=lambda g: burn_key(g, order))
    assert [grant.quantity for grant in first][:2] == expected
    assert 9 not in live, "its expiry is due"
    assert {g.quantity for g in book.grants[TEACHER].values() if not g.started} == {4}
    assert TEACHER in book.horizon
    assert book.now == clerk.clock.now
    whole = await store.reads.opened_books(replace(needs, depth={TEACHER: 9}))
    assert len(whole.grants[TEACHER]) == 4
    assert whole.horizon == {}


async def test_current_grants_are_read_by_type_and_without_those_that_have_expired(
    store: Store, clerk: Clerk
) -> None:
    at, unlock = clerk.clock.at, EntitlementType.FEATURE_UNLOCK
    feature: dict[str, Any] = {"entitlement_type": unlock, "consumption": ConsumptionType.NONE}
    await clerk.do(*(give(1, expires_at=at(10)) for _ in range(3)), give(7), give(0, **feature))
    await clerk.do(give(0, expires_at=at(11), **feature), give(5, granted_at=at(20)))
    credits = EntitlementType.CREDIT_GRANT
    clerk.clock.turn_to(10)

    wanted = [(TEACHER.subject, credits), (TEACHER.subject, unlock), (SCHOOL.subject, unlock)]
    found = await store.reads.current_grants(wanted, 2)

    assert [one.grant.quantity for one in found if one.grant.entitlement_type is credits] == [7, 5]
    ends = [one.grant.expires_at for one in found if one.grant.entitlement_type is unlock]
    assert ends == [at(11), None]


async def test_concurrent_callers_share_the_reads_of_what_subjects_have(
    store: Store, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [SCHOOL.subject, TEACHER.subject]
    await clerk.do(give(1), give(2, SCHOOL))
    reads, queries = store.reads.current_grants, []

    async def counted(wanted: Sequence[GrantsOf], limit: int) -> list[StoredGrant]:
        queries.append(wanted)
        return await reads(wanted, limit)

    monkeypatch.setattr(store.reads, "current_grants", counted)
    reader = Reader(store.reads, Policies(clerk.policy))
    answers = await asyncio.gather(*(reader.had([subjects[n % 2]]) for n in range(20)))

    assert len(queries) <= 3
    for n, had in enumerate(answers):
        assert [one.grant.quantity for one in had.pop(subjects[n % 2])] == [2 - n % 2]
        assert had == {}


async def test_an_opened_book_has_expiries_as_a_sum_and_the_grants_behind_them(
    store: Store, clerk: Clerk
) -> None:
    at = clerk.clock.at
    await clerk.do(give(5, priority=1, expires_at=at(20)))
    await clerk.do(hold(4, ttl_s=60))
    await clerk.do(*(give(2, expires_at=at(30)) for _ in range(DUE_PER_WALLET + 20)))
    await clerk.do(give(7), give(8, granted_at=at(25)), give(9, granted_at=at(40)))
    clerk.clock.turn_to(30)
    reader = Reader(store.reads, Policies(clerk.policy))

    def seen(draft: Draft) -> tuple[int, Wallet, Wallet, Draws]:
        loaded = len(draft.grants_of(TEACHER))
        shown = wallet_in(draft, TEACHER)
        later = Draft(draft.book)
        for second in (30, 39, 40, 60):
            later.now = at(second)
            look_ahead(later, [TEACHER])
        return loaded, shown, wallet_in(later, TEACHER), draws_from(draft, TEACHER, 15)

    loaded, shown, later, drawn = await reader.opened([TEACHER], seen, policy=clerk.policy)

    assert loaded == 4  # the one that a hold keeps, and those that have not expired
    assert (shown.balance, shown.held) == (4 + 7 + 8, 4)
    assert (later.balance, later.held) == (7 + 8 + 9, 0)
    assert sorted(quantity for _, quantity in drawn.draws) == [7, 8]
    assert not drawn.unpaid


async def test_debts_are_listed_oldest_first_until_they_are_closed(
    store: Store, clerk: Clerk
) -> None:
    owed = []
    for second, units in enumerate((5, 3)):
        clerk.clock.turn_to(second)
        (spent,) = await clerk.do(consume(units))
        owed.append(consumed(spent).operation_id or "")
    write_off = c.WriteOffDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owed[0])

    listed = (await store.reads.debts(open_only=True, limit=10)).rows
    (closed,) = await clerk.do(write_off)

    assert [debt.operation_id for debt in listed] == owed
    assert isinstance(closed, DebtClosed)
    debt = await store.reads.debt(owed[0])
    assert debt == replace(listed[0], closed_by=write_off.id)
    assert (await store.reads.debts(open_only=True, limit=10)).rows == [listed[1]]
    assert (await store.reads.debts(open_only=False, limit=1)).rows == [debt]
    assert await store.reads.debt(uuid7()) is None


@pytest.mark.parametrize("open_only", [True, False])
async def test_debts_are_paged_without_gaps_or_repeats(
    store: Store, clerk: Clerk, *, open_only: bool
) -> None:
    for second in (2, 1, 2):
        clerk.clock.turn_to(second)
        await clerk.do(*(consume(1) for _ in range(3)))  # at the same time
    all_ = (await store.reads.debts(open_only=open_only, limit=10)).rows

    paged: list[Debt] = []
    after = None
    while page := (await store.reads.debts(open_only=open_only, limit=2, after=after)).rows:
        paged += page
        after = Cursor(page[-1].created_at, page[-1].operation_id)

    assert paged == all_ == sorted(all_, key=lambda debt: debt.age)
    assert len(paged) == 9


async def test_operations_are_paged_newest_first_without_gaps_or_repeats(
    store: Store, clerk: Clerk
) -> None:
    for second in range(4):
        clerk.clock.turn_to(second)
        await clerk.do(*(give(1, TEACHER) for _ in range(5)))

    seen: list[Operation] = []
    pages = []
    after = None
    for _ in range(4):
        page = await store.reads.operations(OperationsQuery(limit=7, after=after))
        pages.append(len(page.rows))
        seen += page.rows
        after = page.next
        if after is None:
            break

    assert pages == [7, 7, 6]
    assert [o.seq for o in seen] == list(range(20, 0, -1))
    assert len({o.id for o in seen}) == 20


async def test_operations_are_found_by_each_filter(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    clerk.clock.turn_to(5)
    paid = consume(1)
    failed = consume(99, org_id="school")
    await clerk.do(paid, failed)

    async def found(**filters: object) -> list[str]:
        query = replace(OperationsQuery(), **filters)
        return [operation.kind for operation in (await store.reads.operations(query)).rows]

    assert await found(subject_type="org") == ["consume"]
    assert await found(subject_type="user", subject_id="teacher") == ["consume", "grant"]
    assert await found(subject_id="nobody") == []
    assert await found(correlation_id=paid.origin.correlation_id) == ["consume"]
    assert await found(metric="cj") == ["consume"] * 2
    assert await found(status="failed") == ["consume"]
    assert await found(since=clerk.clock.at(5)) == ["consume"] * 2
    assert await found(until=clerk.clock.at(5)) == ["grant"]


@pytest.mark.parametrize(
    "text",
    ["", "0", "å", "0198c1f2-8a52-7c1e-9d5e", "x" * 255,
     "urn:uuid:0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", "0198c1f28a527c1e9d5e2f6a4c1b7e9-0",
     "0_98c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", "\uff10198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"],
)  # fmt: skip
async def test_a_text_that_is_not_an_id_finds_nothing(store: Store, text: str) -> None:
    assert await store.reads.operation(text) is None
    assert await store.reads.grant(text) is None
    assert await store.reads.debt(text) is None


async def test_the_amount_owed_is_the_sum_of_open_debts(store: Store, clerk: Clerk) -> None:
    one, two = consume(5), consume(3, user_id="rival")
    write_off = consume(4)
    await clerk.do(one, two, write_off, consume(2, metric="odd"), give(1))
    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=one.id)
    forgive = c.WriteOffDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=write_off.id)
    await clerk.do(settle, forgive)
    rival = WalletKey("user", "rival", "credits")

    owing = (await store.reads.books([], owing=[TEACHER, rival, SCHOOL])).owing

    assert owing == {TEACHER: 4, rival: 3, SCHOOL: 0}
