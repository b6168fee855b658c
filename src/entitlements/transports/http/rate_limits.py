"""Routes that show and reset the usage of rate limits."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import rate_limits
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    RateLimitsResponse,
    ResetRateLimitRequest,
    ResetRateLimitResponse,
)
from entitlements.transports.http.request import HttpRequest, Reply, replay_headers
from entitlements.transports.http.routes import Content, Route, roles


async def show_rate_limits(request: HttpRequest, _: None) -> Reply:
    return Reply(await rate_limits.usage(request, request.params["subject_id"]))


async def reset_rate_limit(request: HttpRequest, body: ResetRateLimitRequest) -> Reply:
    response = await rate_limits.reset(request, body)
    return Reply(response, headers=replay_headers(response))


ROUTES: Final = (
    Route(
        method="GET",
        path=verbs.RATE_LIMITS.path,
        handler=show_rate_limits,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List the usage of each rate limit of a user or org.",
        responses={
            200: Content(
                RateLimitsResponse,
                {
                    "subject_id": "teacher-7",
                    "limits": [
                        {
                            "metric": "batch_create",
                            "per": "user",
                            "limit": 60,
                            "window_seconds": 3600,
                            "used": 12,
                            "remaining": 48,
                            "passes_in_seconds": 0,
                        }
                    ],
                    "degraded": False,
                    "correlation_id": "support-12",
                },
            )
        },
    ),
    Route(
        method="POST",
        path=verbs.RESET_RATE_LIMIT.path,
        handler=reset_rate_limit,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Reset a subject's usage of a metric's rate limits.",
        request=Content(
            ResetRateLimitRequest,
            {"subject_id": "teacher-7", "metric": "batch_create", "reason": "a stuck client"},
        ),
        responses={
            200: Content(
                ResetRateLimitResponse,
                {
                    "success": True,
                    "message": "usage of batch_create reset for teacher-7",
                    "correlation_id": "support-12",
                },
            )
        },
    ),
)
