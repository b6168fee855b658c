"""Reads of the ledger."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from entitlements.app.operations.cursors import cursor_text, read_cursor, read_foreign_cursor
from entitlements.app.operations.request import Request, UseCases
from entitlements.app.ports import (
    ImportedOperation,
    ImportedOperationsQuery,
    OperationsQuery,
)
from entitlements.contracts import http
from entitlements.contracts.errors import NotFound
from entitlements.core.model import Operation

WINDOW: Final = timedelta(days=31)
"""How far a listing looks back if none of its filters has an index."""
_DIRECT: Final = ("subject_id", "correlation_id", "key", "hold_id", "group_id")
_SCANNING: Final = ("subject_type", "metric", "status", "kind", "user_id", "org_id", "batch_id")


async def operations(request: Request, wanted: http.OperationsFilter) -> http.OperationsResponse:
    query = within_window(
        OperationsQuery(
            subject_type=wanted.subject_type,
            subject_id=wanted.subject_id,
            correlation_id=wanted.correlation_id,
            key=wanted.key,
            hold_id=wanted.hold_id,
            group_id=wanted.group_id,
            metric=wanted.metric,
            status=wanted.status,
            kind=wanted.kind,
            user_id=wanted.user_id,
            org_id=wanted.org_id,
            batch_id=wanted.batch_id,
            since=wanted.since,
            until=wanted.until,
            limit=wanted.limit,
            after=read_cursor(wanted.cursor),
        ),
        request.engine.clock,
    )
    found = await request.engine.store.reads.operations(query)
    return http.OperationsResponse(
        operations=[operation_item(operation) for operation in found.rows],
        count=len(found.rows),
        next_cursor=cursor_text(found.next),
        since=query.since,
        correlation_id=request.correlation_id,
    )


async def operation(request: Request, _: None) -> http.OperationItem:
    """Return the operation. Raises NotFound."""
    return operation_item(await found_operation(request))


async def found_operation(request: Request) -> Operation:
    """Return the operation that the path names. Raises NotFound."""
    found = await request.engine.store.reads.operation(request.params["operation_id"])
    if found is None:
        raise NotFound("not_found", "no such operation")
    request.ids = (found.user_id, found.org_id)
    return found


def within_window(query: OperationsQuery, clock: Callable[[], datetime]) -> OperationsQuery:
    """Limit the query to `WINDOW` before its end if none of its filters has an index. Failed
    operations have one.
    """
    given = {name for name in query.__struct_fields__ if getattr(query, name) is not None}
    has_index = query.status == "failed" or not given.isdisjoint(_DIRECT)
    if "since" in given or has_index or given.isdisjoint(_SCANNING):
        return query
    return replace(query, since=_earlier(query.until or clock(), WINDOW))


def _earlier(at: datetime, span: timedelta) -> datetime:
    """Return the time ``span`` before ``at``, or the start of the calendar."""
    return max(at, datetime.min.replace(tzinfo=UTC) + span) - span


def operation_item(operation: Operation) -> http.OperationItem:
    return http.OperationItem(
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
            http.DrawItem(grant_id=draw.grant_id, quantity=draw.quantity)
            for draw in operation.draws
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
        group_id=operation.group_id,
        usage_context=msgspec.json.decode(operation.context) if operation.context else None,
        created_at=operation.created_at,
        effective_at=operation.effective_at,
    )


async def imported_operations(
    request: Request, wanted: http.ImportedOperationsFilter
) -> http.ImportedOperationsResponse:
    """Return the history of an older service."""
    query = ImportedOperationsQuery(
        subject_type=wanted.subject_type,
        subject_id=wanted.subject_id,
        correlation_id=wanted.correlation_id,
        metric=wanted.metric,
        status=wanted.status,
        batch_id=wanted.batch_id,
        since=wanted.since,
        until=wanted.until,
        limit=wanted.limit,
        after=read_foreign_cursor(wanted.cursor),
    )
    found = await request.engine.store.imports.operations(query)
    return http.ImportedOperationsResponse(
        operations=[imported_item(operation) for operation in found.rows],
        count=len(found.rows),
        next_cursor=cursor_text(found.next),
        correlation_id=request.correlation_id,
    )


def imported_item(operation: ImportedOperation) -> http.ImportedOperationItem:
    return http.ImportedOperationItem(
        id=operation.id,
        subject_type=operation.subject.type,
        subject_id=operation.subject.id,
        credit_type=operation.credit_type,
        metric=operation.metric,
        amount=operation.amount,
        batch_id=operation.batch_id,
        consumed_from=operation.consumed_from,
        correlation_id=operation.correlation_id,
        operation_status=operation.status,
        created_at=operation.created_at,
    )


USE_CASES: Final[UseCases] = {
    http.OPERATIONS: operations,
    http.OPERATION: operation,
    http.IMPORTED_OPERATIONS: imported_operations,
}
