"""The contract of `Ledger`, on every engine: decisions are written once, under guards."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace

from entitlements.app.ports import (
    Batch,
    WriteRejected,
)
from entitlements.core import commands as c
from entitlements.core.burndown import burn_key
from entitlements.core.ledger.book import DEBTS_FIRST, DEBTS_MAX, Book, Needs
from entitlements.core.ledger.due import DUE_PER_BATCH, DUE_PER_WALLET, MoreDue
from entitlements.core.ledger.posting import DEPTH_FIRST
from entitlements.core.model import Expiry, JobKey, Subject, WalletKey
from entitlements.core.outcomes import (
    AccountOpened,
    Consumed,
    DoneTogether,
    Granted,
    HoldTaken,
    Refusal,
    Reversed,
    Revoked,
)
from entitlements.core.policy import AMOUNT_MAX, BurnOrder, Cost, Threshold
from entitlements.core.reasons import OperationKind, RefusalCode
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
    a_policy,
    all_operations,
    an_activation,
    consume,
    consumed,
    first_column,
    give,
    hold,
    origin,
    rewritten,
    together,
)

FREE = Cost(credits=0)
JOB = JobKey("teacher", "grader", "essay-1", "cj")


async def test_an_operation_is_read_as_it_was_written(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(10, TEACHER), give(7, SCHOOL, priority=9, expires_at=clerk.clock.at(60)))
    spent = consume(3, org_id="school", batch_id="b", job=JOB._replace(batch_id="b"))

    await clerk.do(spent)

    written = clerk.books[-1].changes().operations
    assert [await store.reads.operation(one.id) for one in written] == written
    assert written[0].wallet == SCHOOL
    assert await store.reads.operation(uuid7()) is None


async def test_a_grant_is_read_as_it_was_written(store: Store, clerk: Clerk) -> None:
    expires_at = clerk.clock.at(60) + timedelta(microseconds=1)

    (granted,) = await clerk.do(give(10, TEACHER, priority=9, expires_at=expires_at))

    assert isinstance(granted, Granted)
    written = clerk.books[-1].grants[TEACHER][granted.grant_id]
    assert written.expires_at == expires_at
    stored = await store.reads.grant(granted.grant_id)
    assert stored is not None
    assert stored.grant == written
    assert await store.reads.grant(uuid7()) is None


async def test_an_unused_wallet_is_empty_and_stored_once_used(store: Store, clerk: Clerk) -> None:
    before = await clerk.look(TEACHER)

    await clerk.do(give(10, TEACHER), consume(4))

    after = (await clerk.look(TEACHER)).wallets[TEACHER]
    assert (before.wallets[TEACHER].balance, before.wallets[TEACHER].version) == (0, 0)
    assert (after.balance, after.version, after.updated_at) == (6, 2, NOON)
    assert (await store.reads.books([TEACHER])).wallets[TEACHER] == after
    assert await store.reads.wallet_keys("user", "teacher") == [TEACHER]


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
        one.operation_id for one in (await store.reads.debts(open_only=True, limit=9)).rows
    } == {one.operation_id for one in short.results}
    for command, answer in zip(pair, paid.results, strict=True):
        assert command.id == answer.operation_id
        written = await store.reads.operation(command.id)
        assert written is not None
        assert (written.wallet, written.quantity) == (SCHOOL, command.units)


async def test_a_write_over_a_stale_wallet_is_rejected_and_writes_nothing(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    spent = consume(1)

    def spoil(book: Book) -> None:
        book.put_wallet(replace(book.wallets[TEACHER], version=7))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(spent), rewritten([spent], spoil))

    assert await store.reads.operation(spent.id) is None
    wallet = (await clerk.look(TEACHER)).wallets[TEACHER]
    assert (wallet.balance, wallet.version) == (10, 1)


async def test_a_write_over_a_stale_grant_is_rejected_and_writes_nothing(
    store: Store, clerk: Clerk
) -> None:
    (granted,) = await clerk.do(give(10, TEACHER))
    assert isinstance(granted, Granted)
    spent = consume(1)

    def spoil(book: Book) -> None:
        book.put_grant(replace(book.grants[TEACHER][granted.grant_id], remaining=9))

    with pytest.raises(WriteRejected):
        await clerk.commit(clerk.needs(spent), rewritten([spent], spoil))

    assert await store.reads.operation(spent.id) is None
    unchanged = await store.reads.grant(granted.grant_id)
    assert unchanged is not None
    assert unchanged.grant.remaining == 10
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
    operation = await store.reads.operation(consumed(spent).operation_id or "")
    assert operation is not None
    assert len(operation.draws) == 100
    assert TEACHER not in (await clerk.look(TEACHER)).horizon


async def test_there_is_no_horizon_when_all_live_grants_are_loaded(clerk: Clerk) -> None:
    await clerk.do(*(give(10, TEACHER) for _ in range(DEPTH_FIRST)))

    book = await clerk.look(TEACHER)

    assert len(book.grants[TEACHER]) == DEPTH_FIRST
    assert TEACHER not in book.horizon


async def test_due_effects_beyond_the_limit_of_a_batch_take_further_batches(
    store: Store, clerk: Clerk
) -> None:
    number = DUE_PER_WALLET + 20
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
    between = (await store.reads.books([TEACHER])).wallets[TEACHER]
    await clerk.do(due)

    assert between.balance == number - DUE_PER_WALLET
    assert between.next_due_at == at(10 + DUE_PER_WALLET / 1000)
    wallet = (await store.reads.books([TEACHER])).wallets[TEACHER]
    assert (wallet.balance, wallet.next_due_at, wallet.version) == (0, None, 2 * number)


async def test_a_batch_of_many_due_wallets_applies_a_part_of_each(
    store: Store, clerk: Clerk
) -> None:
    at, number = clerk.clock.at, DUE_PER_WALLET
    wallets = [WalletKey("user", f"u{n}", "credits") for n in range(16)]
    for wallet in wallets:
        await clerk.do(*(give(1, wallet, expires_at=at(10 + i)) for i in range(number)))
    clerk.clock.turn_to(3600)

    book = await clerk.look(*wallets)
    due = [c.ApplyDue(id=uuid7(), origin=origin(), wallet=wallet) for wallet in wallets]
    ends = []
    while await store.reads.due_wallets(1):
        ends.append(await _apply_parts(clerk, due))

    assert [len(grants) for grants in book.grants.values()] == [DUE_PER_BATCH // 16] * 16
    assert ends == [True, False]
    for wallet in wallets:
        assert (await store.reads.books([wallet])).wallets[wallet].balance == 0


async def _apply_parts(clerk: Clerk, due: Sequence[c.ApplyDue]) -> bool:
    """Commit what the commands apply in one batch; return whether more is due."""
    more = False

    def decide(book: Book) -> Batch:
        nonlocal more
        for one in due:
            try:
                apply(book, one)
            except MoreDue:
                more = True
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes))

    await clerk.commit(clerk.needs(*due), decide)
    return more


async def test_a_start_waits_for_all_lapses_of_its_instant(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    number = DUE_PER_WALLET + 20
    await clerk.do(give(number), *(hold(1, ttl_s=30) for _ in range(number)))
    await clerk.do(consume(number + 5))
    await clerk.do(give(10, granted_at=clock.at(30)))
    clock.turn_to(30)
    due = c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER)

    def first_part(book: Book) -> Batch:
        with pytest.raises(MoreDue):
            apply(book, due)
        changes = book.changes()
        assert {one.kind for one in changes.operations} == {OperationKind.LAPSE}
        return Batch(changes, ANNOUNCER.rows(changes))

    await clerk.commit(clerk.needs(due), first_part)
    await clerk.do(due)

    assert (await store.reads.books([TEACHER])).wallets[TEACHER].balance == 5
    assert (await store.reads.debts(open_only=True, limit=10)).rows == []


async def test_spent_credits_do_not_expire(store: Store, clerk: Clerk) -> None:
    at = clerk.clock.at
    await clerk.do(give(5, expires_at=at(30)), give(5, expires_at=at(40)), consume(7))

    book = await store.reads.books([TEACHER, SCHOOL], expiring=True)

    assert book.expiring == {TEACHER: Expiry(at(40), 3)}
    assert (await store.reads.books([TEACHER])).expiring == {}


async def test_an_operation_is_reversed_in_parts_up_to_its_amount(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    (spent,) = await clerk.do(consume(6))
    operation = await store.reads.operation(consumed(spent).operation_id or "")
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
    operation = await store.reads.operation(consumed(spent).operation_id or "")
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

    assert await store.reads.operation(second.id) is None


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
    ended = await store.reads.grant(last.grant_id)
    assert ended is not None
    grant = ended.grant
    assert (grant.ended_at, grant.end_reason, grant.remaining) == (NOON, "revoked", 0)


async def test_a_paid_grant_settles_the_oldest_debts(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    for second, units in enumerate((5, 3)):
        clock.turn_to(second)
        await clerk.do(consume(units))

    await clerk.do(give(7, TEACHER))

    assert [debt.owed for debt in (await store.reads.debts(open_only=True, limit=10)).rows] == [1]
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 0


async def test_the_remaining_credits_of_a_grant_settle_further_debts(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(100)))

    await clerk.do(give(1_000))

    assert (await store.reads.debts(open_only=True, limit=10)).rows == []
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 900


async def test_debts_beyond_the_limit_of_one_grant_are_settled_by_the_next(
    store: Store, clock: Clock
) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(DEBTS_MAX + 2)))
    youngest = (await store.reads.debts(open_only=True, limit=DEBTS_MAX + 2)).rows[-2:]

    await clerk.do(give(DEBTS_MAX + 9))
    left = (await store.reads.debts(open_only=True, limit=10)).rows
    await clerk.do(give(1))

    assert left == youngest
    assert (await store.reads.debts(open_only=True, limit=10)).rows == []
    assert (await clerk.look(TEACHER)).wallets[TEACHER].balance == 8


async def test_a_new_debt_is_not_settled_before_an_older_one(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(*(consume(1) for _ in range(DEBTS_FIRST + 1)))
    clock.turn_to(1)
    young = consume(1)

    await clerk.do(young, give(DEBTS_FIRST + 1))

    left = (await store.reads.debts(open_only=True, limit=10)).rows
    assert [debt.operation_id for debt in left] == [young.id]


async def test_a_paid_grant_settles_debts_when_it_starts(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(settle_debts=True))
    await clerk.do(give(3, priority=90), *(give(1) for _ in range(2 * DEPTH_FIRST)))
    await clerk.do(consume(20), give(10, granted_at=clock.at(10)))
    clock.turn_to(60)

    await clerk.do(c.ApplyDue(id=uuid7(), origin=origin(), wallet=TEACHER))

    assert (await store.reads.debts(open_only=True, limit=10)).rows == []
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


async def test_a_batch_loads_a_newly_activated_policy(store: Store, clerk: Clerk) -> None:
    await store.policies.activate("2" * 64, "costs: {cj: 2}", an_activation())

    book = await clerk.look(TEACHER)
    known = Needs(policy_version="2" * 64, burn_order=BurnOrder.EXPIRY)
    informed = await clerk.look(TEACHER, needs=known)

    assert (book.policy_version, book.policy_content) == ("2" * 64, "costs: {cj: 2}")
    assert informed.policy_content is None


async def test_a_decision_without_changes_writes_nothing(store: Store, clerk: Clerk) -> None:
    await clerk.look(TEACHER, SCHOOL)

    assert await all_operations(store) == []
    assert await store.reads.due_wallets(10) == []


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
    assert (await store.reads.books([TEACHER])).wallets[TEACHER].balance == 10


@pytest.mark.parametrize("name", ["åäö", "e\u0301", "' OR 1=1 --", "x" * 255])
async def test_any_text_can_be_a_subject_id(store: Store, clerk: Clerk, name: str) -> None:
    wallet = WalletKey("user", name, "credits")

    await clerk.do(give(3, wallet, key=name))

    assert (await store.reads.books([wallet])).wallets[wallet].balance == 3
    assert await store.reads.wallet_keys("user", name) == [wallet]


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


async def test_taking_a_hold_applies_the_debt_gate(store: Store, clock: Clock) -> None:
    clerk = await a_clerk(store, clock, a_policy(debt_gate=4))
    await clerk.do(consume(5), give(20))
    (refused,) = await clerk.do(hold(1))
    owed = (await store.reads.debts(open_only=True, limit=1)).rows[0].operation_id

    settle = c.SettleDebt(id=uuid7(), origin=origin(), wallet=TEACHER, debt_id=owed, amount=1)
    _, taken = await clerk.do(settle, hold(1))

    assert isinstance(refused, Refusal)
    assert isinstance(taken, HoldTaken)
