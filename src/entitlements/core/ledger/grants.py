"""Grants and their revocation."""

from __future__ import annotations

from typing import Final

from entitlements.core.commands import CreateGrant, Revoke
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.debts import add_oldest_debts, settle_oldest
from entitlements.core.ledger.posting import (
    create_grant,
    end_grant,
    has_ended,
    invalid_expiry,
    post,
    too_large,
)
from entitlements.core.ledger.rule import Audit, Rule, Rules, its_wallet
from entitlements.core.ledger.subscribing import end_with_grant
from entitlements.core.model import REVOKED, Draw
from entitlements.core.outcomes import Granted, Refusal, Revoked
from entitlements.core.policy import Policy
from entitlements.core.reasons import OperationKind


def grant(draft: Draft, command: CreateGrant) -> Granted | Refusal:
    """Add a grant. If it starts in the future, it does not pay before then."""
    if refused := invalid_expiry(draft, command.wallet, command.expires_at, command.granted_at):
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
        entitlement_type=command.entitlement_type,
        consumption=command.consumption,
        unlimited=command.unlimited,
        period=command.period,
        used=command.used,
    )
    given = max(0, command.quantity - command.used)
    is_scheduled = not draft.grant(command.wallet, grant_id).started
    operation = post(
        draft,
        command,
        command.wallet,
        OperationKind.GRANT,
        operation_id=command.id,
        delta=0 if is_scheduled else given,
        amount=given,
        draws=draws,
        reason=command.reason,
    )
    if not is_scheduled:
        settle_oldest(draft, command, command.wallet, command.reason)
    made = draft.grant(command.wallet, grant_id)
    return Granted(
        operation_id=operation.id,
        grant_id=grant_id,
        credits=command.quantity,
        new_balance=draft.wallet(command.wallet).balance,
        scheduled=is_scheduled,
        granted_at=made.granted_at,
        created_at=operation.created_at,
        remaining=made.remaining,
        used=made.spent,
        renews_at=made.renews_at,
    )


def revoke(draft: Draft, command: Revoke) -> Revoked:
    """End a grant early; a grant that has already ended does not change."""
    revoked = draft.grant(command.wallet, command.grant_id)
    wallet = draft.wallet(command.wallet)
    now = max(draft.now, wallet.updated_at)
    if has_ended(revoked, now):
        return Revoked(grant_id=revoked.id, credits=0, new_balance=wallet.balance)
    lost = end_grant(draft, revoked, now, REVOKED)
    if command.reason is not None:
        draft.revoke_reasons[command.wallet, revoked.id] = command.reason
    operation = post(
        draft,
        command,
        command.wallet,
        OperationKind.REVOCATION,
        operation_id=command.id,
        delta=-lost,
        amount=lost,
        draws=(Draw(revoked.id, lost),),
        reason=command.reason,
    )
    end_with_grant(draft, command, revoked, now)
    return Revoked(
        operation_id=operation.id,
        grant_id=revoked.id,
        credits=lost,
        new_balance=operation.balance_after,
    )


def _needs_of_revoke(needs: Needs, command: Revoke, _policy: Policy) -> None:
    needs.grants.add((command.wallet, command.grant_id))


RULES: Final[Rules] = {
    CreateGrant: Rule(
        decide=grant,
        wallets=its_wallet,
        needs=add_oldest_debts,
        audit=Audit("grant", ("entitlement_type", "quantity")),
    ),
    Revoke: Rule(
        decide=revoke,
        wallets=its_wallet,
        needs=_needs_of_revoke,
        audit=Audit("grant.revoke", ("grant_id",)),
    ),
}
