"""Routes that adjust and set balances, and that list the operations of the ledger."""

from typing import Any, Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import BULK_MAX, each, route
from entitlements.transports.http.request import HttpRequest
from entitlements.transports.http.routes import roles


def _note(request: HttpRequest, body: Any, answer: Any, _: float) -> None:
    """Count a change in the metrics, unless it was refused or is a replay."""
    if answer.success and not answer.replayed:
        kind = "set"
        if isinstance(body, http.AdjustRequest):
            kind = "addition" if body.amount > 0 else "deduction"
        request.metrics.adjustment(answer.subject_type, kind)


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
    "group_id": None,
    "usage_context": None,
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
    route(
        http.ADJUST,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Grant credits, or burn them with a negative amount; never below zero.",
        example={
            "subject_type": "org",
            "subject_id": "school-1",
            "amount": 500,
            "reason": "autumn term",
        },
        answer=_ADJUSTED,
        problems=(429,),
        note=_note,
    ),
    route(
        http.ADJUST_ALL,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Make up to 1,000 adjustments, each once; with `atomic`, all or none.",
        example={
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
        answer={
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
        problems=(429,),
        note=each(_note),
        body_max=BULK_MAX,
    ),
    route(
        http.SET_BALANCE,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Set a balance to a target, atomically.",
        example={"subject_type": "user", "subject_id": "teacher-7", "balance": 50},
        answer=_SET,
        problems=(429,),
        note=_note,
    ),
    route(
        http.SET_BALANCES,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Set up to 1,000 balances to their targets; with `atomic`, all or none.",
        example={
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
        answer={"success": True, "results": [_SET], "correlation_id": "support-12"},
        problems=(429,),
        note=each(_note),
        body_max=BULK_MAX,
    ),
    route(
        http.OPERATIONS,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List the operations of the ledger, newest first.",
        answer={
            "operations": [_OPERATION],
            "count": 1,
            "next_cursor": None,
            "since": None,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.IMPORTED_OPERATIONS,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List the operations that were imported from an older service, newest first.",
        answer={
            "operations": [
                {
                    "id": "7f9d1c52-3f0e-4d8b-9a64-0f3d2f1d8a11",
                    "subject_type": "org",
                    "subject_id": "school-1",
                    "credit_type": "credits",
                    "metric": "cj_comparison",
                    "amount": 45,
                    "batch_id": "batch-17",
                    "consumed_from": "org",
                    "correlation_id": "batch-17",
                    "operation_status": "completed",
                    "created_at": "2025-11-03T09:30:00Z",
                }
            ],
            "count": 1,
            "next_cursor": None,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.OPERATION,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="Get one operation of the ledger.",
        answer=_OPERATION,
        problems=(404,),
    ),
)
