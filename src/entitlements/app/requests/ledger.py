"""The ledger as it is told."""

from datetime import UTC, datetime

from entitlements.app.ports import OperationsQuery
from entitlements.app.requests.cursors import cursor_after, read_cursor
from entitlements.app.requests.request import Request
from entitlements.contracts.errors import invalid
from entitlements.contracts.http import (
    DrawItem,
    OperationItem,
    OperationsFilter,
    OperationsResponse,
)
from entitlements.core.model import Operation


async def operations(request: Request, wanted: OperationsFilter) -> OperationsResponse:
    found = await request.desk.records.operations(
        OperationsQuery(
            subject_type=wanted.subject_type,
            subject_id=request.optional_id("subject_id", wanted.subject_id),
            correlation_id=request.optional_text("correlation_id", wanted.correlation_id),
            metric=request.optional_text("metric", wanted.metric),
            status=wanted.status,
            since=utc("since", wanted.since),
            until=utc("until", wanted.until),
            limit=wanted.limit,
            after=read_cursor(wanted.cursor),
        )
    )
    is_full = len(found) == wanted.limit
    return OperationsResponse(
        operations=[operation_item(operation) for operation in found],
        count=len(found),
        next_cursor=cursor_after(found[-1].created_at, found[-1].id) if is_full else None,
        correlation_id=request.correlation_id,
    )


def utc(field: str, at: datetime | None) -> datetime | None:
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
