"""May this work run, and who would pay? Nothing is reserved or recorded."""

from time import perf_counter
from typing import Final

from msgspec import UNSET

from entitlements.app.access import Role
from entitlements.contracts.http import (
    AvailableBalances,
    BulkCheckRequest,
    BulkCheckResponse,
    CheckRequest,
    CheckResponse,
    CreditTypeNeed,
    MetricDecision,
)
from entitlements.core.check import Decision, DenialReason, MetricLine, ask, decide
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def check(request: Request, body: CheckRequest) -> Reply:
    metric = request.metric("metric", body.metric)
    decision = await _decision(request, body, {metric: body.amount})
    return Reply(
        CheckResponse(
            allowed=decision.allowed,
            reason=decision.reason,
            required_credits=decision.required,
            available_credits=decision.available,
            source=decision.source,
        )
    )


async def check_bulk(request: Request, body: BulkCheckRequest) -> Reply:
    correlation_id = request.correlate(body.correlation_id)
    for metric in body.requirements:
        if not metric.isprintable():
            request.metric(f"requirements.{metric!a}", metric)

    decision = await _decision(request, body, body.requirements)
    return Reply(_answer(decision, correlation_id), 200 if decision.allowed else 402)


async def _decision(
    request: Request, body: CheckRequest | BulkCheckRequest, requirements: dict[str, int]
) -> Decision:
    started = perf_counter()
    user_id, org_id = request.subjects(body.user_id, body.org_id)
    service = request.service

    question = ask(service.policies.in_force, requirements, user_id=user_id, org_id=org_id)
    decision = decide(question, await service.reader.wallets(question.wallets))

    result = decision.reason or "allowed"
    request.metrics.check(result, decision.source, perf_counter() - started)
    return decision


def _answer(decision: Decision, correlation_id: str) -> BulkCheckResponse:
    need = decision.needs[decision.credit_type]
    is_short = decision.reason is DenialReason.INSUFFICIENT_CREDITS
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
        balances=(UNSET if decision.allowed else AvailableBalances(org=need.org, user=need.user)),
        missing_credits=need.missing if is_short else UNSET,
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
        responses={200: BulkCheckResponse, 402: BulkCheckResponse},
        example={
            "user_id": "teacher-7",
            "org_id": "school-1",
            "requirements": {"cj_comparison": 45, "ai_feedback_generation": 10},
            "correlation_id": "batch-4711",
        },
    ),
)
