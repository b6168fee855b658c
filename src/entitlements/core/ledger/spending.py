"""Consumption by type: a quantity of credits or of an allowance, without metrics and prices."""

from __future__ import annotations

from typing import Final

from entitlements.core.attribution import candidates, payer, within
from entitlements.core.commands import Spend
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.consume import wallet_of
from entitlements.core.ledger.members import add_member, count_draw, is_member, org_most
from entitlements.core.ledger.posting import draw_from, post
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import Subject
from entitlements.core.outcomes import Refusal, Spent
from entitlements.core.policy import Policy
from entitlements.core.reasons import OperationKind, RefusalCode


def wallets_of(command: Spend, _policy: Policy) -> Wallets:
    """Return the wallets of the user and the org, whichever pays."""
    subjects = [Subject("user", command.user_id)]
    if command.org_id is not None:
        subjects.append(Subject("org", command.org_id))
    return {wallet_of(subject, command.credit_type) for subject in subjects}


def spend(draft: Draft, command: Spend) -> Spent | Refusal:
    """Take the quantity from the first candidate that has all of it."""
    policy, who = draft.book.policy, (command.user_id, command.org_id)
    order = candidates(policy.attribution, *who)
    if not is_member(draft, *who):
        order = tuple(one for one in order if one.type != "org")
    required = {command.credit_type: command.quantity}
    most = None if command.metric is not None else org_most(draft, *who)
    subject = payer(
        within(order, required, most),
        required,
        lambda one, name: draft.wallet(wallet_of(one, name)).available,
    )
    if subject is None:
        return _insufficient(draft, command, order)
    wallet = wallet_of(subject, command.credit_type)
    is_unlimited = draft.wallet(wallet).unlimited
    drawn = draw_from(draft, wallet, command.quantity)
    assert drawn.unpaid == 0, wallet
    operation = post(
        draft,
        command,
        wallet,
        OperationKind.CONSUME,
        operation_id=command.id,
        delta=drawn.uncounted - command.quantity,
        amount=command.quantity,
        draws=drawn.draws,
        consumed_from=subject.type,
        user_id=command.user_id,
        org_id=command.org_id,
        metric=command.metric,
        quantity=command.quantity,
        counted=0,
        context=command.context,
        member_month=count_draw(draft, wallet, command.user_id, command.quantity),
    )
    return Spent(
        operation_id=operation.id,
        source=subject.type,
        draws=tuple((draw.grant_id, draw.quantity) for draw in drawn.draws),
        remaining=None if is_unlimited else draft.wallet(wallet).available,
    )


def _insufficient(draft: Draft, command: Spend, order: tuple[Subject, ...]) -> Refusal:
    types = (wallet_of(one, command.credit_type) for one in order)
    most = max((draft.wallet(key).available for key in types), default=0)
    return Refusal(
        code=RefusalCode.INSUFFICIENT_CREDITS,
        detail=f"{command.quantity} are required, {most} are available",
        data={"required": command.quantity, "available": most},
    )


def _needs(needs: Needs, command: Spend, policy: Policy) -> None:
    add_member(needs, policy, command.user_id, command.org_id)


RULES: Final[Rules] = {
    Spend: Rule(decide=spend, wallets=wallets_of, needs=_needs),
}
