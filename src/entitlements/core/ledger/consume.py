"""Consumption of finished work: priced, attributed and drawn, or recorded as a shortfall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypedDict, Unpack

from msgspec.structs import replace

from entitlements.core.allowances import allowance_wallets
from entitlements.core.attribution import (
    Available,
    Shares,
    candidates,
    payer,
    root_subject,
    shares,
    shortage,
    take_from,
    whole,
    within,
)
from entitlements.core.burndown import Draws
from entitlements.core.commands import Command, Consume
from entitlements.core.ledger.allowances import (
    Split,
    draw_allowances,
    live_allowances,
    post_allowances,
)
from entitlements.core.ledger.book import Draft, Needs
from entitlements.core.ledger.members import add_member, count_draw, is_member, org_most
from entitlements.core.ledger.posting import draw_from, overdraw, post
from entitlements.core.ledger.rule import Rule, Rules, Wallets
from entitlements.core.model import Debt, Operation, Subject, WalletKey
from entitlements.core.outcomes import Consumed, Part, Refusal
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
    group_id: str | None
    member_month: str | None


class Line(NamedTuple):
    """An item with what allowances pay of it; ``cost`` is the price of the rest, if it has one."""

    item: Consume
    split: Split
    cost: Price | None


Group = tuple[str, str | None]
"""(user id, org id). The payers of a group are chosen for all its items together."""


def wallets_of(command: Consume, policy: Policy) -> Wallets:
    """Return every wallet that the consumption can touch, whichever candidate pays."""
    credit_type = credit_type_of(policy, command.metric)
    subjects = {Subject("user", command.user_id), root_subject(command.user_id, command.org_id)}
    wallets = {wallet_of(subject, credit_type) for subject in subjects}
    if command.metric in policy.allowances:
        wallets.update(allowance_wallets(policy, command.metric, command.user_id, command.org_id))
    return wallets


def consume(draft: Draft, items: Sequence[Consume]) -> list[Consumed] | Refusal:
    """Charge all items, or record what each owes.

    Allowances pay first, in any case. If the rest of one item is not covered or its metric is
    unknown, no item is charged. Free items are recorded in any case.
    """
    try:
        lines = [line_of(draft, item) for item in items]
        required = _required(lines)
    except AmountTooLarge as error:
        return Refusal(code=RefusalCode.AMOUNT_TOO_LARGE, detail=str(error))
    paid, reason = None, DenialReason.POLICY_DENIED
    if None not in [line.cost for line in lines]:
        paid, reason = _payers(draft, required), DenialReason.INSUFFICIENT_CREDITS
    return [_file(draft, line, paid, reason) for line in lines]


def line_of(draft: Draft, item: Consume) -> Line:
    """Draw from allowances, and price the rest. Raise AmountTooLarge, NeedMore."""
    policy, metric = draft.book.policy, item.metric
    split = Split((), bounded(item.units))
    if metric in policy.allowances and price(policy, metric, 0) is not None:
        keys = live_allowances(draft, metric, item.user_id, item.org_id)
        split = draw_allowances(draft, keys, item.units)
    return Line(item, split, price(policy, metric, split.rest))


def _file(
    draft: Draft, line: Line, paid: dict[Group, Shares] | None, reason: DenialReason
) -> Consumed:
    """Write the line's operations; without ``paid``, lines with a cost fail."""
    item, cost = line.item, line.cost
    if cost is None:
        wallet = wallet_of(debtor(draft, item.user_id, item.org_id), DEFAULT_CREDIT_TYPE)
        return _failed(draft, line, wallet, reason=DenialReason.POLICY_DENIED)
    if cost.credits and paid is None:
        wallet = wallet_of(debtor(draft, item.user_id, item.org_id), cost.credit_type)
        return _failed(draft, line, wallet, reason=reason, owed=cost.credits)
    parts = {Subject("user", item.user_id): 0}
    if cost.credits and paid is not None:
        parts = take_from(paid[item.user_id, item.org_id][cost.credit_type], cost.credits)
    covered = line.split.paid
    made = charge_all(draft, item, cost.credit_type, parts, is_grouped=bool(covered))
    if covered:
        post_allowances(draft, item, made[0], covered)
    return Consumed(
        operation_id=made[0].id,
        success=True,
        new_balance=made[0].balance_after,
        consumed_from=made[0].consumed_from,
        credits=cost.credits,
        status=made[0].status,
        allowance_units=line.item.units - line.split.rest,
        parts=tuple(map(_part, made)) if len(made) > 1 else (),
    )


def _part(made: Operation) -> Part:
    subject = made.wallet.subject
    return Part(
        operation_id=made.id,
        subject_type=subject.type,
        subject_id=subject.id,
        credits=made.amount,
        new_balance=made.balance_after,
    )


def _required(lines: Sequence[Line]) -> dict[Group, dict[str, int]]:
    """Return the credits to charge each group, by type; groups of free items are left out."""
    required: dict[Group, dict[str, int]] = {}
    for item, _, cost in lines:
        if cost is not None and cost.credits:
            sums = required.setdefault((item.user_id, item.org_id), {})
            sums[cost.credit_type] = bounded(sums.get(cost.credit_type, 0) + cost.credits)
    return required


def _payers(draft: Draft, required: dict[Group, dict[str, int]]) -> dict[Group, Shares] | None:
    """Return the shares of each group, or None if a group is not covered.

    Groups are tried in order; each sees the credits that the earlier groups leave.
    """
    policy = draft.book.policy
    promised: dict[WalletKey, int] = {}
    payers: dict[Group, Shares] = {}

    def available(subject: Subject, credit_type: str) -> int:
        key = wallet_of(subject, credit_type)
        return draft.wallet(key).available - promised.get(key, 0)

    for group, credits in required.items():
        order = candidates(policy.attribution, *group)
        paid = shares_under(policy, order, credits, available, org_most(draft, *group))
        if paid is None:
            return None
        payers[group] = paid
        for credit_type, parts in paid.items():
            for subject, amount in parts.items():
                wallet = wallet_of(subject, credit_type)
                promised[wallet] = promised.get(wallet, 0) + amount
    return payers


def shares_under(
    policy: Policy,
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Available,
    most: int | None,
) -> Shares | None:
    """Return each payer's share, with an overdraft of one candidate if the policy allows it.

    ``most`` is the result of `org_most`.
    """
    paid = shares(policy.attribution, order, required, available, most)
    if paid is None and policy.shortfall is ShortfallRule.OVERDRAFT:
        floor = policy.overdraft_limit
        subject = payer(
            within(order, required, most), required, lambda *key: available(*key) + floor
        )
        return whole(subject, required) if subject is not None else None
    return paid


def debtor(draft: Draft, user_id: str, org_id: str | None) -> Subject:
    """Return the debtor of work that no payer covers: the org, if the user is its member."""
    if not is_member(draft, user_id, org_id):
        return Subject("user", user_id)
    return root_subject(user_id, org_id)


def wallet_of(subject: Subject, credit_type: str) -> WalletKey:
    return WalletKey(subject.type, subject.id, credit_type)


def charge_all(
    draft: Draft,
    work: Work,
    credit_type: str,
    parts: Mapping[Subject, int],
    *,
    is_grouped: bool,
    **noted: Unpack[Noted],
) -> list[Operation]:
    """Charge each subject its part; there is at least one, of 0 credits if the work is free.

    The first operation has the work's id and quantity; the others are in its group. With
    ``is_grouped`` there are still others to write.
    """
    if is_grouped or len(parts) > 1:
        noted["group_id"] = work.id
    made: list[Operation] = []
    for subject, credits in parts.items():
        made.append(
            charge(
                draft,
                replace(work, id=draft.book.new_id(), units=0) if made else work,
                wallet_of(subject, credit_type),
                credits,
                consumed_from=subject.type if credits else "none",
                **noted,
            )
        )
    return made


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
    if "member_month" not in noted:
        noted["member_month"] = count_draw(draft, wallet, work.user_id, credits)
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
    draft: Draft, line: Line, wallet: WalletKey, *, reason: DenialReason, owed: int = 0
) -> Consumed:
    command, paid = line.item, line.split.paid
    group_id = command.id if paid else None
    operation = file_failed(draft, command, wallet, reason=reason, owed=owed, group_id=group_id)
    post_allowances(draft, command, operation, paid)
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
        allowance_units=line.item.units - line.split.rest,
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


def add_rows(needs: Needs, command: Consume, policy: Policy) -> None:
    """Add the rows that a consumption needs other than its wallets."""
    add_member(needs, policy, command.user_id, command.org_id)
    if command.job is not None:
        needs.jobs.add(command.job)


RULES: Final[Rules] = {
    Consume: Rule(decide=_consume_one, wallets=wallets_of, needs=add_rows),
}
