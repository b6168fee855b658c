"""Reversal: credits go back to exactly the grants that paid, last-drawn first."""

from __future__ import annotations

from msgspec.structs import replace

from entitlements.core.commands import Reverse
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.due import EXPIRED
from entitlements.core.ledger.posting import create_grant, give, has_ended, post, too_large
from entitlements.core.model import (
    NEVER,
    Draw,
    Grant,
    GrantReason,
    Operation,
    OperationKind,
    OperationStatus,
)
from entitlements.core.outcomes import RefusalCode, Refused, Reversed
from entitlements.core.policy import ReverseExpired

OVERDRAFT = ""
"""Stands for the overdraft where a grant's id is expected: it is drawn last, so repaid first."""


def is_reversible(operation: Operation) -> bool:
    """Whether the operation took credits for work or by hand."""
    kinds = {OperationKind.CONSUME, OperationKind.ADJUSTMENT}
    completed = operation.status is OperationStatus.COMPLETED
    return completed and operation.kind in kinds and operation.delta <= 0


def reverse(draft: Draft, command: Reverse) -> Reversed | Refused:
    """Give back ``amount`` credits of the operation, or all that is left of it."""
    operation = command.operation
    if not is_reversible(operation):
        return Refused(
            code=RefusalCode.NOT_REVERSIBLE,
            detail=f"a {operation.status} {operation.kind} cannot be reversed",
        )
    before = draft.book.reversed.get(operation.id, 0)
    left = operation.amount - before
    amount = left if command.amount is None else command.amount
    if amount > left or (amount == 0 and operation.amount > 0):
        return Refused(
            code=RefusalCode.REVERSED_ALREADY,
            detail=f"{left} of {operation.amount} credits are left to reverse",
            data={"amount": operation.amount, "reversed": before, "left": left},
        )
    if refused := too_large(draft, operation.wallet, amount):
        return refused
    draws, lapsing = _give_back(draft, command, owed_back(operation, before, amount))
    draft.reversed[operation.id] = before + amount
    draft.reversed_in.add((operation.wallet, operation.id))
    post(
        draft,
        command,
        operation.wallet,
        OperationKind.REVERSAL,
        operation_id=command.id,
        delta=amount,
        amount=amount,
        draws=draws,
        user_id=operation.user_id,
        org_id=operation.org_id,
        metric=operation.metric,
        batch_id=operation.batch_id,
        consumed_from=operation.consumed_from,
        reverses=operation.id,
        hold_id=operation.hold_id,
        reason=command.reason,
    )
    lapsed = sum(_lapse(draft, command, returned) for returned in lapsing)
    return Reversed(
        operation_id=command.id,
        reverses=operation.id,
        credits=amount,
        total=before + amount,
        lapsed=lapsed,
        new_balance=draft.wallet(operation.wallet).balance,
    )


def owed_back(operation: Operation, before: int, amount: int) -> list[Draw]:
    """Which payers get how much of ``amount``, after ``before`` credits went back already."""
    drawn = [draw for draw in operation.draws if draw.quantity > 0]
    overdrawn = operation.amount - sum(draw.quantity for draw in drawn)
    back: list[Draw] = []
    skip, wanted = before, amount
    for draw in [Draw(OVERDRAFT, overdrawn), *reversed(drawn)]:
        skipped = min(skip, draw.quantity)
        skip -= skipped
        given = min(wanted, draw.quantity - skipped)
        wanted -= given
        if given:
            back.append(Draw(draw.grant_id, given))
    return back


def _give_back(
    draft: Draft, command: Reverse, back: list[Draw]
) -> tuple[tuple[Draw, ...], list[Draw]]:
    """The reversal's draws, and what ended grants got that lapses next."""
    key = command.operation.wallet
    now = max(draft.now, draft.wallet(key).updated_at)
    restore = draft.book.policy.reverse_expired is ReverseExpired.RESTORE
    draws: list[Draw] = []
    lapsing: list[Draw] = []
    for paid in back:
        if paid.grant_id == OVERDRAFT:
            draws += _repay_overdraft(draft, command, paid.quantity)
            continue
        grant = draft.grant(key, paid.grant_id)
        if not has_ended(grant, now):
            draws += give(draft, grant, paid.quantity)
        elif restore:
            draws += _restore(draft, command, grant, paid.quantity)
        else:
            draws.append(Draw(grant.id, -paid.quantity))
            lapsing.append(paid)
    return tuple(draws), lapsing


def _repay_overdraft(draft: Draft, command: Reverse, credits: int) -> tuple[Draw, ...]:
    """Lower the overdraft; what a later grant has repaid of it meanwhile becomes a new grant."""
    key = command.operation.wallet
    wallet = draft.wallet(key)
    lowered = min(wallet.overdraft, credits)
    draft.wallets[key] = replace(wallet, overdraft=wallet.overdraft - lowered)
    if lowered == credits:
        return ()
    return create_grant(
        draft,
        command,
        key,
        credits - lowered,
        grant_id=draft.book.new_id(),
        reason=GrantReason.REFUND,
    )


def _restore(draft: Draft, command: Reverse, grant: Grant, credits: int) -> tuple[Draw, ...]:
    """A new grant with the lifetime the ended one had left when it was drawn."""
    expires_at = None
    if grant.expires_at is not None:
        now = max(draft.now, draft.wallet(grant.wallet).updated_at)
        expires_at = now + min(grant.expires_at - command.operation.created_at, NEVER - now)
    return create_grant(
        draft,
        command,
        grant.wallet,
        credits,
        grant_id=draft.book.new_id(),
        reason=GrantReason.REFUND,
        priority=grant.priority,
        expires_at=expires_at,
    )


def _lapse(draft: Draft, command: Reverse, returned: Draw) -> int:
    """Expire what was given back to a grant that has ended, and never paid in between."""
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
