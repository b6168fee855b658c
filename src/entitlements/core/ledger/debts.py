"""Debts of failed consumptions: settled later, in full or in parts, or written off."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from msgspec.structs import replace

from entitlements.core.commands import Adjust, Command, CreateGrant, SettleDebt, WriteOffDebt
from entitlements.core.ledger.book import DEBTS_FIRST, DEBTS_MAX, Draft, NeedMore, Needs
from entitlements.core.ledger.posting import draw_from, post
from entitlements.core.ledger.rule import Audit, Rule, Rules, its_wallet
from entitlements.core.model import Debt, WalletKey
from entitlements.core.outcomes import DebtClosed, Refusal
from entitlements.core.policy import Policy
from entitlements.core.reasons import GrantReason, OperationKind, RefusalCode

PAID_FOR = {GrantReason.PURCHASE, GrantReason.MANUAL, GrantReason.MANUAL_ADJUSTMENT}
"""Reasons of grants that settle debts automatically if the policy has ``settle_debts``."""


def settle(draft: Draft, command: SettleDebt) -> DebtClosed | Refusal:
    """Pay a debt from the debtor's wallet: as much as is available, or ``amount``.

    It never pays more than is owed.
    """
    debt = draft.debt(command.debt_id)
    if debt is None or debt.is_unpriced:
        return Refusal(code=RefusalCode.UNPRICED, detail="the work has no price yet")
    if debt.closed_by is not None:
        return closed(debt)
    available = draft.wallet(debt.wallet).available
    wanted = min(debt.still_owed, command.amount or debt.still_owed)
    part = wanted if command.amount is not None else min(wanted, available)
    if part <= 0 or available < part:
        return Refusal(
            code=RefusalCode.INSUFFICIENT_CREDITS,
            detail=f"{debt.owed} credits are owed, {available} are available",
            data={"required": wanted, "available": available},
        )
    left = _pay(draft, command, debt, part, command.id, why=command.reason)
    return _answer(draft, command, debt, how="settled", credits=part, owed=left)


def write_off(draft: Draft, command: WriteOffDebt) -> DebtClosed | Refusal:
    """Write off a debt, with or without a price; no balance changes."""
    debt = draft.debt(command.debt_id)
    if debt is None:
        return Refusal(code=RefusalCode.PRICED, detail="the work has just been priced")
    if debt.closed_by is not None:
        return closed(debt)
    post(
        draft,
        command,
        debt.wallet,
        OperationKind.WRITE_OFF,
        operation_id=command.id,
        amount=debt.still_owed,
        metric=debt.metric,
        reverses=debt.operation_id,
        reason=command.reason,
    )
    draft.debts[debt.operation_id] = replace(debt, closed_by=command.id)
    return _answer(draft, command, debt, how="written_off", credits=debt.still_owed)


def settle_oldest(
    draft: Draft,
    command: Command,
    key: WalletKey,
    reason: GrantReason,
    *,
    effective_at: datetime | None = None,
) -> None:
    """Settle the wallet's debts after a paid grant, oldest first, the last one possibly in part.

    Raise NeedMore if credits are left for debts that were not loaded, up to `DEBTS_MAX`.
    """
    if not draft.book.policy.settle_debts or reason not in PAID_FOR:
        return
    for debt in _open_debts(draft, key):
        part = min(debt.still_owed, draft.wallet(key).available)
        if part <= 0:
            return
        _pay(draft, command, debt, part, draft.book.new_id(), why=reason, effective_at=effective_at)
    depth = max(DEBTS_FIRST, draft.book.depth.get(key, 0))
    has_more = key in draft.book.debts_until and depth < DEBTS_MAX
    if has_more and draft.wallet(key).available > 0:
        raise NeedMore(depth={key: depth * 4})


def _open_debts(draft: Draft, key: WalletKey) -> list[Debt]:
    """Return the open debts, oldest first, without any that is younger than an unloaded one."""
    known = {**draft.book.debts, **draft.debts}.values()
    found = [debt for debt in known if debt.wallet == key and debt.still_owed]
    until = draft.book.debts_until.get(key)
    if until is not None:
        found = [debt for debt in found if debt.age <= until]
    return sorted(found, key=lambda debt: debt.age)


def _pay(
    draft: Draft,
    command: Command,
    debt: Debt,
    credits: int,
    operation_id: str,
    *,
    why: str | None,
    effective_at: datetime | None = None,
) -> int:
    """Pay a part of the debt and return the rest."""
    drawn = draw_from(draft, debt.wallet, credits)
    assert drawn.unpaid == 0, debt
    post(
        draft,
        command,
        debt.wallet,
        OperationKind.SETTLEMENT,
        operation_id=operation_id,
        delta=drawn.uncounted - credits,
        amount=credits,
        draws=drawn.draws,
        metric=debt.metric,
        consumed_from=debt.wallet.subject_type,
        reverses=debt.operation_id,
        reason=why,
        effective_at=effective_at,
    )
    left = debt.still_owed - credits
    if left:
        draft.debts[debt.operation_id] = replace(debt, owed=left)
    else:
        draft.debts[debt.operation_id] = replace(debt, owed=credits, closed_by=operation_id)
    return left


def closed(debt: Debt) -> Refusal:
    return Refusal(
        code=RefusalCode.DEBT_CLOSED,
        detail="the debt is already settled or written off",
        data={"closed_by": debt.closed_by},
    )


def _answer(
    draft: Draft,
    command: SettleDebt | WriteOffDebt,
    debt: Debt,
    *,
    how: Literal["settled", "written_off"],
    credits: int,
    owed: int = 0,
) -> DebtClosed:
    return DebtClosed(
        operation_id=command.id,
        debt_id=debt.operation_id,
        how=how,
        credits=credits,
        owed=owed,
        new_balance=draft.wallet(debt.wallet).balance,
    )


def add_oldest_debts(needs: Needs, command: CreateGrant | Adjust, policy: Policy) -> None:
    """Add the debts that `settle_oldest` can settle."""
    if policy.settle_debts:
        needs.oldest_debts.add(command.wallet)


def _needs(needs: Needs, command: SettleDebt | WriteOffDebt, _policy: Policy) -> None:
    needs.debts.add((command.wallet, command.debt_id))


RULES: Final[Rules] = {
    SettleDebt: Rule(
        decide=settle,
        wallets=its_wallet,
        needs=_needs,
        audit=Audit("debt.settle", ("amount", "debt_id")),
    ),
    WriteOffDebt: Rule(
        decide=write_off,
        wallets=its_wallet,
        needs=_needs,
        audit=Audit("debt.write_off", ("debt_id",)),
    ),
}
