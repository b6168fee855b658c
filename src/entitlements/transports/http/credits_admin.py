"""Credits moved by people, and the ledger that shows it."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import administration, ledger
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    AdjustRequest,
    AdjustResponse,
    OperationItem,
    OperationsFilter,
    OperationsResponse,
    SetRequest,
    SetResponse,
)
from entitlements.transports.http.request import Reply, Request, replay_headers
from entitlements.transports.http.routes import Route, roles


async def adjust(request: Request, body: AdjustRequest) -> Reply:
    answer = await administration.adjust(request, body)
    if not answer.replayed:
        request.metrics.adjustment(answer.subject_type, "add" if body.amount > 0 else "burn")
    return Reply(answer, headers=replay_headers(answer))


async def set_balance(request: Request, body: SetRequest) -> Reply:
    answer = await administration.set_balance(request, body)
    if not answer.replayed:
        request.metrics.adjustment(answer.subject_type, "set")
    return Reply(answer, headers=replay_headers(answer))


async def operations(request: Request, _: None) -> Reply:
    return Reply(await ledger.operations(request, request.query(OperationsFilter)))


async def operation(request: Request, _: None) -> Reply:
    return Reply(await ledger.operation(request, request.params["operation_id"]))


ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.ADJUST.path,
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
        path=verbs.SET_BALANCE.path,
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
        path=verbs.OPERATIONS.path,
        handler=operations,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="The ledger, newest first.",
        query=OperationsFilter,
        responses={200: OperationsResponse},
    ),
    Route(
        method="GET",
        path=verbs.OPERATION.path,
        handler=operation,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="One operation of the ledger.",
        responses={200: OperationItem},
        problems=(404,),
    ),
)
