"""Debts, work that nobody could pay: list, price, settle, write off."""

from entitlements.app.operations.cursors import cursor_text, read_cursor
from entitlements.app.operations.naming import origin
from entitlements.app.operations.request import Request
from entitlements.contracts import errors
from entitlements.contracts.http import (
    DebtItem,
    DebtPricedResponse,
    DebtRequest,
    DebtResponse,
    DebtsQuery,
    DebtsResponse,
    SettleDebtRequest,
)
from entitlements.core.commands import PriceDebt, SettleDebt, WriteOffDebt
from entitlements.core.model import Debt
from entitlements.core.outcomes import DebtClosed, DebtPriced


async def debts(request: Request, wanted: DebtsQuery) -> DebtsResponse:
    found = await request.engine.store.records.debts(
        open_only=wanted.status == "open", limit=wanted.limit, after=read_cursor(wanted.cursor)
    )
    return DebtsResponse(
        debts=[_item(debt) for debt in found.rows],
        count=len(found.rows),
        next_cursor=cursor_text(found.next),
        correlation_id=request.correlation_id,
    )


def _item(debt: Debt) -> DebtItem:
    return DebtItem(
        operation_id=debt.operation_id,
        subject_type=debt.wallet.subject_type,
        subject_id=debt.wallet.subject_id,
        credit_type=debt.wallet.credit_type,
        metric=debt.metric,
        owed=None if debt.is_unpriced else debt.still_owed,
        created_at=debt.created_at,
        closed_by=debt.closed_by,
    )


async def settle(request: Request, operation_id: str, body: SettleDebtRequest) -> DebtResponse:
    """Pay the debt from the debtor's wallet, up to ``amount`` or the available credits."""
    debt = await _debt(request, operation_id)
    command = SettleDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        wallet=debt.wallet,
        debt_id=debt.operation_id,
        amount=body.amount,
        reason=body.reason,
    )
    return await _close(request, command)


async def write_off(request: Request, operation_id: str, body: DebtRequest) -> DebtResponse:
    debt = await _debt(request, operation_id)
    command = WriteOffDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        wallet=debt.wallet,
        debt_id=debt.operation_id,
        reason=body.reason,
    )
    return await _close(request, command)


async def price(request: Request, operation_id: str, body: DebtRequest) -> DebtPricedResponse:
    """Charge work that was filed without a price, by the active policy."""
    debt = await _debt(request, operation_id)
    operation = await request.engine.store.records.operation(debt.operation_id)
    assert operation is not None, debt
    request.ids = (operation.user_id, operation.org_id)
    command = PriceDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        operation=operation,
        reason=body.reason,
    )
    outcome = await request.submitted(command, DebtPriced)
    return DebtPricedResponse(
        success=not outcome.owed,
        operation_id=outcome.operation_id,
        debt_id=outcome.debt_id,
        credit_type=outcome.credit_type,
        credits=outcome.credits,
        owed=outcome.owed,
        consumed_from=outcome.consumed_from,
        new_balance=outcome.new_balance,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )


async def _debt(request: Request, operation_id: str) -> Debt:
    debt = await request.engine.store.records.debt(operation_id)
    if debt is None:
        raise errors.NotFound("not_found", "no such debt")
    return debt


async def _close(request: Request, command: SettleDebt | WriteOffDebt) -> DebtResponse:
    outcome = await request.submitted(command, DebtClosed)
    return DebtResponse(
        success=True,
        operation_id=outcome.operation_id,
        debt_id=outcome.debt_id,
        how=outcome.how,
        credits=outcome.credits,
        owed=outcome.owed,
        new_balance=outcome.new_balance,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )
