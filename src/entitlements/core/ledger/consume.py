"""Consumption of finished work: priced, attributed and drawn, or recorded as a shortfall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypedDict, Unpack

from entitlements.core.attribution import candidates, payer, root_subject, shortage
from entitlements.core.burndown import Draws
from entitlements.core.commands import Command, Consume
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.posting import draw_from, overdraw, post
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import Debt, Operation, Subject, WalletKey
from entitlements.core.outcomes import Consumed, Refusal
from entitlements.core.policy import DEFAULT_CREDIT_TYPE, Policy, ShortfallRule
from entitlements.core.pricing import AmountTooLarge, Price, bounded, credit_type_of, price
from entitlements.core.reasons import (
    ConsumedFrom,
    DenialReason,
    OperationKind,
    OperationStatus,
    RefusalCode,
)


class HeldWork(Command, frozen=True, gc=False, kw_only=True):
    """One line of a settlement with the id of its operation; ``metric`` can be None."""

    user_id: str
    org_id: str | None
    metric: str | None
    units: int
    batch_id: None = None


Work = Consume | HeldWork


class Noted(TypedDict, total=False):
    """Fields of an operation of work that are not the same for all work."""

    reason: str | None
    reverses: str | None
    hold_id: str | None
    counted: int | None
    policy_version: str | None


Group = tuple[str, str | None]
"""(user id, org id). One payer covers all items of a group."""
Payers = dict[Group, Subject]


def wallets_of(command: Consume, policy: Policy) -> Wallets:
    """Return every wallet that the consumption can touch, whichever candidate pays."""
    credit_type = credit_type_of(policy, command.metric)
    subjects = {Subject("user", command.user_id), root_subject(command.user_id, command.org_id)}
    return {wallet_of(subject, credit_type) for subject in subjects}


def consume(draft: Draft, items: Sequence[Consume]) -> list[Consumed] | Refusal:
    """Charge all items, or record what each owes.

    If one item is not covered or its metric is unknown, no item is charged. Free items are
    recorded in any case.
    """
    policy = draft.book.policy
    try:
        prices = [price(policy, item.metric, item.units) for item in items]
        required = _required(items, prices)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    payers, reason = None, DenialReason.POLICY_DENIED
    if None not in prices:
        payers, reason = _payers(draft, required), DenialReason.INSUFFICIENT_CREDITS
    return [
        _file(draft, item, cost, payers, reason) for item, cost in zip(items, prices, strict=True)
    ]


def _file(
    draft: Draft, item: Consume, cost: Price | None, payers: Payers | None, reason: DenialReason
) -> Consumed:
    """Write the item's operation; without ``payers``, items with a cost fail."""
    if cost is not None and cost.credits == 0:
        user = Subject("user", item.user_id)
        return _charge(draft, item, wallet_of(user, cost.credit_type), 0, consumed_from="none")
    if cost is None or payers is None:
        debtor = root_subject(item.user_id, item.org_id)
        if cost is None:
            return _failed(
                draft,
                item,
                wallet_of(debtor, DEFAULT_CREDIT_TYPE),
                reason=DenialReason.POLICY_DENIED,
            )
        wallet = wallet_of(debtor, cost.credit_type)
        return _failed(draft, item, wallet, reason=reason, owed=cost.credits)
    subject = payers[item.user_id, item.org_id]
    wallet = wallet_of(subject, cost.credit_type)
    return _charge(draft, item, wallet, cost.credits, consumed_from=subject.type)


def _required(
    items: Sequence[Consume], prices: Sequence[Price | None]
) -> dict[Group, dict[str, int]]:
    """Return the credits to charge each group, by type; groups of free items are left out."""
    required: dict[Group, dict[str, int]] = {}
    for item, cost in zip(items, prices, strict=True):
        if cost is not None and cost.credits:
            sums = required.setdefault((item.user_id, item.org_id), {})
            sums[cost.credit_type] = bounded(sums.get(cost.credit_type, 0) + cost.credits)
    return required


def _payers(draft: Draft, required: dict[Group, dict[str, int]]) -> Payers | None:
    """Return the payer of each group, or None if a group is not covered.

    Groups are tried in order; each sees the credits that the earlier groups leave.
    """
    policy = draft.book.policy
    promised: dict[WalletKey, int] = {}
    payers: Payers = {}

    def available(subject: Subject, credit_type: str) -> int:
        key = wallet_of(subject, credit_type)
        return draft.wallet(key).available - promised.get(key, 0)

    for group, credits in required.items():
        order = candidates(policy.attribution, *group)
        subject = payer_under(policy, order, credits, available)
        if subject is None:
            return None
        payers[group] = subject
        for credit_type, amount in credits.items():
            wallet = wallet_of(subject, credit_type)
            promised[wallet] = promised.get(wallet, 0) + amount
    return payers


def payer_under(
    policy: Policy,
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Callable[[Subject, str], int],
) -> Subject | None:
    """Return the candidate that covers everything, with an overdraft if the policy allows it."""
    subject = payer(order, required, available)
    if subject is None and policy.shortfall is ShortfallRule.OVERDRAFT:
        floor = policy.overdraft_limit
        subject = payer(order, required, lambda *key: available(*key) + floor)
    return subject


def wallet_of(subject: Subject, credit_type: str) -> WalletKey:
    return WalletKey(subject.type, subject.id, credit_type)


def _charge(
    draft: Draft,
    command: Consume,
    wallet: WalletKey,
    credits: int,
    *,
    consumed_from: ConsumedFrom,
) -> Consumed:
    operation = charge(draft, command, wallet, credits, consumed_from=consumed_from)
    return Consumed(
        operation_id=operation.id,
        success=True,
        new_balance=operation.balance_after,
        consumed_from=consumed_from,
        credits=credits,
        status=operation.status,
    )


def charge(
    draft: Draft,
    work: Work,
    wallet: WalletKey,
    credits: int,
    *,
    consumed_from: ConsumedFrom,
    **noted: Unpack[Noted],
) -> Operation:
    """Draw ``credits`` for the work in burn order, and overdraw the rest."""
    available = max(0, draft.wallet(wallet).available)
    drawn = draw_from(draft, wallet, credits)
    assert drawn.unpaid == max(0, credits - available), wallet
    overdraw(draft, wallet, drawn.unpaid)
    return post_paid(draft, work, wallet, credits, drawn, consumed_from=consumed_from, **noted)


def post_paid(
    draft: Draft,
    work: Work,
    wallet: WalletKey,
    credits: int,
    drawn: Draws,
    *,
    consumed_from: ConsumedFrom,
    **noted: Unpack[Noted],
) -> Operation:
    """Write the operation of work that the ``drawn`` grants paid; they can leave an overdraft."""
    return post(
        draft,
        work,
        wallet,
        OperationKind.CONSUME,
        operation_id=work.id,
        delta=drawn.uncounted - credits,
        amount=credits,
        draws=drawn.draws,
        consumed_from=consumed_from,
        user_id=work.user_id,
        org_id=work.org_id,
        metric=work.metric,
        quantity=work.units,
        batch_id=work.batch_id,
        **noted,
    )


def post_failed(
    draft: Draft, work: Work, wallet: WalletKey, *, owed: int, **noted: Unpack[Noted]
) -> Operation:
    """Write the failed operation of unpaid work."""
    return post(
        draft,
        work,
        wallet,
        OperationKind.CONSUME,
        operation_id=work.id,
        amount=owed,
        owed=owed,
        status=OperationStatus.FAILED,
        consumed_from="user" if owed else "none",
        user_id=work.user_id,
        org_id=work.org_id,
        metric=work.metric,
        quantity=work.units,
        batch_id=work.batch_id,
        **noted,
    )


def _failed(
    draft: Draft, command: Consume, wallet: WalletKey, *, reason: DenialReason, owed: int = 0
) -> Consumed:
    operation = file_failed(draft, command, wallet, reason=reason, owed=owed)
    user = WalletKey("user", command.user_id, wallet.credit_type)
    who = (command.user_id, command.org_id)
    return Consumed(
        operation_id=operation.id,
        success=False,
        new_balance=draft.wallet(user).balance,
        consumed_from=operation.consumed_from,
        credits=0,
        status=operation.status,
        owed=owed,
        reason=reason,
        candidates=shortage(wallet.credit_type, owed, *who, draft.wallet) if owed else None,
    )


def file_failed(
    draft: Draft, work: Work, wallet: WalletKey, *, owed: int = 0, **noted: Unpack[Noted]
) -> Operation:
    """Record unpaid work and its debt in ``wallet``; no balance changes.

    ``owed`` 0 means that the work has no price yet.
    """
    operation = post_failed(draft, work, wallet, owed=owed, **noted)
    draft.debts[operation.id] = Debt(
        operation_id=operation.id,
        wallet=wallet,
        owed=owed or None,
        metric=work.metric or wallet.credit_type,
        created_at=operation.created_at,
    )
    return operation


def _consume_one(draft: Draft, command: Consume) -> Consumed | Refusal:
    outcomes = consume(draft, (command,))
    return outcomes if isinstance(outcomes, Refusal) else outcomes[0]


def _needs(needs: Needs, command: Consume, _policy: Policy) -> None:
    if command.job is not None:
        needs.jobs.add(command.job)


RULES: Final[Rules] = {
    Consume: Rule(decide=_consume_one, wallets=wallets_of, needs=_needs),
}
