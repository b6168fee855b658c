"""Credits moved by people, and the ledger that shows it."""

from datetime import UTC, datetime
from typing import Final

from entitlements.app.access import Role
from entitlements.app.ports import OperationsQuery
from entitlements.contracts.http import (
    AdjustRequest,
    AdjustResponse,
    DrawItem,
    OperationItem,
    OperationsFilter,
    OperationsResponse,
    SetRequest,
    SetResponse,
)
from entitlements.core.commands import Adjust, SetBalance
from entitlements.core.model import Operation, WalletKey
from entitlements.core.outcomes import Adjusted
from entitlements.transports.http.cursors import cursor_after, read_cursor
from entitlements.transports.http.idempotency import origin
from entitlements.transports.http.problems import invalid
from entitlements.transports.http.rate_limits import OperatorLimit
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles
from entitlements.transports.http.submit import replay_headers, submitted

REASON_MAX: Final = 1_000


async def adjust(request: Request, body: AdjustRequest) -> Reply:
    correlation_id = request.correlate(body.correlation_id)
    wallet = _wallet(request, body)
    if body.amount == 0:
        raise invalid("amount", "must not be 0")

    reason = _reason(request, body.reason)
    async with OperatorLimit(request) as limit:
        command = Adjust(
            id=request.service.new_id(),
            origin=origin(request, wallet, body),
            wallet=wallet,
            amount=body.amount,
            reason=reason,
            is_over_limit=limit.is_exceeded,
        )
        outcome = await submitted(request, command, Adjusted, refusal_headers=limit.headers)
        if not outcome.replayed:
            limit.count()
    if not outcome.replayed:
        request.metrics.adjustment(wallet.subject_type, "add" if body.amount > 0 else "burn")
    return Reply(
        AdjustResponse(
            success=True,
            new_balance=outcome.new_balance,
            subject_type=wallet.subject_type,
            subject_id=wallet.subject_id,
            credit_type=wallet.credit_type,
            operation_id=outcome.operation_id,
            correlation_id=correlation_id,
            replayed=outcome.replayed,
        ),
        headers=replay_headers(outcome),
    )


async def set_balance(request: Request, body: SetRequest) -> Reply:
    correlation_id = request.correlate(body.correlation_id)
    wallet = _wallet(request, body)
    reason = _reason(request, body.reason) if body.reason is not None else None
    async with OperatorLimit(request) as limit:
        command = SetBalance(
            id=request.service.new_id(),
            origin=origin(request, wallet, body),
            wallet=wallet,
            balance=body.balance,
            reason=reason,
            is_over_limit=limit.is_exceeded,
        )
        outcome = await submitted(request, command, Adjusted, refusal_headers=limit.headers)
        if not outcome.replayed:
            limit.count()
    if not outcome.replayed:
        request.metrics.adjustment(wallet.subject_type, "set")
    return Reply(
        SetResponse(
            success=True,
            balance=outcome.new_balance,
            subject_type=wallet.subject_type,
            subject_id=wallet.subject_id,
            credit_type=wallet.credit_type,
            delta=outcome.delta,
            operation_id=outcome.operation_id,
            correlation_id=correlation_id,
            replayed=outcome.replayed,
        ),
        headers=replay_headers(outcome),
    )


def _wallet(request: Request, body: AdjustRequest | SetRequest) -> WalletKey:
    subject_id = request.subject_id("subject_id", body.subject_id)
    request.ids = (subject_id, None) if body.subject_type == "user" else (None, subject_id)
    return WalletKey(body.subject_type, subject_id, request.metric("credit_type", body.credit_type))


def _reason(request: Request, given: str) -> str:
    if not given.strip():
        raise invalid("reason", "must not be blank")
    return request.text("reason", given, at_most=REASON_MAX)


async def operations(request: Request, _: None) -> Reply:
    wanted = request.query(OperationsFilter)
    found = await request.service.records.operations(
        OperationsQuery(
            subject_type=wanted.subject_type,
            subject_id=request.optional_id("subject_id", wanted.subject_id),
            correlation_id=request.optional_text("correlation_id", wanted.correlation_id),
            metric=request.optional_text("metric", wanted.metric),
            status=wanted.status,
            since=_utc("since", wanted.since),
            until=_utc("until", wanted.until),
            limit=wanted.limit,
            after=read_cursor(wanted.cursor),
        )
    )
    is_full = len(found) == wanted.limit
    return Reply(
        OperationsResponse(
            operations=[operation_item(operation) for operation in found],
            count=len(found),
            next_cursor=cursor_after(found[-1].created_at, found[-1].id) if is_full else None,
            correlation_id=request.correlation_id,
        )
    )


def _utc(field: str, at: datetime | None) -> datetime | None:
    """The same instant in UTC, which at the ends of the calendar may not exist."""
    try:
        return at.astimezone(UTC) if at is not None else None
    except OverflowError:
        raise invalid(field, "is outside the calendar") from None


def operation_item(operation: Operation) -> OperationItem:
    return OperationItem(
        id=operation.id,
        seq=operation.seq,
        kind=operation.kind,
        subject_type=operation.wallet.subject_type,
        subject_id=operation.wallet.subject_id,
        credit_type=operation.wallet.credit_type,
        user_id=operation.user_id,
        org_id=operation.org_id,
        metric=operation.metric,
        quantity=operation.quantity,
        amount=operation.amount,
        delta=operation.delta,
        balance_after=operation.balance_after,
        owed=operation.owed,
        draws=tuple(
            DrawItem(grant_id=draw.grant_id, quantity=draw.quantity) for draw in operation.draws
        ),
        batch_id=operation.batch_id,
        consumed_from=operation.consumed_from,
        correlation_id=operation.correlation_id,
        operation_status=operation.status,
        reason=operation.reason,
        policy_version=operation.policy_version,
        actor=operation.actor,
        client=operation.client,
        reverses=operation.reverses,
        hold_id=operation.hold_id,
        created_at=operation.created_at,
        effective_at=operation.effective_at,
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/admin/credits/adjust",
        handler=adjust,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Give credits, or burn them; never below zero.",
        request=AdjustRequest,
        responses={200: AdjustResponse},
        problems=(422, 429),
        example={
            "subject_type": "org",
            "subject_id": "school-1",
            "amount": 500,
            "reason": "autumn term",
        },
        answer={
            "success": True,
            "new_balance": 1000,
            "subject_type": "org",
            "subject_id": "school-1",
            "credit_type": "credits",
            "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
            "correlation_id": "support-12",
            "replayed": False,
        },
    ),
    Route(
        method="POST",
        path="/v1/admin/credits/set",
        handler=set_balance,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Bring a balance to a target, in one step.",
        request=SetRequest,
        responses={200: SetResponse},
        problems=(422, 429),
        example={"subject_type": "user", "subject_id": "teacher-7", "balance": 50},
    ),
    Route(
        method="GET",
        path="/v1/admin/credits/operations",
        handler=operations,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="The ledger, newest first.",
        query=OperationsFilter,
        responses={200: OperationsResponse},
    ),
)
