"""Routes that check whether work is allowed and who would pay; nothing is reserved or recorded."""

from collections.abc import Mapping
from time import perf_counter
from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.credits.checks import Checked
from entitlements.app.operations import checks
from entitlements.contracts import http
from entitlements.core.reasons import DenialReason
from entitlements.transports.http import limit_headers
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import LIMIT_HEADERS, Content, Route, roles


async def check(request: HttpRequest, body: http.CheckRequest) -> Reply:
    checked = await _decided(request, body)
    return Reply(checks.answer(checked), headers=limit_headers.headers(checked.decision.exceeded))


async def check_bulk(request: HttpRequest, body: http.BulkCheckRequest) -> Reply:
    checked = await _decided(request, body)
    return Reply(
        checks.answer_all(checked, request.correlation_id),
        STATUS[checked.decision.reason],
        limit_headers.headers_of_check(checked),
    )


async def _decided(
    request: HttpRequest, body: http.CheckRequest | http.BulkCheckRequest
) -> Checked:
    """Decide the check, and count it in the metrics."""
    if request.parameters:
        request.explained = request.query(http.CheckQuery).explain
    started = perf_counter()
    checked = await checks.decide(request, body)
    request.metrics.check(checked, perf_counter() - started)
    return checked


STATUS: Final[Mapping[DenialReason | None, int]] = {
    None: 200,
    DenialReason.POLICY_DENIED: 402,
    DenialReason.RATE_LIMIT_EXCEEDED: 429,
    DenialReason.INSUFFICIENT_CREDITS: 402,
}
"""The statuses of the bulk check; the check of one metric always returns 200."""

_PER_METRIC: Final = {
    "cj_comparison": {
        "required": 45,
        "available": 500,
        "allowed": True,
        "source": "org",
        "reason": None,
    },
    "ai_feedback_generation": {
        "required": 50,
        "available": 500,
        "allowed": True,
        "source": "org",
        "reason": None,
    },
}
_UNPAID: Final = {
    name: {
        **part,
        "available": 50,
        "allowed": False,
        "source": None,
        "reason": "insufficient_credits",
    }
    for name, part in _PER_METRIC.items()
}
BULK_ALLOWED: Final = {
    "allowed": True,
    "required_credits": 95,
    "available_credits": 500,
    "per_metric": _PER_METRIC,
    "denial_reason": None,
    "correlation_id": "batch-4711",
    "by_credit_type": {"credits": {"required": 95, "org": 500, "user": 50}},
}
BULK_UNPAID: Final = {
    **BULK_ALLOWED,
    "allowed": False,
    "available_credits": 50,
    "per_metric": _UNPAID,
    "denial_reason": "insufficient_credits",
    "by_credit_type": {"credits": {"required": 95, "org": 80, "user": 50}},
    "balances": {"org": 80, "user": 50},
    "candidates": {
        "org": {"balance": 80, "held": 0, "available": 80, "missing": 15},
        "user": {"balance": 50, "held": 0, "available": 50, "missing": 45},
    },
    "missing_credits": 15,
}
BULK_LIMITED: Final = {
    **BULK_ALLOWED,
    "allowed": False,
    "available_credits": 0,
    "per_metric": {
        "cj_comparison": {
            "required": 45,
            "available": 0,
            "allowed": False,
            "source": None,
            "reason": "rate_limit_exceeded",
        },
        "ai_feedback_generation": {
            "required": 50,
            "available": 0,
            "allowed": True,
            "source": None,
            "reason": None,
        },
    },
    "denial_reason": "rate_limit_exceeded",
    "limits": [
        {
            "metric": "cj_comparison",
            "per": "org",
            "limit": 1000,
            "window_seconds": 86_400,
            "used": 980,
            "remaining": 20,
            "passes_in_seconds": 1260,
        }
    ],
}
_CALLERS: Final = roles(Role.SERVICE, Role.OPERATOR)
ROUTES: Final = (
    Route(
        method="POST",
        path=http.CHECK.path,
        handler=check,
        rule=_CALLERS,
        tag="checks",
        summary="Check whether units of one metric are allowed, and who would pay.",
        request=Content(
            http.CheckRequest,
            {"user_id": "teacher-7", "org_id": "school-1", "metric": "cj_comparison"},
        ),
        query=http.CheckQuery,
        responses={
            200: Content(
                http.CheckResponse,
                {
                    "allowed": True,
                    "reason": None,
                    "required_credits": 1,
                    "available_credits": 500,
                    "source": "org",
                },
                headers=LIMIT_HEADERS,
            )
        },
    ),
    Route(
        method="POST",
        path=http.CHECK_ALL.path,
        handler=check_bulk,
        rule=_CALLERS,
        tag="checks",
        summary="Check whether units of several metrics are allowed together, and who would pay.",
        request=Content(
            http.BulkCheckRequest,
            {
                "user_id": "teacher-7",
                "org_id": "school-1",
                "requirements": {"cj_comparison": 45, "ai_feedback_generation": 10},
                "correlation_id": "batch-4711",
            },
        ),
        query=http.CheckQuery,
        responses={
            200: Content(http.BulkCheckResponse, BULK_ALLOWED),
            402: Content(http.BulkCheckResponse, BULK_UNPAID),
            429: Content(http.BulkCheckResponse, BULK_LIMITED),
        },
    ),
)
