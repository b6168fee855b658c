"""Debts, work that nobody could pay: list, price, settle, write off."""

from typing import Final

from entitlements.app.operations.cursors import cursor_text, read_cursor
from entitlements.app.operations.naming import origin
from entitlements.app.operations.request import Request, UseCases
from entitlements.contracts import errors, http
from entitlements.core.commands import PriceDebt, SettleDebt, WriteOffDebt
from entitlements.core.model import Debt
from entitlements.core.outcomes import DebtClosed, DebtPriced


async def debts(request: Request, wanted: http.DebtsQuery) -> http.DebtsResponse:
    found = await request.engine.store.reads.debts(
        open_only=wanted.status == "open", limit=wanted.limit, after=read_cursor(wanted.cursor)
    )
    return http.DebtsResponse(
        debts=[_item(debt) for debt in found.rows],
        count=len(found.rows),
        next_cursor=cursor_text(found.next),
        correlation_id=request.correlation_id,
    )


def _item(debt: Debt) -> http.DebtItem:
    return http.DebtItem(
        operation_id=debt.operation_id,
        subject_type=debt.wallet.subject_type,
        subject_id=debt.wallet.subject_id,
        credit_type=debt.wallet.credit_type,
        metric=debt.metric,
        owed=None if debt.is_unpriced else debt.still_owed,
        created_at=debt.created_at,
        closed_by=debt.closed_by,
    )


async def settle(request: Request, body: http.SettleDebtRequest) -> http.DebtResponse:
    """Pay the debt from the debtor's wallet, up to ``amount`` or the available credits."""
    debt = await _debt(request)
    command = SettleDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        wallet=debt.wallet,
        debt_id=debt.operation_id,
        amount=body.amount,
        reason=body.reason,
    )
    return await _close(request, command)


async def write_off(request: Request, body: http.DebtRequest) -> http.DebtResponse:
    debt = await _debt(request)
    command = WriteOffDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        wallet=debt.wallet,
        debt_id=debt.operation_id,
        reason=body.reason,
    )
    return await _close(request, command)


async def price(request: Request, body: http.DebtRequest) -> http.DebtPricedResponse:
    """Charge work that was filed without a price, by the active policy."""
    debt = await _debt(request)
    operation = await request.engine.store.reads.operation(debt.operation_id)
    assert operation is not None, debt
    request.ids = (operation.user_id, operation.org_id)
    command = PriceDebt(
        id=request.engine.new_id(),
        origin=origin(request, ()),
        operation=operation,
        reason=body.reason,
    )
    outcome = await request.submitted(command, DebtPriced)
    return http.DebtPricedResponse(
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


async def _debt(request: Request) -> Debt:
    debt = await request.engine.store.reads.debt(request.params["operation_id"])
    if debt is None:
        raise errors.NotFound("not_found", "no such debt")
    return debt


async def _close(request: Request, command: SettleDebt | WriteOffDebt) -> http.DebtResponse:
    outcome = await request.submitted(command, DebtClosed)
    return http.DebtResponse(
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


USE_CASES: Final[UseCases] = {
    http.DEBTS: debts,
    http.SETTLE_DEBT: settle,
    http.WRITE_OFF_DEBT: write_off,
    http.PRICE_DEBT: price,
}
