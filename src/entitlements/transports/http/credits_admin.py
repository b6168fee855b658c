"""Routes that adjust and set balances, and that list the operations of the ledger."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import administration, ledger
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    AdjustRequest,
    AdjustResponse,
    AdjustResult,
    BulkAdjustRequest,
    BulkAdjustResponse,
    BulkSetRequest,
    BulkSetResponse,
    OperationItem,
    OperationsFilter,
    OperationsResponse,
    SetRequest,
    SetResponse,
    SetResult,
)
from entitlements.transports.http.request import (
    HttpRequest,
    Reply,
    bulk_replay_headers,
    replay_headers,
)
from entitlements.transports.http.routes import BODY_MAX, Content, Route, roles


async def adjust_balance(request: HttpRequest, body: AdjustRequest) -> Reply:
    answer = await administration.adjust(request, body)
    _count(request, answer, _kind(body))
    return Reply(answer, headers=replay_headers(answer))


async def adjust_balances(request: HttpRequest, body: BulkAdjustRequest) -> Reply:
    answer = await administration.adjust_all(request, body)
    for item, result in zip(body.items, answer.results, strict=True):
        _count(request, result, _kind(item))
    return Reply(answer, headers=bulk_replay_headers(answer.results))


async def set_balance(request: HttpRequest, body: SetRequest) -> Reply:
    answer = await administration.set_balance(request, body)
    _count(request, answer, "set")
    return Reply(answer, headers=replay_headers(answer))


async def set_balances(request: HttpRequest, body: BulkSetRequest) -> Reply:
    answer = await administration.set_balances(request, body)
    for result in answer.results:
        _count(request, result, "set")
    return Reply(answer, headers=bulk_replay_headers(answer.results))


def _kind(body: AdjustRequest) -> str:
    return "addition" if body.amount > 0 else "deduction"


def _count(
    request: HttpRequest, answer: AdjustResponse | AdjustResult | SetResponse | SetResult, kind: str
) -> None:
    """Count a change in the metrics, unless it was refused or is a replay."""
    if answer.success and not answer.replayed:
        request.metrics.adjustment(answer.subject_type, kind)


async def list_operations(request: HttpRequest, _: None) -> Reply:
    return Reply(await ledger.operations(request, request.query(OperationsFilter)))


async def show_operation(request: HttpRequest, _: None) -> Reply:
    return Reply(await ledger.operation(request, request.params["operation_id"]))


_OPERATION: Final = {
    "id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "seq": 2,
    "kind": "consume",
    "subject_type": "org",
    "subject_id": "school-1",
    "credit_type": "credits",
    "user_id": "teacher-7",
    "org_id": "school-1",
    "metric": "cj_comparison",
    "quantity": 45,
    "amount": 45,
    "delta": -45,
    "balance_after": 455,
    "owed": 0,
    "draws": [{"grant_id": "0198c1f0-0d11-7a6b-8f2e-7d9c4b5a6e31", "quantity": 45}],
    "batch_id": "batch-4711",
    "consumed_from": "org",
    "correlation_id": "batch-4711",
    "operation_status": "completed",
    "reason": None,
    "policy_version": "5f0c6b2d9a3e4f7081c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e",
    "actor": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
    "client": "grading",
    "reverses": None,
    "hold_id": None,
    "created_at": "2026-09-01T08:00:00Z",
    "effective_at": "2026-09-01T08:00:00Z",
}
_ADJUSTED: Final = {
    "success": True,
    "new_balance": 1000,
    "subject_type": "org",
    "subject_id": "school-1",
    "credit_type": "credits",
    "operation_id": _OPERATION["id"],
    "correlation_id": "support-12",
    "replayed": False,
}
_SET: Final = {
    "success": True,
    "balance": 50,
    "subject_type": "user",
    "subject_id": "teacher-7",
    "credit_type": "credits",
    "delta": 20,
    "operation_id": _OPERATION["id"],
    "correlation_id": "support-12",
    "replayed": False,
}
ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.ADJUST.path,
        handler=adjust_balance,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Grant credits, or burn them with a negative amount; never below zero.",
        request=Content(
            AdjustRequest,
            {
                "subject_type": "org",
                "subject_id": "school-1",
                "amount": 500,
                "reason": "autumn term",
            },
        ),
        responses={
            200: Content(AdjustResponse, _ADJUSTED),
        },
        problems=(429,),
    ),
    Route(
        method="POST",
        path=verbs.ADJUST_ALL.path,
        handler=adjust_balances,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Make up to 1,000 adjustments, each once; atomic: all or none.",
        request=Content(
            BulkAdjustRequest,
            {
                "items": [
                    {
                        "subject_type": "org",
                        "subject_id": "school-1",
                        "amount": 500,
                        "reason": "autumn term",
                        "idempotency_key": "autumn-school-1",
                    },
                    {
                        "subject_type": "user",
                        "subject_id": "teacher-7",
                        "amount": -20,
                        "reason": "a mistake",
                        "idempotency_key": "autumn-teacher-7",
                    },
                ]
            },
        ),
        responses={
            200: Content(
                BulkAdjustResponse,
                {
                    "success": False,
                    "results": [
                        _ADJUSTED,
                        {
                            "success": False,
                            "new_balance": None,
                            "subject_type": "user",
                            "subject_id": "teacher-7",
                            "credit_type": "credits",
                            "operation_id": None,
                            "correlation_id": "support-12",
                            "replayed": False,
                            "status": 400,
                            "code": "below_zero",
                            "detail": "20 credits cannot be taken from 5 available",
                            "data": {"required": 20, "available": 5, "held": 0},
                        },
                    ],
                    "correlation_id": "support-12",
                },
            )
        },
        problems=(429,),
        body_max=4 * BODY_MAX,
    ),
    Route(
        method="POST",
        path=verbs.SET_BALANCE.path,
        handler=set_balance,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Set a balance to a target, atomically.",
        request=Content(
            SetRequest, {"subject_type": "user", "subject_id": "teacher-7", "balance": 50}
        ),
        responses={
            200: Content(SetResponse, _SET),
        },
        problems=(429,),
    ),
    Route(
        method="POST",
        path=verbs.SET_BALANCES.path,
        handler=set_balances,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Set up to 1,000 balances to their targets; atomic: all or none.",
        request=Content(
            BulkSetRequest,
            {
                "items": [
                    {
                        "subject_type": "user",
                        "subject_id": "teacher-7",
                        "balance": 50,
                        "reason": "migration",
                        "idempotency_key": "migration-teacher-7",
                    }
                ],
                "atomic": True,
            },
        ),
        responses={
            200: Content(
                BulkSetResponse,
                {"success": True, "results": [_SET], "correlation_id": "support-12"},
            )
        },
        problems=(429,),
        body_max=4 * BODY_MAX,
    ),
    Route(
        method="GET",
        path=verbs.OPERATIONS.path,
        handler=list_operations,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List the operations of the ledger, newest first.",
        query=OperationsFilter,
        responses={
            200: Content(
                OperationsResponse,
                {
                    "operations": [_OPERATION],
                    "count": 1,
                    "next_cursor": None,
                    "since": None,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    Route(
        method="GET",
        path=verbs.OPERATION.path,
        handler=show_operation,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="Get one operation of the ledger.",
        responses={200: Content(OperationItem, _OPERATION)},
        problems=(404,),
    ),
)
