"""Work nobody could pay: listed, settled, written off."""

from entitlements.app.requests.cursors import cursor_text, read_cursor
from entitlements.app.requests.naming import origin
from entitlements.app.requests.request import Request
from entitlements.contracts import errors
from entitlements.contracts.http import (
    DebtItem,
    DebtRequest,
    DebtResponse,
    DebtsQuery,
    DebtsResponse,
)
from entitlements.core.commands import SettleDebt, WriteOffDebt
from entitlements.core.model import Debt
from entitlements.core.outcomes import DebtClosed


async def debts(request: Request, wanted: DebtsQuery) -> DebtsResponse:
    found = await request.desk.records.debts(
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
        owed=debt.owed,
        created_at=debt.created_at,
        closed_by=debt.closed_by,
    )


async def settle(request: Request, operation_id: str, body: DebtRequest) -> DebtResponse:
    """Paid from the debtor's wallet, whole."""
    return await _close(request, operation_id, body, SettleDebt)


async def write_off(request: Request, operation_id: str, body: DebtRequest) -> DebtResponse:
    return await _close(request, operation_id, body, WriteOffDebt)


async def _close(
    request: Request, operation_id: str, body: DebtRequest, kind: type[SettleDebt | WriteOffDebt]
) -> DebtResponse:
    debt_id = request.text("operation_id", operation_id)
    reason = request.optional_reason(body.reason)
    debt = await request.desk.records.debt(debt_id)
    if debt is None:
        raise errors.NotFound("not_found", "there is no such debt")

    command = kind(
        id=request.desk.new_id(),
        origin=origin(request, (), body),
        wallet=debt.wallet,
        debt_id=debt_id,
        reason=reason,
    )
    outcome = await request.submitted(command, DebtClosed)
    return DebtResponse(
        success=True,
        operation_id=outcome.operation_id,
        debt_id=outcome.debt_id,
        how=outcome.how,
        credits=outcome.credits,
        new_balance=outcome.new_balance,
        correlation_id=request.correlation_id,
        replayed=outcome.replayed,
    )
