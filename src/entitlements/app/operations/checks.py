"""Checks: whether work is allowed, and who would pay. Nothing is reserved or recorded."""

from collections.abc import Coroutine, Iterable
from typing import Any, Final

from msgspec import UNSET, UnsetType

from entitlements.app.credits.checks import Checked
from entitlements.app.operations.explanations import item
from entitlements.app.operations.refusals import seconds
from entitlements.app.operations.request import Request, UseCases
from entitlements.contracts import http
from entitlements.core.check import Decision, MetricLine
from entitlements.core.outcomes import Candidate, Candidates
from entitlements.core.reasons import DenialReason
from entitlements.core.windows import LimitQuery, WindowState

Deciding = Coroutine[Any, Any, Checked]
"""Awaited directly by the caller, without another coroutine: every check takes this path."""


async def check(request: Request, body: http.CheckRequest) -> http.CheckResponse:
    return answer(await decide(request, body))


async def check_all(request: Request, body: http.BulkCheckRequest) -> http.BulkCheckResponse:
    return answer_all(await decide(request, body), request.correlation_id)


def decide(request: Request, body: http.CheckRequest | http.BulkCheckRequest) -> Deciding:
    if isinstance(body, http.CheckRequest):
        requirements = {body.metric: body.amount}
    else:
        requirements = body.requirements
    user_id, org_id = request.subjects(body)
    return request.engine.checks.check(
        requirements,
        user_id=user_id,
        org_id=org_id,
        correlation_id=request.correlation_id,
        traceparent=request.traceparent,
        explained=request.explained,
    )


def answer(checked: Checked) -> http.CheckResponse:
    decision = checked.decision
    return http.CheckResponse(
        allowed=decision.allowed,
        reason=decision.reason,
        required_credits=decision.required,
        available_credits=decision.available,
        source=decision.source,
        allowance_units=next((one.allowance_units for one in decision.lines.values()), 0) or UNSET,
        detail=UNSET if decision.allowed else _detail(decision),
        limits=states(decision.exceeded) if decision.exceeded else UNSET,
        degraded=True if checked.is_degraded else UNSET,
        explain=item(checked.explanation) if checked.explanation else UNSET,
    )


def _detail(decision: Decision) -> str | UnsetType:
    """Return the detail of the denial, if any."""
    return next((one.detail for one in decision.lines.values() if one.detail), UNSET)


def answer_all(checked: Checked, correlation_id: str) -> http.BulkCheckResponse:
    decision = checked.decision
    need = decision.needs[decision.credit_type]
    is_short = decision.reason is DenialReason.INSUFFICIENT_CREDITS
    is_unpaid = is_short or decision.reason is DenialReason.POLICY_DENIED
    return http.BulkCheckResponse(
        allowed=decision.allowed,
        required_credits=decision.required,
        available_credits=decision.available,
        per_metric={metric: _line(line) for metric, line in decision.lines.items()},
        denial_reason=decision.reason,
        correlation_id=correlation_id,
        by_credit_type={
            name: http.CreditTypeNeed(required=one.required, org=one.org, user=one.user)
            for name, one in decision.needs.items()
        },
        balances=http.AvailableBalances(org=need.org, user=need.user) if is_unpaid else UNSET,
        candidates=candidates_item(decision.candidates),
        retry_after_seconds=checked.retry_after_s or UNSET,
        missing_credits=need.missing if is_short else UNSET,
        limits=states(decision.exceeded) if decision.exceeded else UNSET,
        degraded=True if checked.is_degraded else UNSET,
        explain=item(checked.explanation) if checked.explanation else UNSET,
    )


def candidates_item(found: Candidates | None) -> http.CandidatesItem | UnsetType:
    if found is None:
        return UNSET
    org = _candidate(found.org) if found.org is not None else None
    return http.CandidatesItem(org=org, user=_candidate(found.user))


def _candidate(one: Candidate) -> http.CandidateItem:
    return http.CandidateItem(
        balance=one.balance, held=one.held, available=one.available, missing=one.missing
    )


def _line(line: MetricLine) -> http.MetricDecision:
    return http.MetricDecision(
        required=line.required,
        available=line.available,
        allowed=line.allowed,
        source=line.source,
        reason=line.reason,
        detail=line.detail if line.detail is not None else UNSET,
        allowance_units=line.allowance_units or UNSET,
    )


def states(pairs: Iterable[tuple[LimitQuery, WindowState]]) -> list[http.LimitStanding]:
    return [
        http.LimitStanding(
            metric=ask.window.metric,
            per=ask.window.subject.type,
            limit=ask.limit,
            window_seconds=ask.window.window_s,
            used=state.used,
            remaining=max(0, ask.limit - state.used),
            passes_in_seconds=None if state.passes_in_ms is None else seconds(state.passes_in_ms),
        )
        for ask, state in pairs
    ]


USE_CASES: Final[UseCases] = {http.CHECK: check, http.CHECK_ALL: check_all}
