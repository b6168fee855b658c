"""Guarantees of every interface: in process or over HTTP, with an event loop or without."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET

from entitlements.api import Entitlements
from entitlements.contracts import errors
from entitlements.contracts.http import AccountItem, AdjustItem, ConsumeItem, SetItem
from tests.surfaces.scene import Clock
from tests.waiting import until_next_id


async def give(face: Entitlements, amount: int) -> None:
    await face.adjust(amount, subject_type="org", subject_id="Åsö skola/1", reason="autumn")


async def test_a_check_names_the_payer(face: Entitlements) -> None:
    await give(face, 100)

    one = await face.check(user_id="ada", org_id="Åsö skola/1", metric="cj_comparison", amount=7)
    many = await face.check_all(
        {"cj_comparison": 45, "ai_feedback_generation": 11},
        user_id="ada",
        org_id="Åsö skola/1",
        correlation_id="batch-1",
    )
    explained = await face.check(user_id=7, metric="cj_comparison", explain=True)

    assert (one.allowed, one.source, one.required_credits, one.available_credits) == (
        True, "org", 7, 100,
    )  # fmt: skip
    assert (many.allowed, many.denial_reason) == (True, None)
    assert (many.required_credits, many.correlation_id) == (100, "batch-1")
    assert not explained.allowed
    assert explained.explain
    assert explained.explain.binding


async def test_a_denied_check_returns_instead_of_raising(face: Entitlements) -> None:
    short = await face.check_all({"cj_comparison": 45}, user_id="ada")
    unknown = await face.check_all({"nobody_knows": 1}, user_id="ada")
    limited = await face.check_all({"batch_create": 61}, user_id="ada")

    assert (short.allowed, short.denial_reason) == (False, "insufficient_credits")
    assert short.missing_credits == 45
    assert unknown.denial_reason == "policy_denied"
    assert limited.denial_reason == "rate_limit_exceeded"


async def test_a_consumption_is_paid_and_is_in_the_ledger(face: Entitlements) -> None:
    await give(face, 100)

    done = await face.consume(
        user_id="ada",
        org_id="Åsö skola/1",
        metric="cj_comparison",
        amount=40,
        correlation_id="rättning 1",
    )

    assert (done.success, done.new_balance, done.consumed_from) == (True, 60, "org")
    ledger = await face.operations(correlation_id="rättning 1")
    assert [(line.id, line.delta) for line in ledger.operations] == [(done.operation_id, -40)]
    held = await face.balance("ada", org_id="Åsö skola/1")
    assert (held.user_balance, held.org_balance, held.org_id) == (0, 60, "Åsö skola/1")


async def test_calls_without_a_key_are_separate_requests(face: Entitlements) -> None:
    await give(face, 100)

    done = [
        await face.consume(
            user_id="ada", org_id="Åsö skola/1", metric="cj_comparison", correlation_id="same"
        )
        for _ in range(2)
    ]

    assert [(one.new_balance, one.replayed) for one in done] == [(99, False), (98, False)]


async def test_a_repeated_key_replays_and_a_reused_key_is_refused(face: Entitlements) -> None:
    await give(face, 100)

    async def order(amount: int) -> tuple[str | None, bool]:
        done = await face.consume(
            user_id="ada",
            org_id="Åsö skola/1",
            metric="cj_comparison",
            amount=amount,
            key="order-1",
        )
        return done.operation_id, done.replayed

    twins = await asyncio.gather(*(order(5) for _ in range(4)))

    assert len({operation for operation, _ in twins}) == 1
    assert sorted(replayed for _, replayed in twins) == [False, True, True, True]
    with pytest.raises(errors.KeyReused) as reused:
        await order(6)
    assert (reused.value.code, reused.value.status) == ("idempotency_key_reused", 422)
    assert reused.value.correlation_id
    assert (await face.balance("ada", org_id="Åsö skola/1")).org_balance == 95


async def test_a_job_is_charged_only_once(face: Entitlements) -> None:
    await give(face, 100)

    async def job(amount: int) -> bool:
        done = await face.consume(
            user_id="ada",
            org_id="Åsö skola/1",
            metric="cj_comparison",
            amount=amount,
            service_name="grader",
            processing_id="essay-1",
        )
        return done.replayed

    assert [await job(5), await job(5)] == [False, True]
    with pytest.raises(errors.Conflict) as conflict:
        await job(6)
    assert conflict.value.code == "job_conflict"
    assert conflict.value.data["units"] == 5


async def test_an_atomic_consumption_charges_all_or_none(face: Entitlements) -> None:
    await give(face, 100)

    def items(last: int) -> list[ConsumeItem]:
        return [
            ConsumeItem(user_id="ada", org_id="Åsö skola/1", metric="cj_comparison", amount=amount)
            for amount in (10, last)
        ]

    short = await face.consume_all(items(91), atomic=True)
    assert (short.success, [result.success for result in short.results]) == (False, [False] * 2)
    done = await face.consume_all(items(90), atomic=True, key="pair-1")
    again = await face.consume_all(items(90), atomic=True, key="pair-1")

    assert [result.new_balance for result in done.results] == [90, 0]
    assert all(result.replayed for result in again.results)


async def test_many_balances_are_adjusted_in_one_call(face: Entitlements) -> None:
    opened = await face.open_accounts([AccountItem(subject_type="user", subject_id="ada")])
    moved = await face.set_balances(
        [
            SetItem(subject_type="user", subject_id="ada", balance=7),
            SetItem(subject_type="org", subject_id="Åsö skola/1", balance=9),
        ],
        key="move-1",
        correlation_id="flytt 1",
    )
    gifts = [
        AdjustItem(subject_type="user", subject_id="ada", amount=amount, reason="test")
        for amount in (1, -10)
    ]
    each = await face.adjust_all(gifts)
    again = await face.set_balance(7, subject_type="user", subject_id="ada", key="move-1#0")

    assert [(one.created, one.bonus) for one in opened.results] == [(True, 50)]
    assert [(one.balance, one.correlation_id) for one in moved.results] == [
        (7, "flytt 1"),
        (9, "flytt 1"),
    ]
    assert (each.success, [(one.new_balance, one.code) for one in each.results]) == (
        False,
        [(8, UNSET), (None, "below_zero")],
    )
    assert (again.replayed, again.operation_id) == (True, moved.results[0].operation_id)
    with pytest.raises(errors.InvalidRequest) as short:
        await face.adjust_all(gifts, atomic=True)
    assert (short.value.code, short.value.data["item"]) == ("below_zero", 1)


async def test_a_reversal_returns_the_charged_credits(face: Entitlements) -> None:
    await give(face, 100)
    done = await face.consume(
        user_id="ada", org_id="Åsö skola/1", metric="ai_feedback_generation", amount=4
    )
    assert done.operation_id

    part = await face.reverse(done.operation_id, reason="one was empty", amount=5, key="r-1")
    again = await face.reverse(done.operation_id, reason="one was empty", amount=5, key="r-1")
    rest = await face.reverse(done.operation_id, reason="all were")

    assert (part.credits, part.replayed, again.replayed) == (5, False, True)
    assert (rest.total_reversed, rest.new_balance) == (20, 100)
    with pytest.raises(errors.Conflict):
        await face.reverse(done.operation_id, reason="once more")
    with pytest.raises(errors.NotFound):
        await face.reverse("0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", reason="never was")


async def test_a_hold_reserves_credits_and_is_settled_with_the_actual_use(
    face: Entitlements,
) -> None:
    await give(face, 100)

    held = await face.take_hold(
        {"ai_feedback_generation": 10},
        user_id="ada",
        org_id="Åsö skola/1",
        key="h-1",
        correlation_id="ström 1",
    )
    again = await face.take_hold(
        {"ai_feedback_generation": 10}, user_id="ada", org_id="Åsö skola/1", key="h-1"
    )
    part = await face.settle(held.hold_id, {"ai_feedback_generation": 3}, final=False)
    seen = await face.hold(held.hold_id)
    done = await face.settle(held.hold_id, credits=20)
    repeated = await face.settle(held.hold_id, credits=20)

    assert (held.credits, held.source, again.hold_id) == (50, "org", held.hold_id)
    assert (part.charged, part.held, seen.status) == (15, 35, "open")
    assert (done.charged, done.returned, done.new_balance) == (20, 15, 65)
    assert (done.correlation_id, seen.correlation_id) == ("ström 1", "ström 1")
    assert (done.replayed, repeated.replayed) == (False, True)
    with pytest.raises(errors.Conflict):
        await face.settle(held.hold_id, credits=21)
    with pytest.raises(errors.NotFound):
        await face.release("0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90")


async def test_a_hold_lapses_or_is_released(face: Entitlements, clock: Clock) -> None:
    await give(face, 100)
    school = {"user_id": "ada", "org_id": "Åsö skola/1", "credits": 60}
    first = await face.take_hold(**school, ttl_s=60)  # type: ignore[arg-type]

    with pytest.raises(errors.InsufficientCredits) as denied:
        await face.take_hold(**school)  # type: ignore[arg-type]
    longer = await face.extend(first.hold_id, ttl_s=90)
    clock.advance(seconds=89)
    assert (await face.balance("ada", org_id="Åsö skola/1")).org_available == 40
    clock.advance(seconds=1)
    second = await face.take_hold(**school)  # type: ignore[arg-type]
    released = await face.release(second.hold_id, reason="a broken stream")

    assert (denied.value.status, denied.value.data["required_credits"]) == (402, 60)
    org = {"balance": 100, "held": 60, "available": 40, "missing": 20}
    assert denied.value.data["candidates"]["org"] == org
    assert denied.value.retry_after_s == 60
    assert longer.expires_at > first.expires_at
    assert (released.returned, released.new_balance) == (60, 100)


async def test_holds_are_denied_for_the_reasons_of_checks(face: Entitlements) -> None:
    with pytest.raises(errors.PolicyDenied):
        await face.take_hold({"nobody_knows": 1}, user_id="ada")
    with pytest.raises(errors.RateLimited) as limited:
        await face.take_hold({"batch_create": 61}, user_id="ada")

    assert limited.value.data["limits"][0]["limit"] == 60
    assert limited.value.retry_after_s is None


async def test_an_account_gets_its_bonus_once(face: Entitlements) -> None:
    first = await face.open_account(subject_type="user", subject_id="ada")
    second = await face.open_account(subject_type="user", subject_id="ada")

    assert (first.created, first.bonus, first.new_balance) == (True, 50, 50)
    assert (second.created, second.new_balance) == (False, 50)


async def test_balances_are_set_and_burned_but_never_below_zero(face: Entitlements) -> None:
    given = await face.set_balance(30, subject_type="user", subject_id="ada", reason="a gift")
    taken = await face.adjust(-10, subject_type="user", subject_id="ada", reason="a mistake")

    assert (given.delta, taken.new_balance) == (30, 20)
    with pytest.raises(errors.InvalidRequest) as refusal:
        await face.adjust(-21, subject_type="user", subject_id="ada", reason="too much")
    assert refusal.value.code == "below_zero"
    assert refusal.value.data["available"] == 20


async def test_a_value_out_of_range_is_refused_with_its_field(face: Entitlements) -> None:
    good: dict[str, object] = {"user_id": "ada", "metric": "cj_comparison"}
    for field, value in (
        ("user_id", " "),
        ("user_id", "a\x00b"),
        ("metric", ""),
        ("amount", 0),
        ("amount", True),
        ("amount", 10**15 + 1),
        ("batch_id", "x" * 256),
        ("user_id", "\u200bada"),
        ("org_id", "school "),
        ("processing_id", " p"),
    ):
        with pytest.raises(errors.InvalidRequest) as refusal:
            await face.consume(**(good | {field: value}))  # type: ignore[arg-type]

        assert (refusal.value.code, refusal.value.status) == ("validation_failed", 400)
        assert [error.field for error in refusal.value.errors] == [field], value


async def test_a_key_must_be_visible_ascii(face: Entitlements) -> None:
    for key in ("", "two words", "nyckel-å", "k" * 256):
        with pytest.raises(errors.InvalidRequest):
            await face.adjust(1, subject_type="user", subject_id="ada", reason="x", key=key)


async def test_any_text_can_be_an_id(face: Entitlements) -> None:
    for name in ("../../admin", "a/b", "%2F", ".", "..", "å\u0308ö?# &+", "𝄞"):
        await face.adjust(3, subject_type="user", subject_id=name, reason="x")

        assert (await face.balance(name)).user_balance == 3, name
        assert (await face.operations(subject_type="user", subject_id=name)).count == 1, name


async def test_an_operation_is_shown_by_its_id(face: Entitlements) -> None:
    given = await face.adjust(3, subject_type="user", subject_id="ada", reason="x")
    (line,) = (await face.operations(subject_id="ada")).operations

    assert await face.operation(given.operation_id or "") == line
    for unknown in ("0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90", "nothing"):
        with pytest.raises(errors.NotFound):
            await face.operation(unknown)


async def test_the_credits_of_an_adjustment_can_expire(face: Entitlements, clock: Clock) -> None:
    ada: dict[str, Any] = {"subject_type": "user", "subject_id": "ada", "reason": "trial"}
    soon = clock.now + timedelta(hours=1)
    await face.adjust(3, **ada, expires_at=soon)
    await face.adjust(4, **ada)
    for amount, expires_at in ((-1, soon), (5, clock.now), (5, clock.now - timedelta(days=1))):
        with pytest.raises(errors.InvalidRequest):
            await face.adjust(amount, **ada, expires_at=expires_at)
    assert (await face.balance("ada")).user_balance == 7

    clock.advance(hours=1)

    assert (await face.balance("ada")).user_balance == 4


async def test_the_ledger_is_read_page_by_page(face: Entitlements) -> None:
    for _ in range(3):
        await give(face, 1)

    first = await face.operations(subject_type="org", limit=2)
    second = await face.operations(subject_type="org", limit=2, cursor=first.next_cursor)

    assert (first.count, second.count, second.next_cursor) == (2, 1, None)
    seqs = [line.seq for line in (*first.operations, *second.operations)]
    assert seqs == [3, 2, 1]
    with pytest.raises(errors.InvalidRequest):
        await face.operations(cursor="not one of ours")


async def test_holds_are_listed_by_subject_and_status(face: Entitlements) -> None:
    await give(face, 100)
    ids = []
    for number in (1, 2, 3):
        await until_next_id()
        held = await face.take_hold(user_id="ada", org_id="Åsö skola/1", credits=number)
        ids.append(held.hold_id)
    await face.settle(ids[0], credits=1)

    opened = await face.holds(subject_type="org", subject_id="Åsö skola/1", limit=1)
    more = await face.holds(limit=1, cursor=opened.next_cursor)
    closed = await face.holds(status="settled")

    assert [one.hold_id for one in (*opened.holds, *more.holds)] == [ids[2], ids[1]]
    assert [one.hold_id for one in closed.holds] == ids[:1]
    assert (await face.holds(subject_type="user", subject_id="ada")).holds == []


async def test_a_debt_is_settled_or_written_off_once(face: Entitlements) -> None:
    owed = []
    for amount in (3, 4):
        await until_next_id()
        done = await face.consume(user_id="ada", metric="cj_comparison", amount=amount)
        owed.append(done.operation_id or "")
    assert [(debt.operation_id, debt.owed) for debt in (await face.debts()).debts] == [
        (owed[0], 3), (owed[1], 4),
    ]  # fmt: skip

    with pytest.raises(errors.InsufficientCredits):
        await face.settle_debt(owed[0])
    await face.adjust(10, subject_type="user", subject_id="ada", reason="a gift")
    part = await face.settle_debt(owed[0], amount=1)
    paid = await face.settle_debt(owed[0], reason="agreed", key="d-1")
    again = await face.settle_debt(owed[0], reason="agreed", key="d-1")
    forgiven = await face.write_off_debt(owed[1])

    assert (part.credits, part.owed) == (1, 2)
    assert (paid.how, paid.credits, paid.owed, paid.new_balance) == ("settled", 2, 0, 7)
    assert (paid.replayed, again.replayed) == (False, True)
    assert (forgiven.how, forgiven.new_balance) == ("written_off", 7)
    assert (await face.debts()).count == 0
    assert (await face.debts(status="all", limit=1)).next_cursor
    with pytest.raises(errors.Conflict):
        await face.write_off_debt(owed[0])
    with pytest.raises(errors.NotFound):
        await face.settle_debt("0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90")


async def test_unpriced_work_is_recorded_and_priced_later(face: Entitlements) -> None:
    filed = await face.consume(user_id="ada", metric="typo", amount=4, key="k")
    debt_id = filed.operation_id or ""

    (debt,) = (await face.debts()).debts
    with pytest.raises(errors.Conflict, match="no price"):
        await face.settle_debt(debt_id)
    await face.apply_policy("costs: {typo: 2}")
    priced = await face.price_debt(debt_id, reason="mended")
    repeated = await face.consume(user_id="ada", metric="typo", amount=4, key="k")

    assert debt.owed is None
    assert (priced.success, priced.credits, priced.owed) == (False, 0, 8)
    assert (repeated.operation_id, repeated.owed, repeated.replayed) == (debt_id, 8, True)
    with pytest.raises(errors.Conflict, match="already has a price"):
        await face.price_debt(debt_id)


async def test_the_use_of_a_limit_is_shown_and_can_be_reset(face: Entitlements) -> None:
    await face.consume(user_id="Åda/1", metric="batch_create", amount=60)
    denied = await face.check(user_id="Åda/1", metric="batch_create")

    shown = await face.rate_limits("Åda/1")
    await face.reset_rate_limit("Åda/1", metric="batch_create", reason="a stuck client")

    assert denied.reason == "rate_limit_exceeded"
    assert [(one.metric, one.used) for one in shown.limits if one.used] == [("batch_create", 60)]
    assert (await face.check(user_id="Åda/1", metric="batch_create")).allowed
    with pytest.raises(errors.InvalidRequest):
        await face.reset_rate_limit("ada", metric="nobody_knows")


async def test_a_policy_is_checked_applied_and_compared(face: Entitlements) -> None:
    first = await face.policy()
    document = "costs: {essay: 2}\n"

    wrong = await face.check_policy("costs: {essay: -2}\n")
    with pytest.raises(errors.InvalidRequest) as refusal:
        await face.apply_policy("costs: {essay: -2}\n")
    applied = await face.apply_policy(document, reason="spring")
    again = await face.apply_policy(document)
    asked = await face.check_all({"essay": 3}, user_id="ada")
    history = await face.policies()
    changes = (await face.diff_policies()).changes

    assert [(one.line, one.path) for one in wrong.problems] == [(1, "costs.essay")]
    assert [one.field for one in refusal.value.errors] == ["content"]
    assert (applied.changed, applied.active, again.changed) == (True, True, False)
    assert asked.required_credits == 6
    assert [one.version for one in history.policies] == [applied.version, first.version]
    assert ("costs.essay", None, "2") in [(one.path, one.before, one.after) for one in changes]
    assert (await face.policy(applied.version[:8])).content == document
    with pytest.raises(errors.Conflict):
        await face.apply_policy(first.content)
    with pytest.raises(errors.NotFound):
        await face.policy("0000000000")
