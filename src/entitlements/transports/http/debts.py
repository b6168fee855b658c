"""Work nobody could pay: listed, settled, written off."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests.cursors import cursor_after, read_cursor
from entitlements.app.requests.naming import origin
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
from entitlements.transports.http.problems import Rejected
from entitlements.transports.http.request import Reply, Request, replay_headers
from entitlements.transports.http.routes import Handler, Route, roles


async def debts(request: Request, _: None) -> Reply:
    wanted = request.query(DebtsQuery)
    found = await request.service.records.debts(
        open_only=wanted.status == "open", limit=wanted.limit, after=read_cursor(wanted.cursor)
    )
    is_full = len(found) == wanted.limit
    return Reply(
        DebtsResponse(
            debts=[_item(debt) for debt in found],
            count=len(found),
            next_cursor=(
                cursor_after(found[-1].created_at, found[-1].operation_id) if is_full else None
            ),
            correlation_id=request.correlation_id,
        )
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


async def settle(request: Request, body: DebtRequest) -> Reply:
    return await _close(request, body, SettleDebt)


async def write_off(request: Request, body: DebtRequest) -> Reply:
    return await _close(request, body, WriteOffDebt)


async def _close(
    request: Request, body: DebtRequest, kind: type[SettleDebt | WriteOffDebt]
) -> Reply:
    debt_id = request.text("operation_id", request.params["operation_id"])
    reason = request.optional_text("reason", body.reason, at_most=1_000)
    debt = await request.service.records.debt(debt_id)
    if debt is None:
        raise Rejected("not_found", "there is no such debt")

    command = kind(
        id=request.service.new_id(),
        origin=origin(request, (), body),
        wallet=debt.wallet,
        debt_id=debt_id,
        reason=reason,
    )
    outcome = await request.submitted(command, DebtClosed)
    return Reply(
        DebtResponse(
            success=True,
            operation_id=outcome.operation_id,
            debt_id=outcome.debt_id,
            how=outcome.how,
            credits=outcome.credits,
            new_balance=outcome.new_balance,
            correlation_id=request.correlation_id,
            replayed=outcome.replayed,
        ),
        headers=replay_headers(outcome),
    )


def _closing(path: str, handler: Handler, summary: str, *problems: int) -> Route:
    return Route(
        method="POST",
        path=f"/v1/admin/credits/debts/{{operation_id}}/{path}",
        handler=handler,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary=summary,
        request=DebtRequest,
        responses={200: DebtResponse},
        problems=problems,
        example={"reason": "agreed with the school"},
    )


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/credits/debts",
        handler=debts,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="Work nobody could pay, oldest first.",
        query=DebtsQuery,
        responses={200: DebtsResponse},
    ),
    _closing("settle", settle, "Pay a debt from the debtor's wallet.", 402, 404, 409, 422),
    _closing("write-off", write_off, "Forgive a debt.", 404, 409, 422),
)
