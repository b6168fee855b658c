"""May this work run, and who would pay? Nothing is reserved or recorded."""

from collections.abc import Mapping
from time import perf_counter
from typing import Final

from msgspec import UNSET

from entitlements.app.access import Role
from entitlements.app.checks import Checked
from entitlements.contracts.http import (
    AvailableBalances,
    BulkCheckRequest,
    BulkCheckResponse,
    CheckQuery,
    CheckRequest,
    CheckResponse,
    CreditTypeNeed,
    MetricDecision,
)
from entitlements.core.check import DenialReason, MetricLine
from entitlements.transports.http.explanations import item
from entitlements.transports.http.rate_limits import headers, standings
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def check(request: Request, body: CheckRequest) -> Reply:
    metric = request.metric("metric", body.metric)
    checked = await _checked(request, body, {metric: body.amount})
    decision = checked.decision
    return Reply(
        CheckResponse(
            allowed=decision.allowed,
            reason=decision.reason,
            required_credits=decision.required,
            available_credits=decision.available,
            source=decision.source,
            limits=standings(decision.exceeded) if decision.exceeded else UNSET,
            degraded=True if checked.is_degraded else UNSET,
            explain=item(checked.explanation) if checked.explanation else UNSET,
        ),
        headers=headers(decision.exceeded),
    )


async def check_bulk(request: Request, body: BulkCheckRequest) -> Reply:
    correlation_id = request.correlate(body.correlation_id)
    for metric in body.requirements:
        if not metric.isprintable():
            request.metric(f"requirements.{metric!a}", metric)

    checked = await _checked(request, body, body.requirements)
    decision = checked.decision
    return Reply(
        _answer(checked, correlation_id), STATUS[decision.reason], headers(decision.exceeded)
    )


async def _checked(
    request: Request, body: CheckRequest | BulkCheckRequest, requirements: dict[str, int]
) -> Checked:
    started = perf_counter()
    user_id, org_id = request.subjects(body.user_id, body.org_id)
    checked = await request.service.checks.check(
        requirements,
        user_id=user_id,
        org_id=org_id,
        correlation_id=request.correlation_id,
        explained=bool(request.query_string) and request.query(CheckQuery).explain,
    )
    request.metrics.check(checked, perf_counter() - started)
    return checked


def _answer(checked: Checked, correlation_id: str) -> BulkCheckResponse:
    decision = checked.decision
    need = decision.needs[decision.credit_type]
    is_short = decision.reason is DenialReason.INSUFFICIENT_CREDITS
    is_unpaid = is_short or decision.reason is DenialReason.POLICY_DENIED
    return BulkCheckResponse(
        allowed=decision.allowed,
        required_credits=decision.required,
        available_credits=decision.available,
        per_metric={metric: _line(line) for metric, line in decision.lines.items()},
        denial_reason=decision.reason,
        correlation_id=correlation_id,
        by_credit_type={
            name: CreditTypeNeed(required=one.required, org=one.org, user=one.user)
            for name, one in decision.needs.items()
        },
        balances=AvailableBalances(org=need.org, user=need.user) if is_unpaid else UNSET,
        missing_credits=need.missing if is_short else UNSET,
        limits=standings(decision.exceeded) if decision.exceeded else UNSET,
        degraded=True if checked.is_degraded else UNSET,
        explain=item(checked.explanation) if checked.explanation else UNSET,
    )


def _line(line: MetricLine) -> MetricDecision:
    return MetricDecision(
        required=line.required,
        available=line.available,
        allowed=line.allowed,
        source=line.source,
        reason=line.reason,
        detail=line.detail if line.detail is not None else UNSET,
    )


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
        path="/v1/entitlements/check-credits",
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
        path="/v1/entitlements/check-credits/bulk",
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
