"""Reversals: credits go back to exactly the grants that paid, last-drawn first. The reversal of a
grant takes its credits back from that grant.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from msgspec.structs import replace

from entitlements.core.commands import Reverse
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.members import uncount
from entitlements.core.ledger.posting import (
    create_grant,
    give,
    has_ended,
    post,
    repay,
    sooner,
    take_back,
    too_large,
)
from entitlements.core.ledger.rule import Audit, Rule, Rules, Wallets
from entitlements.core.model import EXPIRED, NEVER, Draw, Grant, Membership, Operation
from entitlements.core.outcomes import Refusal, Reversed
from entitlements.core.policy import AMOUNT_MAX, Policy, ReverseExpired
from entitlements.core.reasons import (
    ConsumptionType,
    GrantReason,
    OperationKind,
    OperationStatus,
    RefusalCode,
)
from entitlements.core.renewals import renewal, renewals_until

TAKING = {OperationKind.CONSUME, OperationKind.ADJUSTMENT, OperationKind.SETTLEMENT}
GIVING = {OperationKind.GRANT, OperationKind.ADJUSTMENT}
OVERDRAFT = ""
"""Denotes the overdraft in place of a grant's id."""


class Payment(NamedTuple):
    """The credits that a grant paid for an operation, or repaid of its overdraft, and when."""

    grant_id: str
    credits: int
    at: datetime


class Overdrawn(NamedTuple):
    """The state of the credits that an operation overdrew.

    ``reversed`` before they were repaid, still ``unpaid``, or ``repaid``.
    """

    reversed: int
    unpaid: int
    repaid: tuple[Payment, ...]


def reverse(draft: Draft, command: Reverse) -> Reversed | Refusal:
    """Reverse ``amount`` credits of the operation, or all that is left of it and of its group."""
    if command.amount is None and command.group:
        return _reverse_group(draft, command)
    return _reverse(draft, command)


def _reverse_group(draft: Draft, command: Reverse) -> Reversed | Refusal:
    """Reverse the rest of each operation of the group."""
    known = draft.book.reversed
    left = [one for one in command.group if one.amount > known.get(one.id, 0)]
    if not left:
        total = sum(one.amount for one in command.group)
        return _nothing_to_reverse(total, total)
    answers: list[tuple[Operation, Reversed]] = []
    for one in left:
        operation_id = draft.book.new_id() if answers else command.id
        answer = _reverse(draft, replace(command, id=operation_id, operation=one))
        if isinstance(answer, Refusal):
            return answer
        answers.append((one, answer))
    credits = [answer for one, answer in answers if not one.wallet.is_of_allowances]
    units = [answer for one, answer in answers if one.wallet.is_of_allowances]
    return Reversed(
        operation_id=command.id,
        reverses=command.operation.id,
        credits=sum(answer.credits for answer in credits),
        total=sum(one.amount for one in command.group if not one.wallet.is_of_allowances),
        lapsed=sum(answer.lapsed for answer in credits),
        new_balance=draft.wallet(command.operation.wallet).balance,
        allowance_units=sum(answer.credits for answer in units),
    )


def _nothing_to_reverse(amount: int, before: int) -> Refusal:
    left = amount - before
    return Refusal(
        code=RefusalCode.REVERSED_ALREADY,
        detail=f"{left} of {amount} credits are left to reverse",
        data={"amount": amount, "reversed": before, "left": left},
    )


def _reverse(draft: Draft, command: Reverse) -> Reversed | Refusal:
    operation = command.operation
    gives = operation.delta > 0 and operation.kind in GIVING and bool(operation.draws)
    takes = operation.delta <= 0 and operation.kind in TAKING
    if operation.status is not OperationStatus.COMPLETED or not (gives or takes):
        return Refusal(
            code=RefusalCode.NOT_REVERSIBLE,
            detail=f"a {operation.status} {operation.kind} cannot be reversed",
        )
    before = draft.book.reversed.get(operation.id, 0)
    left = operation.amount - before
    amount = left if command.amount is None else command.amount
    if amount > left or (amount == 0 and operation.amount > 0):
        return _nothing_to_reverse(operation.amount, before)
    if gives:
        return _take_back(draft, command, before, amount)
    if refused := too_large(draft, operation.wallet, amount):
        return refused
    return _give_back(draft, command, before, amount)


def _take_back(draft: Draft, command: Reverse, before: int, amount: int) -> Reversed | Refusal:
    """Take back up to ``amount`` from the grant that the operation made, as far as it is left."""
    operation = command.operation
    grant = draft.grant(operation.wallet, operation.draws[0].grant_id)
    is_over = has_ended(grant, max(draft.now, draft.wallet(grant.wallet).updated_at))
    taken = 0 if is_over else min(amount, grant.remaining - grant.held)
    if not taken:
        return Refusal(
            code=RefusalCode.NOTHING_LEFT,
            detail="the grant has no credits left to take back",
            data={"grant_id": grant.id, "held": grant.held},
        )
    draws = take_back(draft, grant, taken)
    return _reversed(draft, command, before, taken, draws, delta=-taken)


def _give_back(draft: Draft, command: Reverse, before: int, amount: int) -> Reversed:
    operation = command.operation
    overdraft = overdrafts(operation, draft.repayments(operation))
    back = owed_back(operation, overdraft, before, amount)
    draws, lapsing, uncounted = _return(draft, command, back)
    answer = _reversed(draft, command, before, amount, draws, delta=amount - uncounted)
    lapsed = sum(_lapse(draft, command, returned) for returned in lapsing)
    return replace(answer, lapsed=lapsed, new_balance=draft.wallet(operation.wallet).balance)


def _reversed(
    draft: Draft,
    command: Reverse,
    before: int,
    credits: int,
    draws: tuple[Draw, ...],
    *,
    delta: int,
) -> Reversed:
    """Write the reversal of ``credits``, which changes the balance by ``delta``."""
    operation = command.operation
    draft.reversed[operation.id] = before + credits
    draft.reversed_in.add((operation.wallet, operation.id))
    uncount(draft, operation.wallet, operation.user_id, credits, operation.member_month)
    post(
        draft,
        command,
        operation.wallet,
        OperationKind.REVERSAL,
        operation_id=command.id,
        delta=delta,
        amount=credits,
        draws=draws,
        user_id=operation.user_id,
        org_id=operation.org_id,
        metric=operation.metric,
        batch_id=operation.batch_id,
        consumed_from=operation.consumed_from,
        reverses=operation.id,
        reverses_seq=operation.seq,
        hold_id=operation.hold_id,
        member_month=operation.member_month,
        reason=command.reason,
    )
    return Reversed(
        operation_id=command.id,
        reverses=operation.id,
        credits=credits,
        total=before + credits,
        lapsed=0,
        new_balance=draft.wallet(operation.wallet).balance,
    )


def overdrawn(operation: Operation) -> int:
    """Return the credits of the operation that were not paid by grants."""
    if operation.delta >= 0:
        return 0
    return operation.amount - sum(draw.quantity for draw in operation.draws if draw.quantity > 0)


def overdrafts(operation: Operation, later: Sequence[Operation]) -> Overdrawn:
    """Trace the credits that the operation overdrew through later changes of the overdraft.

    Credits that were overdrawn first are repaid first. An operation of an earlier version does not
    record the overdraft before it; its overdraft then counts as unpaid.
    """
    unpaid = overdrawn(operation)
    if operation.overdraft_after is None:
        return Overdrawn(0, unpaid, ())
    older, undone = operation.overdraft_after - unpaid, 0
    repaid: list[Payment] = []
    for one in later:
        lowered = _lowered(one)
        if one.reverses == operation.id:
            undone += min(lowered, unpaid)
            unpaid -= min(lowered, unpaid)
        elif one.reverses_seq is not None and one.reverses_seq < operation.seq:
            older -= min(lowered, older)
        for draw in one.draws:
            passed = min(older, max(0, draw.quantity))
            part = min(unpaid, max(0, draw.quantity) - passed)
            older, unpaid = older - passed, unpaid - part
            if part:
                repaid.append(Payment(draw.grant_id, part, one.created_at))
    return Overdrawn(undone, unpaid, tuple(repaid))


def _lowered(reversal: Operation) -> int:
    """Return how much the reversal itself lowered the overdraft, without repayments by grants."""
    if reversal.kind is not OperationKind.REVERSAL:
        return 0
    return reversal.amount - sum(-draw.quantity for draw in reversal.draws if draw.quantity < 0)


def owed_back(
    operation: Operation, overdraft: Overdrawn, before: int, amount: int
) -> list[Payment]:
    """Return which payers get back how much of ``amount``, after ``before`` already went back.

    The overdraft that is still unpaid comes first, then the grants that repaid it, then the grants
    that paid, each last first.
    """
    at = operation.created_at
    drawn = [Payment(draw.grant_id, draw.quantity, at) for draw in operation.draws]
    drawn = [payment for payment in drawn if payment.credits > 0]
    unpaid = Payment(OVERDRAFT, overdraft.reversed + overdraft.unpaid, at)
    back: list[Payment] = []
    skip, wanted = before, amount
    for payment in [unpaid, *reversed(overdraft.repaid), *reversed(drawn)]:
        skipped = min(skip, payment.credits)
        skip -= skipped
        given = min(wanted, payment.credits - skipped)
        wanted -= given
        if given:
            back.append(payment._replace(credits=given))
    return back


def _return(
    draft: Draft, command: Reverse, back: list[Payment]
) -> tuple[tuple[Draw, ...], list[Draw], int]:
    """Return the reversal's draws, the part that went to ended grants and lapses next, and how
    much went to unlimited grants, which are in no balance.
    """
    key = command.operation.wallet
    now = max(draft.now, draft.wallet(key).updated_at)
    restore = draft.book.policy.reverse_expired is ReverseExpired.RESTORE
    draws: list[Draw] = []
    lapsing: list[Draw] = []
    uncounted = 0
    for paid in back:
        if paid.grant_id == OVERDRAFT:
            draws += _lower_overdraft(draft, command, paid.credits)
            continue
        grant = draft.grant(key, paid.grant_id)
        is_over = has_ended(grant, now) or _is_past(grant, paid.at)
        draft.grants[grant.id] = grant = _unused(draft, grant, paid)
        if grant.unlimited:
            draws.append(Draw(grant.id, -paid.credits))
            uncounted += paid.credits
        elif not is_over:
            returned = min(paid.credits, _room(grant))
            draws += give(draft, grant, returned)
            if lost := paid.credits - returned:
                draws.append(Draw(grant.id, -lost))
                lapsing.append(Draw(grant.id, lost))
        elif restore and (_paid_until(grant, paid.at) or NEVER) > paid.at:
            draws += _restore(draft, command, grant, paid)
        else:
            draws.append(Draw(grant.id, -paid.credits))
            lapsing.append(Draw(grant.id, paid.credits))
    return tuple(draws), lapsing, uncounted


def _is_past(grant: Grant, at: datetime) -> bool:
    """Return whether the period that a renewable grant had at a time has ended."""
    return grant.consumption is ConsumptionType.RENEWABLE and at < grant.period_starts


def _room(grant: Grant) -> int:
    """Return how much can go back to a grant: an accumulative one has a largest quantity."""
    if grant.period is None or grant.period.rollover_cap is None:
        return AMOUNT_MAX
    return max(0, grant.quantity + grant.period.rollover_cap - grant.remaining)


def _unused(draft: Draft, grant: Grant, paid: Payment) -> Grant:
    """Return the grant with less used, in its current period or before."""
    before = grant.used_before
    if paid.at < grant.period_starts:
        draft.renewed.add((grant.wallet, grant.id))
        before -= paid.credits
    return replace(grant, used=grant.spent - paid.credits, used_before=before)


def _paid_until(grant: Grant, at: datetime) -> datetime | None:
    """Return when credits of the grant that paid at a time would have ended."""
    if grant.period is None or grant.consumption is not ConsumptionType.RENEWABLE:
        return grant.expires_at
    number = renewals_until(grant.period, grant.granted_at, at) + 1
    next_at = renewal(grant.period, grant.granted_at, number)
    return sooner(next_at, grant.expires_at)


def _lower_overdraft(draft: Draft, command: Reverse, credits: int) -> tuple[Draw, ...]:
    """Lower the overdraft; a part that an unknown grant has repaid becomes a new grant."""
    lowered = repay(draft, command.operation.wallet, credits)
    if lowered == credits:
        return ()
    return create_grant(
        draft,
        command,
        command.operation.wallet,
        credits - lowered,
        grant_id=draft.book.new_id(),
        reason=GrantReason.REFUND,
    )


def _restore(draft: Draft, command: Reverse, grant: Grant, paid: Payment) -> tuple[Draw, ...]:
    """Create a grant with the lifetime that the ended grant or period had left when it paid.

    A hold can be paid by a grant that has ended already: its credits lapse instead.
    """
    expires_at = _paid_until(grant, paid.at)
    if expires_at is not None:
        now = max(draft.now, draft.wallet(grant.wallet).updated_at)
        expires_at = now + min(expires_at - paid.at, NEVER - now)
    return create_grant(
        draft,
        command,
        grant.wallet,
        paid.credits,
        grant_id=draft.book.new_id(),
        reason=GrantReason.REFUND,
        priority=grant.priority,
        expires_at=expires_at,
    )


def _lapse(draft: Draft, command: Reverse, returned: Draw) -> int:
    """Expire credits that went back to an ended grant; they were never available in between."""
    post(
        draft,
        command,
        command.operation.wallet,
        OperationKind.EXPIRY,
        operation_id=draft.book.new_id(),
        delta=-returned.quantity,
        amount=returned.quantity,
        draws=(returned,),
        reason=EXPIRED,
    )
    return returned.quantity


def _wallets(command: Reverse, _policy: Policy) -> Wallets:
    return {command.operation.wallet, *(one.wallet for one in command.group)}


def _needs(needs: Needs, command: Reverse, _policy: Policy) -> None:
    for operation in command.group or (command.operation,):
        needs.reversals.add((operation.wallet, operation.id))
        needs.grants |= {(operation.wallet, draw.grant_id) for draw in operation.draws}
        if overdrawn(operation):
            needs.repayments[operation.wallet, operation.seq] = operation.id
        if operation.member_month is not None and operation.user_id is not None:
            needs.members.add(Membership(operation.wallet.subject_id, operation.user_id))


RULES: Final[Rules] = {
    Reverse: Rule(
        decide=reverse,
        wallets=_wallets,
        needs=_needs,
        audit=Audit("operation.reverse", ("amount", "operation_id")),
    ),
}
