"""Finished work of a metric without a price: charged once, as soon as a policy has a price.

A policy activation, an operator or a repeat of the request can trigger the charge. All of them
lock the wallet in which the work is recorded and check the work's debt, so only the first charges.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from entitlements.core.attribution import candidates
from entitlements.core.commands import Command, Consume, PriceDebt
from entitlements.core.ledger import consume
from entitlements.core.ledger.allowances import post_allowances
from entitlements.core.ledger.book import Draft, NeedMore, Needs
from entitlements.core.ledger.consume import (
    charge_all,
    line_of,
    post_failed,
    shares_under,
    wallet_of,
)
from entitlements.core.ledger.debts import closed
from entitlements.core.ledger.due import apply_all_due
from entitlements.core.ledger.members import add_member, org_most
from entitlements.core.ledger.rule import Audit, Rule, Rules, Wallets
from entitlements.core.model import Debt, Operation, Subject, WalletKey
from entitlements.core.outcomes import Consumed, DebtPriced, Refusal
from entitlements.core.policy import Policy
from entitlements.core.pricing import AmountTooLarge, price
from entitlements.core.reasons import DenialReason, OperationKind, RefusalCode

PRICED_LATER = "priced_later"
"""The reason of an operation that charges work recorded by another operation."""


def _wallets(command: PriceDebt, policy: Policy) -> Wallets:
    """Return every wallet that the charge can touch, and the one in which the work is recorded."""
    return {
        command.operation.wallet,
        *consume.wallets_of(_work(command, command.operation), policy),
    }


def price_debt(draft: Draft, command: PriceDebt) -> DebtPriced | Refusal:
    """Charge the work by the active policy, or set its price as the amount of its debt."""
    filed = command.operation
    debt = draft.debt(filed.id)
    if debt is None or debt.owed is not None:
        return Refusal(code=RefusalCode.PRICED, detail="the work already has a price")
    if debt.closed_by is not None:
        return closed(debt)
    try:
        cost = price(draft.book.policy, debt.metric, filed.quantity)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    if cost is None:
        return Refusal(
            code=RefusalCode.UNPRICED, detail="the policy does not know the metric of the work"
        )
    made = _charge(draft, command, filed, debt)
    first = made[0]
    return DebtPriced(
        operation_id=first.id,
        debt_id=filed.id,
        credit_type=first.wallet.credit_type,
        credits=sum(one.amount - one.owed for one in made),
        owed=first.owed,
        consumed_from=first.consumed_from if not first.owed else "none",
        new_balance=first.balance_after,
    )


def repeated(draft: Draft, command: Command, answer: Consumed) -> Consumed:
    """Return the current state of work that ``answer`` recorded without a price.

    If it has a price now, charge it first. Raise NeedMore or MoreDue.
    """
    assert answer.operation_id is not None, answer
    filed, debt = draft.operation(answer.operation_id), draft.debt(answer.operation_id)
    if filed is None or debt is None:
        return answer
    if debt.is_unpriced:
        _charge_if_priced(draft, command, filed, debt)
        debt = draft.debts.get(debt.operation_id, debt)
    return _shown(draft, filed, debt, answer)


def _charge_if_priced(draft: Draft, command: Command, filed: Operation, debt: Debt) -> None:
    policy = draft.book.policy
    try:
        cost = price(policy, debt.metric, filed.quantity)
    except AmountTooLarge:
        return
    if cost is None:
        return
    wallets = {debt.wallet, *consume.wallets_of(_work(command, filed), policy)}
    if missing := wallets - draft.book.wallets.keys():
        raise NeedMore(wallets=missing)
    apply_all_due(draft, command, wallets)
    _charge(draft, command, filed, debt)


def _shown(draft: Draft, filed: Operation, debt: Debt, answer: Consumed) -> Consumed:
    """Return the answer that a consumption of the same work would give.

    A debt that was settled or written off owes nothing.
    """
    closing = draft.operation(debt.closed_by) if debt.closed_by is not None else None
    if closing is not None and closing.kind is OperationKind.CONSUME:
        parts = [closing, *draft.parts_of(closing)]
        return replace(
            answer,
            operation_id=closing.id,
            success=True,
            new_balance=closing.balance_after,
            consumed_from=closing.consumed_from,
            credits=sum(part.amount for part in parts if not part.wallet.is_of_allowances),
            status=closing.status,
            reason=None,
            allowance_units=sum(part.amount for part in parts if part.wallet.is_of_allowances),
        )
    if debt.owed is None:
        return answer
    user = WalletKey("user", filed.user_id or "", debt.wallet.credit_type)
    wallet = draft.wallets.get(user) or draft.book.wallets.get(user)
    return replace(
        answer,
        new_balance=wallet.balance if wallet is not None else answer.new_balance,
        consumed_from="user",
        owed=debt.still_owed,
        reason=DenialReason.INSUFFICIENT_CREDITS,
    )


def _work(command: Command, filed: Operation) -> Consume:
    """Return the same work under the id of the command that charges it."""
    assert filed.user_id is not None, filed
    assert filed.metric is not None, filed
    return Consume(
        id=command.id,
        origin=command.origin,
        user_id=filed.user_id,
        org_id=filed.org_id,
        metric=filed.metric,
        units=filed.quantity,
        batch_id=filed.batch_id,
    )


def _charge(draft: Draft, command: Command, filed: Operation, debt: Debt) -> list[Operation]:
    """Charge the payer and close the debt; without a payer, set the amount that the debtor owes.

    The work has a price. Allowances pay and the payer is chosen as for new work. The units do not
    count against limits, because the work was done earlier.
    """
    policy, line = draft.book.policy, line_of(draft, _work(command, filed))
    work, cost, paid = line.item, line.cost, line.split.paid
    assert cost is not None, work

    def available(subject: Subject, credit_type: str) -> int:
        return draft.wallet(wallet_of(subject, credit_type)).available

    parts = {Subject("user", work.user_id): 0}
    if cost.credits:
        required = {cost.credit_type: cost.credits}
        order = candidates(policy.attribution, work.user_id, work.org_id)
        most = org_most(draft, work.user_id, work.org_id)
        shares = shares_under(policy, order, required, available, most)
        if shares is None:
            wallet = wallet_of(debt.wallet.subject, cost.credit_type)
            draft.debts[filed.id] = replace(debt, wallet=wallet, owed=cost.credits)
            failed = post_failed(
                draft,
                work,
                wallet,
                reason=DenialReason.INSUFFICIENT_CREDITS,
                owed=cost.credits,
                reverses=filed.id,
                hold_id=filed.hold_id,
                group_id=work.id if paid else None,
            )
            post_allowances(draft, work, failed, paid, reason=PRICED_LATER)
            return [failed]
        parts = shares[cost.credit_type]
    made = charge_all(
        draft,
        work,
        cost.credit_type,
        parts,
        is_grouped=bool(paid),
        reverses=filed.id,
        hold_id=filed.hold_id,
        counted=0,
        reason=PRICED_LATER,
    )
    post_allowances(draft, work, made[0], paid, reason=PRICED_LATER)
    draft.debts[filed.id] = replace(debt, closed_by=made[0].id)
    return made


def _needs(needs: Needs, command: PriceDebt, policy: Policy) -> None:
    filed = command.operation
    needs.unpriced.add(filed.id)
    add_member(needs, policy, filed.user_id or "", filed.org_id)


RULES: Final[Rules] = {
    PriceDebt: Rule(
        decide=price_debt,
        wallets=_wallets,
        needs=_needs,
        audit=Audit("debt.price", ("operation_id",)),
    ),
}
