"""How much of each limit is used, and forgetting it."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.limits import Looked
from entitlements.app.requests.checks import standings
from entitlements.contracts.errors import invalid
from entitlements.contracts.http import (
    RateLimitsResponse,
    ResetRateLimitRequest,
    ResetRateLimitResponse,
)
from entitlements.core.limits import windows_of
from entitlements.core.model import AuditEntry, Subject
from entitlements.core.windows import Ask, WindowKey
from entitlements.transports.http.problems import Rejected
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def usage(request: Request, _: None) -> Reply:
    subject_id = request.subject_id("subject_id", request.params["subject_id"])
    asked = [Ask(window, limit, 1) for window, limit in _windows(request, subject_id).items()]
    looked: Looked = await request.service.limits.look(asked)
    return Reply(
        RateLimitsResponse(
            subject_id=subject_id,
            limits=standings(zip(asked, looked.standings, strict=True)),
            degraded=looked.is_degraded,
            correlation_id=request.correlation_id,
        )
    )


async def reset(request: Request, body: ResetRateLimitRequest) -> Reply:
    """The audit's entry comes first: what cannot be put on record is not done."""
    service = request.service
    subject_id = request.subject_id("subject_id", body.subject_id)
    metric = request.metric("metric", body.metric)
    reason = request.optional_text("reason", body.reason, at_most=1_000)
    windows = [window for window in _windows(request, subject_id) if window.metric == metric]
    if not windows:
        raise invalid("metric", "has no limit under the policy in force")
    if service.limits.is_degraded:
        raise Rejected("limiter_unavailable", "the limiter does not answer; nothing was reset")

    assert request.caller is not None
    request.ids = (subject_id, None)
    await service.records.add_audit(
        AuditEntry(
            id=service.new_id(),
            at=service.clock(),
            actor=request.caller.actor,
            client=request.caller.client,
            action="rate_limit.reset",
            subject=Subject("user", subject_id),
            reason=reason,
            detail={"metric": metric},
            correlation_id=request.correlation_id,
        )
    )
    await service.limits.reset(windows)
    return Reply(
        ResetRateLimitResponse(
            success=True,
            message=f"what {subject_id} has used of {metric} is forgotten",
            correlation_id=request.correlation_id,
        )
    )


def _windows(request: Request, subject_id: str) -> dict[WindowKey, int]:
    """Of the user and of the org of that id."""
    policy = request.service.policies.active
    user, org = Subject("user", subject_id), Subject("org", subject_id)
    return windows_of(policy, user) | windows_of(policy, org)


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/admin/rate-limits/{subject_id}",
        handler=usage,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="What a user or org has used of each limit.",
        responses={200: RateLimitsResponse},
    ),
    Route(
        method="POST",
        path="/v1/admin/credits/reset-rate-limit",
        handler=reset,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Forget what a subject has used of a metric's limits.",
        request=ResetRateLimitRequest,
        responses={200: ResetRateLimitResponse},
        example={"subject_id": "teacher-7", "metric": "batch_create", "reason": "a stuck client"},
    ),
)
