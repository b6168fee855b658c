"""May this work run, and who would pay? Nothing is reserved or recorded."""

from collections.abc import Mapping
from time import perf_counter
from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import checks
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    BulkCheckRequest,
    BulkCheckResponse,
    CheckQuery,
    CheckRequest,
    CheckResponse,
)
from entitlements.core.check import DenialReason
from entitlements.transports.http import limit_headers
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def check(request: Request, body: CheckRequest) -> Reply:
    started = perf_counter()
    checked = await checks.check(request, body, explained=_explained(request))
    request.metrics.check(checked, perf_counter() - started)
    return Reply(checks.answer(checked), headers=limit_headers.of(checked.decision.exceeded))


async def check_bulk(request: Request, body: BulkCheckRequest) -> Reply:
    started = perf_counter()
    checked = await checks.check_all(request, body, explained=_explained(request))
    request.metrics.check(checked, perf_counter() - started)
    return Reply(
        checks.answer_all(checked, request.correlation_id),
        STATUS[checked.decision.reason],
        limit_headers.of_check(checked),
    )


def _explained(request: Request) -> bool:
    return bool(request.parameters) and request.query(CheckQuery).explain


STATUS: Final[Mapping[DenialReason | None, int]] = {
    None: 200,
    DenialReason.POLICY_DENIED: 402,
    DenialReason.RATE_LIMIT_EXCEEDED: 429,
    DenialReason.INSUFFICIENT_CREDITS: 402,
}
"""Of the check of many metrics; that of one always answers 200."""

_CALLERS: Final = roles(Role.SERVICE, Role.OPERATOR)
ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.CHECK.path,
        handler=check,
        rule=_CALLERS,
        tag="checks",
        summary="May this much of one metric be used, and who would pay?",
        request=CheckRequest,
        query=CheckQuery,
        responses={200: CheckResponse},
        example={"user_id": "teacher-7", "org_id": "school-1", "metric": "cj_comparison"},
        answer={
            "allowed": True,
            "reason": None,
            "required_credits": 1,
            "available_credits": 500,
            "source": "org",
        },
    ),
    Route(
        method="POST",
        path=verbs.CHECK_ALL.path,
        handler=check_bulk,
        rule=_CALLERS,
        tag="checks",
        summary="May all of this be used together, and who would pay for the whole of it?",
        request=BulkCheckRequest,
        query=CheckQuery,
        responses={200: BulkCheckResponse, 402: BulkCheckResponse, 429: BulkCheckResponse},
        example={
            "user_id": "teacher-7",
            "org_id": "school-1",
            "requirements": {"cj_comparison": 45, "ai_feedback_generation": 10},
            "correlation_id": "batch-4711",
        },
    ),
)
