"""Debts: what failed consumptions still owe, settled later or written off."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from entitlements.core.commands import Command, SettleDebt, WriteOffDebt
from entitlements.core.ledger.book import DEBTS_FIRST, DEBTS_MAX, Draft, NeedMore
from entitlements.core.ledger.posting import draw_from, post
from entitlements.core.model import Debt, GrantReason, OperationKind, WalletKey
from entitlements.core.outcomes import DebtClosed, RefusalCode, Refused

PAID_FOR = {GrantReason.PURCHASE, GrantReason.MANUAL, GrantReason.MANUAL_ADJUSTMENT}
"""Reasons of grants that settle debts by themselves where the policy says so."""


def settle(draft: Draft, command: SettleDebt) -> DebtClosed | Refused:
    """Pay a debt, whole, from its debtor's wallet."""
    debt = _debt(draft, command.debt_id)
    if debt.closed_by is not None:
        return _closed(debt)
    available = draft.wallet(debt.wallet).available
    if available < debt.owed:
        return Refused(
            code=RefusalCode.INSUFFICIENT_CREDITS,
            detail=f"{debt.owed} credits are owed, {available} are available",
            data={"required": debt.owed, "available": available},
        )
    _pay(draft, command, debt, command.id, why=command.reason)
    return _answer(draft, command, debt, how="settled")


def write_off(draft: Draft, command: WriteOffDebt) -> DebtClosed | Refused:
    """Give a debt up; no balance moves."""
    debt = _debt(draft, command.debt_id)
    if debt.closed_by is not None:
        return _closed(debt)
    post(
        draft,
        command,
        debt.wallet,
        OperationKind.WRITE_OFF,
        operation_id=command.id,
        amount=debt.owed,
        metric=debt.metric,
        reverses=debt.operation_id,
        reason=command.reason,
    )
    draft.debts[debt.operation_id] = replace(debt, closed_by=command.id)
    return _answer(draft, command, debt, how="written_off")


def settle_oldest(
    draft: Draft,
    command: Command,
    key: WalletKey,
    reason: GrantReason,
    *,
    effective_at: datetime | None = None,
) -> None:
    """Let a paid grant settle the wallet's debts, oldest first, until one is not covered.

    Raises NeedMore where credits are left for debts that were not loaded, up to `DEBTS_MAX`.
    """
    if not draft.book.policy.settle_debts or reason not in PAID_FOR:
        return
    for debt in _open_debts(draft, key):
        if debt.owed > draft.wallet(key).available:
            return
        _pay(draft, command, debt, draft.book.new_id(), why=reason, effective_at=effective_at)
    depth = max(DEBTS_FIRST, draft.book.depth.get(key, 0))
    has_more = key in draft.book.debts_until and depth < DEBTS_MAX
    if has_more and draft.wallet(key).available > 0:
        raise NeedMore(depth={key: depth * 4})


def _open_debts(draft: Draft, key: WalletKey) -> list[Debt]:
    """Oldest first; none that is younger than one that was not loaded."""
    known = {**draft.book.debts, **draft.debts}.values()
    found = [debt for debt in known if debt.wallet == key and debt.closed_by is None]
    until = draft.book.debts_until.get(key)
    if until is not None:
        found = [debt for debt in found if debt.age <= until]
    return sorted(found, key=lambda debt: debt.age)


def _pay(
    draft: Draft,
    command: Command,
    debt: Debt,
    operation_id: str,
    *,
    why: str | None,
    effective_at: datetime | None = None,
) -> None:
    drawn = draw_from(draft, debt.wallet, debt.owed)
    assert drawn.unpaid == 0, debt
    post(
        draft,
        command,
        debt.wallet,
        OperationKind.SETTLEMENT,
        operation_id=operation_id,
        delta=-debt.owed,
        amount=debt.owed,
        draws=drawn.draws,
        metric=debt.metric,
        consumed_from=debt.wallet.subject_type,
        reverses=debt.operation_id,
        reason=why,
        effective_at=effective_at,
    )
    draft.debts[debt.operation_id] = replace(debt, closed_by=operation_id)


def _debt(draft: Draft, debt_id: str) -> Debt:
    return draft.debts.get(debt_id) or draft.book.debts[debt_id]


def _closed(debt: Debt) -> Refused:
    return Refused(
        code=RefusalCode.DEBT_CLOSED,
        detail="the debt was settled or written off before",
        data={"closed_by": debt.closed_by},
    )


def _answer(
    draft: Draft, command: SettleDebt | WriteOffDebt, debt: Debt, *, how: str
) -> DebtClosed:
    return DebtClosed(
        operation_id=command.id,
        debt_id=debt.operation_id,
        how="settled" if how == "settled" else "written_off",
        credits=debt.owed,
        new_balance=draft.wallet(debt.wallet).balance,
    )
