"""Grants, adjustments, revocations and the opening of accounts."""

from __future__ import annotations

from datetime import datetime

from entitlements.core.commands import Adjust, GrantCredits, OpenAccount, Revoke, SetBalance
from entitlements.core.ledger.backing import REVOKED
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.debt import settle_oldest
from entitlements.core.ledger.posting import (
    create_grant,
    draw_from,
    end_grant,
    has_ended,
    post,
    too_large,
)
from entitlements.core.model import Draw, GrantReason, Membership, OperationKind, WalletKey
from entitlements.core.outcomes import (
    AccountOpened,
    Adjusted,
    Granted,
    RefusalCode,
    Refused,
    Revoked,
)


def grant(draft: Draft, command: GrantCredits) -> Granted | Refused:
    """Add a grant. If it starts in the future, it does not pay before then."""
    if refused := _too_short(draft, command.wallet, command.expires_at, command.granted_at):
        return refused
    if refused := too_large(draft, command.wallet, command.quantity):
        return refused
    grant_id = draft.book.new_id()
    draws = create_grant(
        draft,
        command,
        command.wallet,
        command.quantity,
        grant_id=grant_id,
        reason=command.reason,
        priority=command.priority,
        granted_at=command.granted_at,
        expires_at=command.expires_at,
        details=command.details,
    )
    operation = post(
        draft,
        command,
        command.wallet,
        OperationKind.GRANT,
        operation_id=command.id,
        delta=command.quantity if draws else 0,
        amount=command.quantity,
        draws=draws,
        reason=command.reason,
    )
    if draws:
        settle_oldest(draft, command, command.wallet, command.reason)
    return Granted(
        operation_id=operation.id,
        grant_id=grant_id,
        credits=command.quantity,
        new_balance=draft.wallet(command.wallet).balance,
        scheduled=not draws,
    )


def _too_short(
    draft: Draft, key: WalletKey, expires_at: datetime | None, granted_at: datetime | None = None
) -> Refused | None:
    now = max(draft.now, draft.wallet(key).updated_at)
    if expires_at is None or expires_at > max(now, granted_at or now):
        return None
    return Refused(
        code=RefusalCode.INVALID_GRANT,
        detail="expires_at must be later than now and than granted_at",
    )


def open_account(draft: Draft, command: OpenAccount) -> AccountOpened | Refused:
    """Open an account and grant its signup bonus, once ever per subject.

    A membership that comes with it gives no bonus.
    """
    wallet = command.wallet
    if command.org_id is not None:
        member = Membership(command.org_id, command.subject.id)
        draft.members |= {member} - draft.book.members
    if command.subject in draft.book.accounts | draft.accounts:
        return AccountOpened(created=False, bonus=0, new_balance=draft.wallet(wallet).balance)
    bonus = draft.book.policy.signup_bonuses.get(command.subject.type, 0)
    if refused := too_large(draft, wallet, bonus):
        return refused
    draft.accounts.add(command.subject)
    operation_id = None
    if bonus:
        reason = GrantReason.SIGNUP_BONUS
        draws = create_grant(
            draft, command, wallet, bonus, grant_id=draft.book.new_id(), reason=reason
        )
        operation_id = post(
            draft,
            command,
            wallet,
            OperationKind.GRANT,
            operation_id=command.id,
            delta=bonus,
            amount=bonus,
            draws=draws,
            reason=reason,
        ).id
    return AccountOpened(
        operation_id=operation_id,
        created=True,
        bonus=bonus,
        new_balance=draft.wallet(wallet).balance,
    )


_OVER_LIMIT = Refused(
    code=RefusalCode.RATE_LIMIT_EXCEEDED, detail="the operator's adjustment limit is exceeded"
)


def adjust(draft: Draft, command: Adjust) -> Adjusted | Refused:
    """Add or burn credits; never burn more than is available."""
    if command.is_over_limit:
        return _OVER_LIMIT
    if refused := _too_short(draft, command.wallet, command.expires_at):
        return refused
    return _adjust(draft, command, command.amount, command.expires_at)


def set_balance(draft: Draft, command: SetBalance) -> Adjusted | Refused:
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
) -> Adjusted | Refused:
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
    elif wallet.available + amount < 0:
        is_there = wallet.balance + amount >= 0
        return Refused(
            code=RefusalCode.HELD if is_there else RefusalCode.BELOW_ZERO,
            detail=f"{-amount} credits cannot be taken from {wallet.available} available",
            data={"required": -amount, "available": wallet.available, "held": wallet.held},
        )
    else:
        drawn = draw_from(draft, key, -amount)
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


def revoke(draft: Draft, command: Revoke) -> Revoked:
    """End a grant early; a grant that has already ended does not change."""
    revoked = draft.grant(command.wallet, command.grant_id)
    wallet = draft.wallet(command.wallet)
    now = max(draft.now, wallet.updated_at)
    if has_ended(revoked, now):
        return Revoked(grant_id=revoked.id, credits=0, new_balance=wallet.balance)
    lost = end_grant(draft, revoked, now, REVOKED)
    operation = post(
        draft,
        command,
        command.wallet,
        OperationKind.REVOCATION,
        operation_id=command.id,
        delta=-lost,
        amount=lost,
        draws=(Draw(revoked.id, lost),) if lost else (),
        reason=command.reason,
    )
    return Revoked(
        operation_id=operation.id,
        grant_id=revoked.id,
        credits=lost,
        new_balance=operation.balance_after,
    )
