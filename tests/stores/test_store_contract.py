"""The contract of stores, on every engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.credits.reader import holding, with_due_applied
from entitlements.app.ports import (
    ApiKey,
    Backlog,
    Batch,
    Cursor,
    OperationsQuery,
    PastUse,
    WriteRejected,
)
from entitlements.app.process.clock import in_ms
from entitlements.core import commands as c
from entitlements.core.burndown import burn_key
from entitlements.core.ledger.book import DEBTS_FIRST, DEBTS_MAX, Book, Needs
from entitlements.core.ledger.due import DUE_PER_BATCH, MoreDue
from entitlements.core.ledger.posting import DEPTH_FIRST
from entitlements.core.model import AuditEntry, Debt, Expiry, JobKey, Operation, Subject, WalletKey
from entitlements.core.outcomes import (
    AccountOpened,
    Consumed,
    DebtClosed,
    DoneTogether,
    Granted,
    HoldTaken,
    Refusal,
    Reversed,
    Revoked,
)
from entitlements.core.policy import AMOUNT_MAX, BurnOrder, Cost, Threshold
from entitlements.core.reasons import OperationKind, RefusalCode
from entitlements.core.windows import slice_at
from entitlements.ids import uuid7
from tests.audit import audited
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
    a_limit_event,
    a_policy,
    an_activation,
    consume,
    give,
    hold,
    origin,
    rewritten,
    together,
)

FREE = Cost(credits=0)
JOB = JobKey("teacher", "grader", "essay-1", "cj")


async def all_operations(store: Store) -> list[Operation]:
    return (await store.records.operations(OperationsQuery(limit=1000))).rows


async def first_column(store: Store, table: str, column: str) -> list[Any]:
    sql = f"SELECT {column} FROM {table}"
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            return [row[0] for row in await db.fetch(sql)]
    assert isinstance(store, SqliteStore)
    return [row[0] for row in await store.db.read(lambda db: db.execute(sql).fetchall())]


def consumed(outcome: object) -> Consumed:
    assert isinstance(outcome, Consumed), outcome
    return outcome


async def test_an_operation_is_read_as_it_was_written(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER), give(7, SCHOOL, priority=9, expires_at=clerk.clock.at(60)))
    spent = consume(3, org_id="school", batch_id="b", job=JOB._replace(batch_id="b"))

    await clerk.do(spent)

    written = clerk.books[-1].changes().operations
    assert [await store.records.operation(one.id) for one in written] == written
    assert written[0].wallet == SCHOOL
    assert await store.records.operation(uuid7()) is None


async def test_a_grant_is_read_as_it_was_written(store: Store, clerk: Clerk) -> None:
    expires_at = clerk.clock.at(60) + timedelta(microseconds=1)

    (granted,) = await clerk.do(give(10, TEACHER, priority=9, expires_at=expires_at))

    assert isinstance(granted, Granted)
    written = clerk.books[-1].grants[TEACHER][granted.grant_id]
    assert written.expires_at == expires_at
    assert await store.records.grant(granted.grant_id) == written
    assert await store.records.grant(uuid7()) is None


async def test_an_unused_wallet_is_empty_and_stored_once_used(store: Store, clerk: Clerk) -> None:
    before = await clerk.look(TEACHER)

    await clerk.do(give(10, TEACHER), consume(4))

    after = (await clerk.look(TEACHER)).wallets[TEACHER]
    assert (before.wallets[TEACHER].balance, before.wallets[TEACHER].version) == (0, 0)
    assert (after.balance, after.version, after.updated_at) == (6, 2, NOON)
    assert (await store.records.books([TEACHER])).wallets[TEACHER] == after
    assert await store.records.wallet_keys("user", "teacher") == [TEACHER]


async def test_a_wallet_keeps_the_balance_after_its_last_grant(clerk: Clerk) -> None:
    await clerk.do(give(10), give(7, SCHOOL))
    await clerk.do(consume(4))
    await clerk.do(give(5, granted_at=clerk.clock.at(60)))

    before = (await clerk.look(TEACHER, SCHOOL)).wallets
    clerk.clock.turn_to(60)
    await clerk.do(consume(1))
    after = (await clerk.look(TEACHER, SCHOOL)).wallets

    assert (before[TEACHER].balance_at_grant, before[SCHOOL].balance_at_grant) == (10, 7)
    assert (after[TEACHER].balance_at_grant, after[SCHOOL].balance_at_grant) == (11, 7)
    assert after[TEACHER].balance == 10


async def test_a_percentage_threshold_is_followed_across_batches(
    store: Store, clerk: Clerk
) -> None:
    clerk.policy = a_policy(thresholds=(Threshold(percent=50),))

    for command in (give(10), consume(5), consume(1), consume(1), give(1)):
        await clerk.do(command)

    types = await first_column(store, "event_outbox", "event_type")
    told = await first_column(store, "event_outbox", "payload")
    crossed = [
        msgspec.json.decode(payload)["data"]
        for event_type, payload in zip(types, told, strict=True)
        if event_type.endswith("threshold.crossed.v1")
    ]
    assert sorted((one["threshold"], one["balance"], one["direction"]) for one in crossed) == [
        (2, 4, "above"),
        (5, 4, "below"),
    ]


async def test_a_repeated_key_gets_the_first_answer(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    (first,) = await clerk.do(consume(4, origin("k")))

    (again,) = await clerk.do(consume(4, origin("k")))
    (other,) = await clerk.do(consume(5, origin("k", fingerprint="g")))

    assert again == replace(consumed(first), replayed=True)
    assert isinstance(other, Refusal)
    assert other.code == RefusalCode.KEY_REUSED
    assert len(await all_operations(store)) == 2


async def test_an_expired_receipt_is_replaced(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    await clerk.do(consume(4, origin("k", lifetime_s=60)))
    clerk.clock.turn_to(60)

    (again,) = await clerk.do(consume(4, origin("k", lifetime_s=60)))
    (replayed,) = await clerk.do(consume(4, origin("k")))

    assert not consumed(again).replayed
    assert consumed(again).new_balance == 2
    assert consumed(replayed).operation_id == consumed(again).operation_id
    assert len(await all_operations(store)) == 3


async def test_expired_receipts_are_purged_and_valid_ones_kept(store: Store, clerk: Clerk) -> None:
    await clerk.do(*(consume(1, origin(lifetime_s=10)) for _ in range(5)))
    await clerk.do(consume(1, origin("kept", lifetime_s=20)))
    clerk.clock.turn_to(11)

    purged = [await store.acts.purge(3), await store.acts.purge(3), await store.acts.purge(3)]

    assert purged == [3, 2, 0]
    (again,) = await clerk.do(consume(1, origin("kept")))
    assert consumed(again).replayed


async def test_a_job_is_consumed_once_under_any_key(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    (first,) = await clerk.do(consume(4, job=JOB))

    (again,) = await clerk.do(consume(4, job=JOB))
    (other,) = await clerk.do(consume(5, job=JOB))

    assert again == replace(consumed(first), replayed=True)
    assert isinstance(other, Refusal)
    assert other.code == RefusalCode.JOB_CONFLICT
    assert len(await all_operations(store)) == 2


async def test_the_items_of_a_joint_command_are_stored_one_by_one(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, SCHOOL), give(3, TEACHER))
    pair = (consume(4, origin("k"), org_id="school"), consume(6, job=JOB, org_id="school"))

    (paid,) = await clerk.do(together(*pair))
    (alone, short) = await clerk.do(
        consume(4, origin("k"), org_id="school"), together(consume(3), consume(1))
    )
    (again,) = await clerk.do(together(consume(1), *pair))

    assert isinstance(paid, DoneTogether)
    assert isinstance(short, DoneTogether)
    assert isinstance(again, DoneTogether)
    assert [one.new_balance for one in paid.results if isinstance(one, Consumed)] == [6, 0]
    assert alone == replace(paid.results[0], replayed=True)
    assert [one.owed for one in short.results if isinstance(one, Consumed)] == [3, 1]
    assert again.results[1:] == paid.results, "the same ids, as in a retried batch"
    assert {
        one.operation_id for one in (await store.records.debts(open_only=True, limit=9)).rows
    } == {one.operation_id for one in short.results}
    for command, answer in zip(pair, paid.results, strict=True):
        assert command.id == answer.operation_id
        written = await store.records.operation(command.id)
        assert written is not None
        assert (written.wallet, written.quantity) == (SCHOOL, command.units)


async def test_a_stale_wallet_is_a_conflict_and_nothing_is_written(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    spent = consume(1)

    def spoil(book: Book) -> None:
        book.put_wallet(replace(book.wallets[TEACHER], version=7))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(spent), rewritten([spent], spoil))

    assert await store.records.operation(spent.id) is None
    wallet = (await clerk.look(TEACHER)).wallets[TEACHER]
    assert (wallet.balance, wallet.version) == (10, 1)


async def test_a_stale_grant_is_a_conflict_and_nothing_is_written(
    store: Store, clerk: Clerk
) -> None:
    (granted,) = await clerk.do(give(10, TEACHER))
    assert isinstance(granted, Granted)
    spent = consume(1)

    def spoil(book: Book) -> None:
        book.put_grant(replace(book.grants[TEACHER][granted.grant_id], remaining=9))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(spent), rewritten([spent], spoil))

    assert await store.records.operation(spent.id) is None
    unchanged = await store.records.grant(granted.grant_id)
    assert unchanged is not None
    assert unchanged.remaining == 10
    (retried,) = await clerk.do(spent)
    assert consumed(retried).new_balance == 9


async def test_an_operation_number_that_exists_is_a_conflict(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    spent = consume(1)

    def decide(book: Book) -> Batch:
        apply(book, spent)
        changes = book.changes()
        changes.operations = [replace(changes.operations[0], seq=1)]
        return Batch(changes, [])

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(spent), decide)

    assert len(await all_operations(store)) == 1


async def test_only_the_first_grants_are_loaded_in_burn_order(clerk: Clerk) -> None:
    grants = [
        give(10, TEACHER, priority=i % 3, expires_at=clerk.clock.at(1000 - i) if i % 7 else None)
        for i in range(100)
    ]
    await clerk.do(*grants)
    everything = clerk.books[-1].grants[TEACHER].values()
    expiry = sorted(burn_key(grant, BurnOrder.EXPIRY) for grant in everything)
    fifo = sorted(burn_key(grant, BurnOrder.FIFO) for grant in everything)

    book = await clerk.look(TEACHER)
    needs = Needs(policy_version=clerk.policy.version, burn_order=BurnOrder.FIFO)
    oldest = await clerk.look(TEACHER, needs=needs)

    loaded = {burn_key(grant, BurnOrder.EXPIRY) for grant in book.grants[TEACHER].values()}
    assert loaded == set(expiry[:DEPTH_FIRST])
    assert book.horizon[TEACHER] == expiry[DEPTH_FIRST - 1]
    loaded = {burn_key(grant, BurnOrder.FIFO) for grant in oldest.grants[TEACHER].values()}
    assert loaded == set(fifo[:DEPTH_FIRST])
    assert oldest.horizon[TEACHER] == fifo[DEPTH_FIRST - 1]


async def test_a_hundred_grants_pay_one_consumption(store: Store, clerk: Clerk) -> None:
    await clerk.do(*(give(10, TEACHER) for _ in range(100)))
    books = len(clerk.books)

    (spent,) = await clerk.do(consume(995))

    assert consumed(spent).new_balance == 5
    assert len(clerk.books) - books > 1
    operation = await store.records.operation(consumed(spent).operation_id or "")
    assert operation is not None
    assert len(operation.draws) == 100
    assert TEACHER not in (await clerk.look(TEACHER)).horizon


async def test_there_is_no_horizon_when_all_live_grants_are_loaded(clerk: Clerk) -> None:
    await clerk.do(*(give(10, TEACHER) for _ in range(DEPTH_FIRST)))

    book = await clerk.look(TEACHER)

    assert len(book.grants[TEACHER]) == DEPTH_FIRST
    assert TEACHER not in book.horizon


async def read(clerk: Clerk, *wallets: WalletKey) -> Book:
    book = await clerk.store.records.books(wallets)
    book.equip(clerk.policy, str)
    return book


async def test_starts_and_expiries_come_due_at_their_instant(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(10, expires_at=at(30)), give(5, granted_at=at(20)), give(1))
    assert (await store.records.books([TEACHER])).wallets[TEACHER].next_due_at == at(20)

    seen = []
    for second in (19, 20, 29, 30):
        clerk.clock.turn_to(second)
        seen.append(with_due_applied(await read(clerk, TEACHER), TEACHER).balance)
    due = await store.records.due_wallets(10)
    (spent,) = await clerk.do(consume(6))

    assert seen == [11, 16, 16, 6]
    assert due == [TEACHER]
    assert consumed(spent).new_balance == 0
    assert [o.kind for o in await all_operations(store)].count(OperationKind.ACTIVATION) == 1
    assert await store.records.due_wallets(10) == []


async def test_due_effects_beyond_the_limit_of_a_batch_take_further_batches(
    store: Store, clerk: Clerk
) -> None:
    number = DUE_PER_BATCH + 20
    at = clerk.clock.at
    await clerk.do(*(give(1, expires_at=at(10 + i / 1000)) for i in range(number)))
    clerk.clock.turn_to(60)
    due = c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER)

    def first_part(book: Book) -> Batch:
        with pytest.raises(MoreDue):
            apply(book, due)
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes))

    await clerk.commit(clerk.needs(due), first_part)
    between = (await store.records.books([TEACHER])).wallets[TEACHER]
    await clerk.do(due)

    assert between.balance == number - DUE_PER_BATCH
    assert between.next_due_at == at(10 + DUE_PER_BATCH / 1000)
    wallet = (await store.records.books([TEACHER])).wallets[TEACHER]
    assert (wallet.balance, wallet.next_due_at, wallet.version) == (0, None, 2 * number)


async def test_a_read_applies_all_due_effects_and_writes_nothing(
    store: Store, clerk: Clerk
) -> None:
    number = DUE_PER_BATCH + 20
    await clerk.do(*(give(1, expires_at=clerk.clock.at(10)) for _ in range(number)), give(7))
    clerk.clock.turn_to(10)

    book = await read(clerk, TEACHER, SCHOOL)

    assert with_due_applied(book, TEACHER).balance == 7
    assert SCHOOL not in book.wallets
    assert book.now == clerk.clock.at(10)
    assert (await store.records.books([TEACHER])).wallets[TEACHER].balance == number + 7


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

    seen = []
    for second in (9, 10, 20, 25, 30, 40):
        clerk.clock.turn_to(second)
        book = await clerk.store.records.books([TEACHER], expiring=True)
        book.equip(clerk.policy, str)
        seen.append(holding(book, TEACHER))

    assert [lost for _, lost in seen] == [
        Expiry(at(30), 7),
        Expiry(at(20), 5),
        Expiry(at(30), 7),
        Expiry(at(30), 13),
        Expiry(at(40), 2),
        None,
    ]
    assert [wallet.balance for wallet, _ in seen] == [10, 15, 10, 16, 3, 1]


async def test_the_backlog_is_the_number_of_unpublished_events_and_the_age_of_the_oldest(
    store: Store, clerk: Clerk
) -> None:
    before = await store.outbox.backlog()

    await clerk.do(give(10, TEACHER))
    clerk.clock.turn_to(5)
    await clerk.do(consume(4))

    assert before == Backlog()
    assert await store.outbox.backlog() == Backlog(events=4, oldest_at=NOON), "two per operation"


async def test_events_keep_the_traceparent_of_their_request(store: Store, clerk: Clerk) -> None:
    span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    await clerk.do(give(10, TEACHER))
    await clerk.do(consume(4, replace(origin(), traceparent=span)))

    kept = await first_column(store, "event_outbox", "traceparent")
    assert sorted(kept, key=str) == [span, span, None, None]


async def test_spent_credits_do_not_expire(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(5, expires_at=at(30)), give(5, expires_at=at(40)), consume(7))

    book = await store.records.books([TEACHER, SCHOOL], expiring=True)

    assert book.expiring == {TEACHER: Expiry(at(40), 3)}
    assert (await store.records.books([TEACHER])).expiring == {}


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

    book = await store.records.opened_books([SCHOOL, TEACHER], order=order, depth={TEACHER: 2})

    live = {g.quantity: g for g in book.grants[TEACHER].values() if g.is_live}
    first = sorted((g for g in live.values() if g.quantity != 9), key=lambda g: burn_key(g, order))
    assert [grant.quantity for grant in first][:2] == expected
    assert 9 in live, "its expiry is due but not yet applied"
    assert {g.quantity for g in book.grants[TEACHER].values() if not g.started} == {4}
    assert TEACHER in book.horizon
    assert book.now == clerk.clock.now
    whole = await store.records.opened_books([TEACHER], order=order, depth={TEACHER: 9})
    assert len(whole.grants[TEACHER]) == 5
    assert whole.horizon == {}


async def test_an_operation_is_reversed_in_parts_up_to_its_amount(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    (spent,) = await clerk.do(consume(6))
    operation = await store.records.operation(consumed(spent).operation_id or "")
    assert operation is not None

    def reverse(amount: int | None) -> c.Reverse:
        return c.Reverse(
            id=uuid7(), origin=origin(), operation=operation, amount=amount, reason="wrong"
        )

    outcomes = [(await clerk.do(reverse(amount)))[0] for amount in (2, 5, None, 1)]

    totals = [
        one.code if isinstance(one, Refusal) else one.total if isinstance(one, Reversed) else None
        for one in outcomes
    ]
    assert totals == [2, RefusalCode.REVERSED_ALREADY, 6, RefusalCode.REVERSED_ALREADY]
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 10


async def test_a_concurrent_reversal_is_a_conflict(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER))
    (spent,) = await clerk.do(consume(6))
    operation = await store.records.operation(consumed(spent).operation_id or "")
    assert operation is not None
    first, second = (
        c.Reverse(id=uuid7(), origin=origin(), operation=operation, amount=2, reason="wrong")
        for _ in range(2)
    )
    await clerk.do(first)

    with pytest.raises(WriteRejected):
        await clerk.commit(
            clerk.needs(second),
            rewritten([second], lambda book: book.put_reversed(operation.id, 0)),
        )

    assert await store.records.operation(second.id) is None


async def test_a_grant_is_revoked_by_its_id_alone(store: Store, clerk: Clerk) -> None:
    granted = await clerk.do(*(give(1, TEACHER) for _ in range(20)))
    last = granted[-1]
    assert isinstance(last, Granted)
    revoke = c.Revoke(
        id=uuid7(), origin=origin(), wallet=TEACHER, grant_id=last.grant_id, reason="typo"
    )

    (revoked,) = await clerk.do(revoke)

    assert isinstance(revoked, Revoked)
    assert (revoked.credits, revoked.new_balance) == (1, 19)
    ended = await store.records.grant(last.grant_id)
    assert ended is not None
    assert (ended.ended_at, ended.end_reason, ended.remaining) == (NOON, "revoked", 0)


async def test_debts_are_listed_oldest_first_until_they_are_closed(
    store: Store, clerk: Clerk
) -> None:
    owed = []
    for second, units in enumerate((5, 3)):
        clerk.clock.turn_to(second)
        (spent,) = await clerk.do(consume(units))
        owed.append(consumed(spent).operation_id or "")
    write_off = c.WriteOffDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owed[0])

    listed = (await store.records.debts(open_only=True, limit=10)).rows
    (closed,) = await clerk.do(write_off)

    assert [debt.operation_id for debt in listed] == owed
    assert isinstance(closed, DebtClosed)
    debt = await store.records.debt(owed[0])
    assert debt == replace(listed[0], closed_by=write_off.id)
    assert (await store.records.debts(open_only=True, limit=10)).rows == [listed[1]]
    assert (await store.records.debts(open_only=False, limit=1)).rows == [debt]
    assert await store.records.debt(uuid7()) is None


@pytest.mark.parametrize("open_only", [True, False])
async def test_debts_are_paged_without_gaps_or_repeats(
    store: Store, clerk: Clerk, *, open_only: bool
) -> None:
    for second in (2, 1, 2):
        clerk.clock.turn_to(second)
        await clerk.do(*(consume(1) for _ in range(3)))  # at the same time
    all_ = (await store.records.debts(open_only=open_only, limit=10)).rows

    paged: list[Debt] = []
    after = None
    while page := (await store.records.debts(open_only=open_only, limit=2, after=after)).rows:
        paged += page
        after = Cursor(page[-1].created_at, page[-1].operation_id)

    assert paged == all_ == sorted(all_, key=lambda debt: debt.age)
    assert len(paged) == 9


async def test_a_paid_grant_settles_the_oldest_debts(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    for second, units in enumerate((5, 3)):
        clock.turn_to(second)
        await clerk.do(consume(units))

    await clerk.do(give(7, TEACHER))

    assert [debt.owed for debt in (await store.records.debts(open_only=True, limit=10)).rows] == [1]
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 0


async def test_the_remaining_credits_of_a_grant_settle_further_debts(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(100)))

    await clerk.do(give(1_000))

    assert (await store.records.debts(open_only=True, limit=10)).rows == []
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 900


async def test_debts_beyond_the_limit_of_one_grant_are_settled_by_the_next(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(DEBTS_MAX + 2)))
    youngest = (await store.records.debts(open_only=True, limit=DEBTS_MAX + 2)).rows[-2:]

    await clerk.do(give(DEBTS_MAX + 9))
    left = (await store.records.debts(open_only=True, limit=10)).rows
    await clerk.do(give(1))

    assert left == youngest
    assert (await store.records.debts(open_only=True, limit=10)).rows == []
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 8


async def test_a_new_debt_is_not_settled_before_an_older_one(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(DEBTS_FIRST + 1)))
    clock.turn_to(1)
    young = consume(1)

    await clerk.do(young, give(DEBTS_FIRST + 1))

    left = (await store.records.debts(open_only=True, limit=10)).rows
    assert [debt.operation_id for debt in left] == [young.id]


async def test_a_paid_grant_settles_debts_when_it_starts(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(give(3, priority=90), *(give(1) for _ in range(2 * DEPTH_FIRST)))
    await clerk.do(consume(20), give(10, granted_at=clock.at(10)))
    clock.turn_to(60)

    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))

    assert (await store.records.debts(open_only=True, limit=10)).rows == []
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 1
    settlement = max(await all_operations(store), key=lambda line: line.seq)
    assert settlement.kind == OperationKind.SETTLEMENT
    assert settlement.effective_at == clock.at(10)


async def test_an_account_opens_once(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(signup_bonuses={"user": 50}))

    def opening() -> c.OpenAccount:
        return c.OpenAccount(id=uuid7(), origin=origin(), subject=Subject("user", "teacher"))

    (first,) = await clerk.do(opening())
    (second,) = await clerk.do(opening())

    assert isinstance(first, AccountOpened)
    assert isinstance(second, AccountOpened)
    assert (first.created, first.bonus, first.new_balance) == (True, 50, 50)
    assert (second.created, second.bonus, second.new_balance) == (False, 0, 50)
    assert [entry.action for entry in await audited(store, 2)] == ["account.open"] * 2


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
        page = await store.records.operations(OperationsQuery(limit=7, after=after))
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
        return [operation.kind for operation in (await store.records.operations(query)).rows]

    assert await found(subject_type="org") == ["consume"]
    assert await found(subject_type="user", subject_id="teacher") == ["consume", "grant"]
    assert await found(subject_id="nobody") == []
    assert await found(correlation_id=paid.origin.correlation_id) == ["consume"]
    assert await found(metric="cj") == ["consume"] * 2
    assert await found(status="failed") == ["consume"]
    assert await found(since=clerk.clock.at(5)) == ["consume"] * 2
    assert await found(until=clerk.clock.at(5)) == ["grant"]


async def limit_event_ids(store: Store) -> set[str]:
    return {str(event_id) for event_id in await first_column(store, "limit_exceeded", "event_id")}


async def test_limit_events_are_unique_per_subject_metric_and_minute(store: Store) -> None:
    first = a_limit_event()
    others = [
        a_limit_event(subject=Subject("org", "teacher")),
        a_limit_event(subject=Subject("user", "other")),
        a_limit_event(metric="ai"),
        a_limit_event(minute=36_900_001),
    ]

    await store.limits.add_limit_exceeded([first])
    await store.limits.add_limit_exceeded([a_limit_event(), *others, a_limit_event()])
    await store.limits.add_limit_exceeded([])

    assert await limit_event_ids(store) == {event.event_id for event in [first, *others]}


async def test_limit_events_are_purged_after_a_day(store: Store, clock: Clock) -> None:
    events = [a_limit_event(minute=n, created_at=clock.at(n)) for n in (1, 2, 3)]
    await store.limits.add_limit_exceeded(events)
    clock.turn_to(24 * 3600 + 2.5)

    await store.limits.purge(10)

    assert await limit_event_ids(store) == {events[2].event_id}


async def test_past_uses_are_summed_by_slice_oldest_first(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(costs={"cj": Cost(credits=1), "ai": FREE}))
    first = slice_at(in_ms(NOON), 600)
    await clerk.do(give(100))
    for second, units in ((0, 2), (9.999, 3), (10, 4)):
        clock.turn_to(second)
        await clerk.do(consume(units), consume(units, metric="ai", org_id="school"))
    await clerk.do(consume(1_000), consume(7, user_id="other", metric="ai"))  # the first fails

    uses = await store.limits.past_uses(["cj", "ai"], window_s=600, since=NOON)
    middle = NOON + timedelta(seconds=10)
    later = await store.limits.past_uses(["cj", "nothing"], window_s=600, since=middle)
    before = await store.limits.past_uses(["cj"], window_s=600, since=NOON, until=middle)

    assert [use.slice for use in uses] == sorted(use.slice for use in uses)
    assert sorted(uses, key=str) == sorted(
        [
            PastUse("teacher", None, "cj", first, 5),
            PastUse("teacher", None, "cj", first + 1, 4),
            PastUse("teacher", "school", "ai", first, 5),
            PastUse("teacher", "school", "ai", first + 1, 4),
            PastUse("other", None, "ai", first + 1, 7),
        ],
        key=str,
    )
    assert later == [PastUse("teacher", None, "cj", first + 1, 4)]
    assert before == [PastUse("teacher", None, "cj", first, 5)]


async def test_past_uses_before_a_reset_are_marked(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(costs={"cj": FREE, "ai": FREE}))
    for second, metric, subject in ((1, "cj", "teacher"), (2, "cj", "school"), (3, "ai", "other")):
        await clerk.do(consume(1, org_id="school"), consume(10, metric="ai", org_id="school"))
        entry = an_entry("rate_limit.reset", second)
        await store.acts.add_audit(
            replace(entry, subject=Subject("user", subject), detail={"metric": metric})
        )
        clock.turn_to(second + 0.5)
    await clerk.do(consume(1, org_id="school"))
    await store.acts.add_audit(replace(an_entry("adjust", 9), detail={"metric": "cj"}))

    uses = await store.limits.past_uses(["cj"], window_s=3600, since=NOON)

    told = {(use.of_user, use.of_org): use.units for use in uses}
    # Usage at 0, 1.5, 2.5 and 3.5 seconds; resets of the teacher at 1 and of the school at 2.
    assert told == {(False, False): 1, (True, False): 1, (True, True): 2}


async def test_adjustments_count_as_uses_of_their_actor_once_per_request(
    store: Store, clerk: Clerk, clock: Clock
) -> None:
    def gift(amount: int) -> c.Adjust:
        return c.Adjust(id=uuid7(), origin=origin(), wallet=TEACHER, amount=amount, reason="gift")

    for second in range(3):
        clock.turn_to(second)
        await clerk.do(gift(second + 1))
    clock.turn_to(4)
    await clerk.do(together(gift(1), gift(2)))

    assert await store.limits.past_uses(["cj", "credit_adjustment"], window_s=3600, since=NOON) == [
        PastUse("tester", None, "credit_adjustment", slice_at(in_ms(NOON), 3600), 4)
    ]


async def test_a_superseded_policy_is_not_activated_again(store: Store) -> None:
    results = [
        await store.policies.activate(version, f"costs: {{{version}: 1}}", an_activation())
        for version in ("a", "b", "b", "a", "c")
    ]

    assert [result.active for result in results] == ["a", "b", "b", "b", "c"]
    assert [result.changed for result in results] == [True, True, False, False, True]
    assert await store.policies.content("a") == "costs: {a: 1}"
    assert await store.policies.content("z") is None
    assert await store.policies.active() == "c"
    assert len(await audited(store, 10)) == 3


async def test_policies_are_listed_newest_first_even_if_the_clock_steps_back(
    store: Store, clock: Clock
) -> None:
    for version in ("ab", "ac", "b"):
        await store.policies.activate(
            version, "costs: {}", an_activation(actor=f"who gave {version}")
        )
        clock.now = NOON - timedelta(hours=1)

    newest, *older = await store.policies.versions(limit=10)
    (between,) = await store.policies.versions(prefix="a", before=newest.activated_at, limit=1)

    assert (newest.version, newest.actor, newest.active) == ("b", "who gave b", True)
    assert [(policy.version, policy.active) for policy in older] == [("ac", False), ("ab", False)]
    assert newest.activated_at > older[0].activated_at > older[1].activated_at == NOON
    assert between == older[0]
    assert await store.policies.versions(prefix="a%", limit=10) == []


async def test_a_batch_loads_a_newly_activated_policy(store: Store, clerk: Clerk) -> None:
    await store.policies.activate("2" * 64, "costs: {cj: 2}", an_activation())

    book = await clerk.look(TEACHER)
    known = Needs(policy_version="2" * 64, burn_order=BurnOrder.EXPIRY)
    informed = await clerk.look(TEACHER, needs=known)

    assert (book.policy_version, book.policy_content) == ("2" * 64, "costs: {cj: 2}")
    assert informed.policy_content is None


def an_entry(action: str, second: int) -> AuditEntry:
    return AuditEntry(
        id=uuid7(),
        at=NOON + timedelta(seconds=second),
        actor="tester",
        client="tests",
        action=action,
        subject=Subject("org", "school") if second else None,
        reason=None,
        detail={"name": "grader", "number": 1},
        correlation_id="c",
    )


async def test_api_keys_are_found_by_their_secret_and_revoked_once(store: Store) -> None:
    key = ApiKey(
        id=uuid7(),
        name="grader",
        role="service",
        prefix="ent_1234",
        secret_sha256="5" * 64,
        created_at=NOON,
    )
    added, revoked = an_entry("key.add", 0), an_entry("key.revoke", 1)

    await store.keys.add(key, added)
    found = await store.keys.find("5" * 64)
    await store.keys.touch({key.id: NOON + timedelta(seconds=9)})
    await store.keys.touch({key.id: NOON})
    first = await store.keys.revoke(key.id, NOON, revoked)
    second = await store.keys.revoke(key.id, NOON, an_entry("key.revoke", 2))

    assert found == key
    assert await store.keys.find("6" * 64) is None
    assert (first, second) == (True, False)
    assert await store.keys.all() == [
        replace(key, revoked_at=NOON, last_used_at=NOON + timedelta(seconds=9))
    ]
    assert await audited(store, 10) == [revoked, added]
    assert await audited(store, 1) == [revoked]


async def test_administrative_acts_and_their_audit_are_one_transaction(
    store: Store, clerk: Clerk
) -> None:
    granted = give(10, TEACHER)

    await clerk.do(granted, consume(1))

    entry, _ = await audited(store, 10)
    assert (entry.id, entry.action, entry.subject) == (granted.id, "grant", TEACHER.subject)
    assert entry.detail == {"quantity": 10}


async def test_a_decision_without_changes_writes_nothing(store: Store, clerk: Clerk) -> None:
    await clerk.look(TEACHER, SCHOOL)

    assert await all_operations(store) == []
    assert await store.records.due_wallets(10) == []


async def test_requesting_further_wallets_loads_them_in_the_same_commit(clerk: Clerk) -> None:
    await clerk.do(give(10, SCHOOL))
    wanted = Needs(policy_version=clerk.policy.version, burn_order=BurnOrder.EXPIRY)
    wanted.wallets = {TEACHER, SCHOOL}

    await clerk.commit(
        Needs(policy_version=clerk.policy.version, burn_order=BurnOrder.EXPIRY, wallets={TEACHER}),
        lambda book: None if SCHOOL in book.wallets else wanted,
    )

    assert clerk.books[-1].wallets[SCHOOL].balance == 10


async def test_an_exception_while_deciding_leaves_the_store_usable(
    store: Store, clerk: Clerk
) -> None:
    def fail(_: Book) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await clerk.commit(clerk.needs(consume(1)), fail)

    await clerk.do(give(10, TEACHER))
    await store.ping()
    assert (await store.records.books([TEACHER])).wallets[TEACHER].balance == 10


@pytest.mark.parametrize("name", ["åäö", "e\u0301", "' OR 1=1 --", "x" * 255])
async def test_any_text_can_be_a_subject_id(store: Store, clerk: Clerk, name: str) -> None:
    wallet = WalletKey("user", name, "credits")

    await clerk.do(give(3, wallet, key=name))

    assert (await store.records.books([wallet])).wallets[wallet].balance == 3
    assert await store.records.wallet_keys("user", name) == [wallet]


async def test_scheduled_grants_beyond_the_largest_balance_leave_the_wallet_usable(
    store: Store, clock: Clock, clerk: Clerk
) -> None:
    await clerk.do(*(give(AMOUNT_MAX, granted_at=clock.at(10)) for _ in range(3)))
    await clerk.do(give(5))
    clock.turn_to(10)

    (outcome,) = await clerk.do(consume(7))

    assert isinstance(outcome, Consumed)
    assert outcome.new_balance == AMOUNT_MAX - 7


async def test_the_largest_amount_can_be_granted_and_spent(store: Store, clerk: Clerk) -> None:
    largest = 10**15

    await clerk.do(give(largest, TEACHER))
    (spent,) = await clerk.do(consume(largest))

    assert consumed(spent).new_balance == 0
    assert [operation.amount for operation in await all_operations(store)] == [largest] * 2


@pytest.mark.parametrize(
    "text",
    ["", "0", "å", "0198c1f2-8a52-7c1e-9d5e", "x" * 255,
     "urn:uuid:0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", "0198c1f28a527c1e9d5e2f6a4c1b7e9-0",
     "0_98c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", "\uff10198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"],
)  # fmt: skip
async def test_a_text_that_is_not_an_id_finds_nothing(store: Store, text: str) -> None:
    assert await store.records.operation(text) is None
    assert await store.records.grant(text) is None
    assert await store.records.debt(text) is None


async def test_the_amount_owed_is_the_sum_of_open_debts(store: Store, clerk: Clerk) -> None:
    one, two = consume(5), consume(3, user_id="rival")
    write_off = consume(4)
    await clerk.do(one, two, write_off, consume(2, metric="odd"), give(1))
    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=one.id)
    forgive = c.WriteOffDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=write_off.id)
    await clerk.do(settle, forgive)
    rival = WalletKey("user", "rival", "credits")

    owing = await store.records.owing([TEACHER, rival, SCHOOL])

    assert owing == {TEACHER: 4, rival: 3, SCHOOL: 0}


async def test_taking_a_hold_applies_the_debt_gate(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(debt_gate=4))
    await clerk.do(consume(5), give(20))
    (refused,) = await clerk.do(hold(1))
    owed = (await store.records.debts(open_only=True, limit=1)).rows[0].operation_id

    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owed, amount=1)
    _, taken = await clerk.do(settle, hold(1))

    assert isinstance(refused, Refusal)
    assert isinstance(taken, HoldTaken)
