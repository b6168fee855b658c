"""Adjustments of a balance by an operator."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from entitlements.core.commands import Adjust, SetBalance
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.debts import add_oldest_debts, settle_oldest
from entitlements.core.ledger.posting import (
    create_grant,
    draw_from,
    invalid_expiry,
    post,
    too_large,
)
from entitlements.core.ledger.rule import Audit, Rule, Rules, its_wallet
from entitlements.core.outcomes import Adjusted, Refusal
from entitlements.core.reasons import GrantReason, OperationKind, RefusalCode

_OVER_LIMIT = Refusal(
    code=RefusalCode.RATE_LIMIT_EXCEEDED, detail="the operator's adjustment limit is exceeded"
)


def adjust(draft: Draft, command: Adjust) -> Adjusted | Refusal:
    """Add or burn credits; never burn more than is available."""
    if command.is_over_limit:
        return _OVER_LIMIT
    if refused := invalid_expiry(draft, command.wallet, command.expires_at):
        return refused
    return _adjust(draft, command, command.amount, command.expires_at)


def set_balance(draft: Draft, command: SetBalance) -> Adjusted | Refusal:
    """Adjust the balance to the target; write nothing if it is already there."""
    if command.is_over_limit:
        return _OVER_LIMIT
    wallet = draft.wallet(command.wallet)
    amount = command.balance - wallet.balance
    if amount == 0:
        return Adjusted(delta=0, new_balance=wallet.balance)
    return _adjust(draft, command, amount)


def _adjust(
    draft: Draft, command: Adjust | SetBalance, amount: int, expires_at: datetime | None = None
) -> Adjusted | Refusal:
    key = command.wallet
    wallet = draft.wallet(key)
    if amount > 0:
        if refused := too_large(draft, key, amount):
            return refused
        draws = create_grant(
            draft,
            command,
            key,
            amount,
            grant_id=draft.book.new_id(),
            reason=GrantReason.MANUAL_ADJUSTMENT,
            expires_at=expires_at,
        )
    elif wallet.counted + amount < 0:
        is_there = wallet.balance + amount >= 0
        return Refusal(
            code=RefusalCode.HELD if is_there else RefusalCode.BELOW_ZERO,
            detail=f"{-amount} credits cannot be taken from {wallet.counted} available",
            data={"required": -amount, "available": wallet.counted, "held": wallet.held},
        )
    else:
        drawn = draw_from(draft, key, -amount, counted=True)
        assert drawn.unpaid == 0, key
        draws = drawn.draws
    operation = post(
        draft,
        command,
        key,
        OperationKind.ADJUSTMENT,
        operation_id=command.id,
        delta=amount,
        amount=abs(amount),
        draws=draws,
        metric=OperationKind.ADJUSTMENT,
        reason=command.reason,
        consumed_from=key.subject_type,
    )
    if amount > 0 and isinstance(command, Adjust):  # a set must end at its target
        settle_oldest(draft, command, key, GrantReason.MANUAL_ADJUSTMENT)
    return Adjusted(operation_id=operation.id, delta=amount, new_balance=draft.wallet(key).balance)


RULES: Final[Rules] = {
    Adjust: Rule(
        decide=adjust,
        wallets=its_wallet,
        needs=add_oldest_debts,
        audit=Audit("credits.adjust", ("amount",)),
    ),
    SetBalance: Rule(
        decide=set_balance, wallets=its_wallet, audit=Audit("credits.set", ("balance",))
    ),
}
