"""Consumption of finished work: priced, attributed, drawn; or filed as what nobody could pay."""

from __future__ import annotations

from entitlements.core.attribution import candidates, payer, root_subject
from entitlements.core.commands import Consume
from entitlements.core.ledger.book import Draft
from entitlements.core.ledger.posting import draw_from, overdraw, post
from entitlements.core.model import (
    ConsumedFrom,
    Debt,
    OperationKind,
    OperationStatus,
    Subject,
    WalletKey,
)
from entitlements.core.outcomes import Consumed, RefusalCode, Refused
from entitlements.core.policy import DEFAULT_CREDIT_TYPE, Policy, Shortfall
from entitlements.core.pricing import AmountTooLarge, Price, price

POLICY_DENIED = "policy_denied"
INSUFFICIENT_CREDITS = "insufficient_credits"


def wallets_of(command: Consume, policy: Policy) -> set[WalletKey]:
    """Every wallet the consumption may touch, whoever will pay."""
    try:
        cost = price(policy, command.metric, command.units)
    except AmountTooLarge:
        cost = None
    credit_type = cost.credit_type if cost else DEFAULT_CREDIT_TYPE
    subjects = {Subject("user", command.user_id), root_subject(command.user_id, command.org_id)}
    return {WalletKey(subject.type, subject.id, credit_type) for subject in subjects}


def consume(draft: Draft, command: Consume) -> Consumed | Refused:
    """Charge the payer, or file the debt; an unknown metric is filed as failed and owes nothing."""
    policy = draft.book.policy
    try:
        cost = price(policy, command.metric, command.units)
    except AmountTooLarge as error:
        return Refused(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    if cost is None:
        user = WalletKey("user", command.user_id, DEFAULT_CREDIT_TYPE)
        return _failed(draft, command, user, reason=POLICY_DENIED)
    if cost.credits == 0:
        user = WalletKey("user", command.user_id, cost.credit_type)
        return _charge(draft, command, user, 0, consumed_from="none")
    subject = _payer(draft, command, cost)
    if subject is None:
        debtor = root_subject(command.user_id, command.org_id)
        wallet = WalletKey(debtor.type, debtor.id, cost.credit_type)
        return _failed(draft, command, wallet, reason=INSUFFICIENT_CREDITS, owed=cost.credits)
    wallet = WalletKey(subject.type, subject.id, cost.credit_type)
    return _charge(draft, command, wallet, cost.credits, consumed_from=subject.type)


def _payer(draft: Draft, command: Consume, cost: Price) -> Subject | None:
    """Who covers it all; with the overdraft policy, else who may go below zero for it."""
    policy = draft.book.policy
    order = candidates(policy.attribution, command.user_id, command.org_id)
    required = {cost.credit_type: cost.credits}
    covering = payer(order, required, lambda key: draft.wallet(key).available)
    if covering or policy.shortfall is not Shortfall.OVERDRAFT:
        return covering
    return payer(order, required, lambda key: draft.wallet(key).available + policy.overdraft_limit)


def _charge(
    draft: Draft,
    command: Consume,
    wallet: WalletKey,
    credits: int,
    *,
    consumed_from: ConsumedFrom,
) -> Consumed:
    available = max(0, draft.wallet(wallet).available)
    drawn = draw_from(draft, wallet, credits)
    assert drawn.unpaid == max(0, credits - available), wallet
    overdraw(draft, wallet, drawn.unpaid)
    operation = post(
        draft,
        command,
        wallet,
        OperationKind.CONSUME,
        operation_id=command.id,
        delta=-credits,
        amount=credits,
        draws=drawn.draws,
        consumed_from=consumed_from,
        user_id=command.user_id,
        org_id=command.org_id,
        metric=command.metric,
        quantity=command.units,
        batch_id=command.batch_id,
    )
    return Consumed(
        operation_id=operation.id,
        success=True,
        new_balance=operation.balance_after,
        consumed_from=consumed_from,
        credits=credits,
        status=operation.status,
    )


def _failed(
    draft: Draft, command: Consume, wallet: WalletKey, *, reason: str, owed: int = 0
) -> Consumed:
    """Nothing moves; the record stands in ``wallet``, the answer speaks of the user's balance."""
    operation = post(
        draft,
        command,
        wallet,
        OperationKind.CONSUME,
        operation_id=command.id,
        owed=owed,
        status=OperationStatus.FAILED,
        reason=reason,
        consumed_from="user" if owed else "none",
        user_id=command.user_id,
        org_id=command.org_id,
        metric=command.metric,
        quantity=command.units,
        batch_id=command.batch_id,
    )
    if owed:
        draft.debts[operation.id] = Debt(
            operation_id=operation.id,
            wallet=wallet,
            owed=owed,
            metric=command.metric,
            created_at=operation.created_at,
        )
    user = WalletKey("user", command.user_id, wallet.credit_type)
    return Consumed(
        operation_id=operation.id,
        success=False,
        new_balance=draft.wallet(user).balance,
        consumed_from=operation.consumed_from,
        credits=0,
        status=operation.status,
        owed=owed,
        reason=reason,
    )
