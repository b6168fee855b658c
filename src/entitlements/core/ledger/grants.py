"""Grants of credits and their revocation."""

from __future__ import annotations

from typing import Final

from entitlements.core.commands import GrantCredits, Revoke
from entitlements.core.ledger.backing import REVOKED
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
from entitlements.core.model import Draw
from entitlements.core.outcomes import Granted, Refusal, Revoked
from entitlements.core.policy import Policy
from entitlements.core.reasons import OperationKind


def grant(draft: Draft, command: GrantCredits) -> Granted | Refusal:
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


def _needs_of_revoke(needs: Needs, command: Revoke, _policy: Policy) -> None:
    needs.grants.add((command.wallet, command.grant_id))


RULES: Final[Rules] = {
    GrantCredits: Rule(
        decide=grant,
        wallets=its_wallet,
        needs=add_oldest_debts,
        audit=Audit("grant", ("quantity",)),
    ),
    Revoke: Rule(
        decide=revoke,
        wallets=its_wallet,
        needs=_needs_of_revoke,
        audit=Audit("grant.revoke", ("grant_id",)),
    ),
}
