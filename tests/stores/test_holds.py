"""The contract of stores for holds, on every engine."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.app.credits.reader import holds_now
from entitlements.app.ports import Batch, HoldsQuery, PastUse, WriteRejected
from entitlements.app.process.clock import in_ms
from entitlements.core import commands as c
from entitlements.core.ledger.book import Book, Draft, Needs
from entitlements.core.ledger.due import DUE_PER_WALLET, MoreDue, look_ahead
from entitlements.core.model import Hold, WalletKey
from entitlements.core.outcomes import AnyOutcome, Granted, HoldChanged, HoldTaken, Refusal
from entitlements.core.policy import BurnOrder, Cost
from entitlements.core.reasons import HoldStatus, OperationKind, RefusalCode
from entitlements.core.windows import slice_at
from entitlements.ids import uuid7
from tests.deciding import apply
from tests.stores.clerk import (
    ANNOUNCER,
    NOON,
    SCHOOL,
    TEACHER,
    Clerk,
    Clock,
    Store,
    a_clerk,
    a_policy,
    as_of_now,
    consume,
    give,
    hold,
    origin,
    release,
    rewritten,
    settle,
)

TOKENS = WalletKey("user", "teacher", "tokens")


async def taken(clerk: Clerk, command: c.TakeHold) -> list[Hold]:
    """Take a hold; return its parts as they are read back."""
    (outcome,) = await clerk.do(command)
    assert isinstance(outcome, HoldTaken), outcome
    return await clerk.store.reads.hold(outcome.hold_id)


def changed(outcome: AnyOutcome | Refusal) -> HoldChanged:
    assert isinstance(outcome, HoldChanged), outcome
    return outcome


async def wallet_of(clerk: Clerk, key: WalletKey = TEACHER) -> Any:
    """Return the wallet as a read shows it now."""
    book = await clerk.store.reads.books([key])
    book.equip(clerk.policy, uuid7)
    return as_of_now(book, key)


async def test_a_hold_is_read_as_it_was_written_and_as_it_was_settled(
    store: Store, clock: Clock
) -> None:
    rules = a_policy(costs={"cj": Cost(credits=1), "ai": Cost(credits=1, credit_type="tokens")})
    clerk = await a_clerk(store, clock, rules)
    await clerk.do(give(3), give(9, expires_at=clock.at(99)), give(5, TOKENS))

    parts = await taken(clerk, hold(10, org_id="school", requirements={"ai": 2, "cj": 10}))
    written = clerk.books[-1].changes()
    (outcome,) = await clerk.do(settle(parts, 4))

    assert written.new_holds == sorted(parts, key=lambda part: part.wallet)
    assert [part.wallet for part in parts] == [TEACHER, TOKENS]
    assert [draw.quantity for draw in parts[0].backing] == [9, 1]
    assert await store.reads.operation(written.operations[0].id) == written.operations[0]
    closed = await store.reads.hold(parts[0].id)
    assert closed == [now for now, _ in clerk.books[-1].changes().holds]
    assert closed[0].closing is not None
    assert closed[0].closing.outcome == outcome


async def test_all_grants_that_back_a_hold_are_loaded_with_it(
    clerk: Clerk,
) -> None:
    await clerk.do(*(give(1) for _ in range(80)))
    parts = await taken(clerk, hold(70))
    await clerk.do(*(give(1, priority=1) for _ in range(20)))

    (outcome,) = await clerk.do(settle(parts, 65))

    assert changed(outcome).charged == 65
    assert (await wallet_of(clerk)).available == 35


async def test_a_lapse_is_read_and_recorded_at_its_instant(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10))
    parts = await taken(clerk, hold(10))
    before = await wallet_of(clerk)
    clerk.clock.turn_to(60)

    read = await wallet_of(clerk)
    book = await store.reads.books([TEACHER])
    book.equip(clerk.policy, uuid7)
    draft = Draft(book)
    look_ahead(draft, [TEACHER])
    shown = holds_now({TEACHER: draft}, parts)
    due = await store.reads.due_wallets(10)
    await clerk.do(consume(10))

    assert (before.held, before.available, before.next_due_at) == (10, 0, clerk.clock.at(60))
    assert (read.held, read.available) == (0, 10)
    assert due == [TEACHER]
    assert [(part.status, part.held, part.returned) for part in shown] == [("lapsed", 0, 10)]
    assert await store.reads.hold(parts[0].id) == shown
    assert (await wallet_of(clerk)).balance == 0


async def test_held_credits_of_a_grant_that_ends_stay_with_the_hold(clerk: Clerk) -> None:
    await clerk.do(give(10, expires_at=clerk.clock.at(30)))
    held = await taken(clerk, hold(6))
    clerk.clock.turn_to(30)
    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))
    between = await wallet_of(clerk)

    (outcome,) = await clerk.do(settle(held, 4))

    assert (between.balance, between.held, between.available) == (6, 6, 0)
    assert changed(outcome).charged == 4
    assert changed(outcome).new_balance == 0


async def test_held_credits_of_a_revoked_grant_are_lost_when_the_hold_lapses(
    store: Store, clerk: Clerk
) -> None:
    (granted,) = await clerk.do(give(10))
    assert isinstance(granted, Granted)
    await taken(clerk, hold(6))
    await clerk.do(
        c.Revoke(
            id=uuid7(), origin=origin(), wallet=TEACHER, grant_id=granted.grant_id, reason="typo"
        )
    )
    clerk.clock.turn_to(60)

    assert (await wallet_of(clerk)).balance == 0
    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))
    ended = await store.reads.grant(granted.grant_id)
    assert ended is not None
    assert (ended.grant.remaining, ended.grant.held) == (0, 0)


async def test_lapses_beyond_the_limit_of_a_batch_take_further_batches(
    store: Store, clerk: Clerk
) -> None:
    number = DUE_PER_WALLET + 20
    await clerk.do(give(number))
    await clerk.do(*(hold(1, ttl_s=10 + i) for i in range(number)))
    clerk.clock.turn_to(3600)
    due = c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER)

    def first_part(book: Book) -> Batch:
        with pytest.raises(MoreDue):
            apply(book, due)
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes))

    await clerk.commit(clerk.needs(due), first_part)
    between = (await store.reads.books([TEACHER])).wallets[TEACHER]
    read = await wallet_of(clerk)
    await clerk.do(due)

    assert (between.held, between.next_due_at) == (20, clerk.clock.at(10 + DUE_PER_WALLET))
    assert (read.held, read.available) == (0, number)
    wallet = (await store.reads.books([TEACHER])).wallets[TEACHER]
    assert (wallet.held, wallet.next_due_at) == (0, None)
    assert (await store.reads.holds(HoldsQuery(status=HoldStatus.OPEN))).rows == []


async def test_a_start_between_lapses_keeps_the_order_of_their_times(
    store: Store, clerk: Clerk
) -> None:
    at = clerk.clock.at
    await clerk.do(give(9), give(5, granted_at=at(20)), give(1, expires_at=at(25)))
    await clerk.do(hold(2, ttl_s=10), hold(2, ttl_s=30))
    clerk.clock.turn_to(40)

    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))

    lines = clerk.books[-1].changes().operations
    assert [(line.kind, line.effective_at) for line in lines] == [
        (OperationKind.LAPSE, at(10)),
        (OperationKind.ACTIVATION, at(20)),
        (OperationKind.EXPIRY, at(25)),
        (OperationKind.LAPSE, at(30)),
    ]


@pytest.mark.parametrize("stale", ["hold", "grant"])
async def test_a_stale_hold_is_a_conflict_and_nothing_is_written(
    store: Store, clerk: Clerk, stale: str
) -> None:
    await clerk.do(give(10))
    parts = await taken(clerk, hold(8))
    closing = settle(parts, 3)

    def spoil(book: Book) -> None:
        if stale == "hold":
            book.put_hold(replace(parts[0], held=7, taken=7))
        else:
            (grant,) = book.grants[TEACHER].values()
            book.put_grant(replace(grant, held=9))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(closing), rewritten([closing], spoil))

    assert await store.reads.hold(parts[0].id) == parts
    (retried,) = await clerk.do(closing)
    assert changed(retried).new_balance == 7


async def test_of_two_commands_that_close_a_hold_in_one_batch_the_second_is_refused(
    clerk: Clerk,
) -> None:
    await clerk.do(give(10))
    parts = await taken(clerk, hold(8))

    ended, late = await clerk.do(settle(parts, 3), release(parts))

    assert changed(ended).returned == 5
    assert isinstance(late, Refusal)
    assert late.code is RefusalCode.HOLD_CLOSED


async def test_holds_taken_in_one_batch_see_each_other(clerk: Clerk) -> None:
    await clerk.do(give(500))

    outcomes = await clerk.do(*(hold(75) for _ in range(20)))

    assert sum(isinstance(outcome, HoldTaken) for outcome in outcomes) == 6
    assert (await wallet_of(clerk)).held == 450


async def test_holds_are_listed_newest_first_by_each_filter(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(50), give(50, SCHOOL))
    mine = [await taken(clerk, hold(n)) for n in (1, 2, 3)]
    org = await taken(clerk, hold(4, org_id="school"))
    await clerk.do(release(mine[0]))

    async def ids(**wanted: Any) -> list[str]:
        return [part.id for part in (await store.reads.holds(HoldsQuery(**wanted))).rows]

    newest_first = sorted((part.id for (part,) in (org, *mine)), reverse=True)
    released = mine[0][0].id
    still_open = [i for i in newest_first if i != released]
    assert await ids() == newest_first
    assert await ids(limit=2) == newest_first[:2]
    assert await ids(after=newest_first[1]) == newest_first[2:]
    users = await ids(subject_type="user", subject_id="teacher")
    assert users == [i for i in newest_first if i != org[0].id]
    assert await ids(status=HoldStatus.OPEN) == still_open
    assert await ids(status=HoldStatus.RELEASED) == [released]
    assert await ids(status=HoldStatus.OPEN, after=still_open[0]) == still_open[1:]


@pytest.mark.parametrize("text", ["", "nothing", "00000000-0000-7000-8000-000000000000"])
async def test_an_unknown_hold_id_has_no_parts(store: Store, clerk: Clerk, text: str) -> None:
    await clerk.do(give(10), hold(8))

    assert await store.reads.hold(text) == []


async def test_units_count_as_used_when_held_and_the_excess_when_settled(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(50))
    first = slice_at(in_ms(NOON), 600)
    parts = await taken(clerk, hold(8, org_id="school"))
    clerk.clock.turn_to(10)
    await clerk.do(settle(parts, 11))

    assert await store.limits.past_uses(["cj"], window_s=600, since=NOON) == [
        PastUse("teacher", "school", "cj", first, 8),
        PastUse("teacher", "school", "cj", first + 1, 3),
    ]


async def test_held_credits_do_not_expire_with_their_grant(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(6, expires_at=at(30)), give(9, expires_at=at(50)))
    await taken(clerk, hold(7))

    book = await store.reads.books([TEACHER], expiring=True)

    assert book.expiring[TEACHER] == (at(50), 8)


async def test_an_opened_book_has_the_holds_that_lapse_next(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(9))
    later = await taken(clerk, hold(2, ttl_s=60))
    sooner = await taken(clerk, hold(2, ttl_s=30))

    needs = Needs(policy_version="", burn_order=BurnOrder.EXPIRY, wallets={TEACHER})
    book = await store.reads.opened_books(needs)

    assert list(book.holds[TEACHER].values()) == [*sooner, *later]
    assert {draw.grant_id for part in sooner for draw in part.backing} <= book.grants[
        TEACHER
    ].keys()
