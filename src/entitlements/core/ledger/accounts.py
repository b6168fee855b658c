"""The opening of accounts."""

from __future__ import annotations

from typing import Final

from entitlements.core.commands import OpenAccount
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.posting import create_grant, post, too_large
from entitlements.core.ledger.rule import Audit, Rule, Rules, its_wallet
from entitlements.core.model import Member, Membership
from entitlements.core.outcomes import AccountOpened, Refusal
from entitlements.core.policy import Policy
from entitlements.core.reasons import GrantReason, OperationKind


def open_account(draft: Draft, command: OpenAccount) -> AccountOpened | Refusal:
    """Open an account and grant its signup bonus, once ever per subject.

    A membership that comes with it gives no bonus.
    """
    wallet = command.wallet
    if command.org_id is not None:
        _join(draft, Membership(command.org_id, command.subject.id))
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


def _join(draft: Draft, key: Membership) -> None:
    """Add a membership; one that exists or has ended is not changed."""
    if draft.member(key) is None:
        draft.members[key] = Member(org_id=key.org_id, user_id=key.user_id, joined_at=draft.now)


def _needs(needs: Needs, command: OpenAccount, _policy: Policy) -> None:
    needs.accounts.add(command.subject)
    if command.org_id is not None:
        needs.members.add(Membership(command.org_id, command.subject.id))


RULES: Final[Rules] = {
    OpenAccount: Rule(
        decide=open_account, wallets=its_wallet, needs=_needs, audit=Audit("account.open")
    ),
}
