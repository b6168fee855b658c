"""How much of each limit is used, and forgetting it."""

from typing import Final

from entitlements.app.access import Role
from entitlements.app.requests import rate_limits
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    RateLimitsResponse,
    ResetRateLimitRequest,
    ResetRateLimitResponse,
)
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def usage(request: Request, _: None) -> Reply:
    return Reply(await rate_limits.usage(request, request.params["subject_id"]))


async def reset(request: Request, body: ResetRateLimitRequest) -> Reply:
    return Reply(await rate_limits.reset(request, body))


ROUTES: Final = (
    Route(
        method="GET",
        path=verbs.RATE_LIMITS.path,
        handler=usage,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="What a user or org has used of each limit.",
        responses={200: RateLimitsResponse},
    ),
    Route(
        method="POST",
        path=verbs.RESET_RATE_LIMIT.path,
        handler=reset,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Forget what a subject has used of a metric's limits.",
        request=ResetRateLimitRequest,
        responses={200: ResetRateLimitResponse},
        example={"subject_id": "teacher-7", "metric": "batch_create", "reason": "a stuck client"},
    ),
)
