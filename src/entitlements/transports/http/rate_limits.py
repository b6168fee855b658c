"""Routes that show and reset the usage of rate limits."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import route
from entitlements.transports.http.routes import roles

ROUTES: Final = (
    route(
        http.RATE_LIMITS,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List the usage of each rate limit of a user or org.",
        answer={
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
                    "warn_at": 48,
                }
            ],
            "degraded": False,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.RESET_RATE_LIMIT,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Reset a subject's usage of a metric's rate limits.",
        example={"subject_id": "teacher-7", "metric": "batch_create", "reason": "a stuck client"},
        answer={
            "success": True,
            "message": "usage of batch_create reset for teacher-7",
            "correlation_id": "support-12",
        },
    ),
)
