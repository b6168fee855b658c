"""Routes of subscriptions."""

from typing import Any, Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import route
from entitlements.transports.http.routes import roles

_OWN: Final = "0198c1f0-0d11-7a6b-8f2e-7d9c4b5a6e31"
_CREDITS: Final = "0198c1f0-0d12-7b1a-9c3d-5e6f7a8b9c0d"
_ITEM: Final[dict[str, Any]] = {
    "subscription_id": "sub_abc123",
    "subject_type": "user",
    "subject_id": "teacher-7",
    "user_id": "teacher-7",
    "plan_id": "pro",
    "policy_version": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "lifecycle": "grace_period(days=14)",
    "status": "active",
    "activated_at": "2026-09-01T08:00:00Z",
    "current_period_end": "2026-10-01T08:00:00Z",
    "cancels_at": None,
    "ended_at": None,
    "grants": [_OWN, _CREDITS],
}
_CANCELING: Final = {**_ITEM, "cancels_at": "2026-10-01T08:00:00Z"}
_EXPIRED: Final = {
    **_ITEM,
    "status": "expired",
    "ended_at": "2026-10-08T08:00:00Z",
    "grants": [],
}


def _answer(item: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        **item,
        "created": False,
        "granted": [],
        "revoked": [],
        "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
        "correlation_id": "invoice-17",
        "replayed": False,
        **changes,
    }


_READING: Final = roles(Role.READER, Role.OPERATOR)
_WRITING: Final = roles(Role.OPERATOR)
ROUTES: Final = (
    route(
        http.ACTIVATE,
        rule=_WRITING,
        tag="entitlements",
        summary="Begin a subscription to a plan, or the next period of an open one.",
        example={
            "user_id": "teacher-7",
            "plan_id": "pro",
            "subscription_id": "sub_abc123",
            "current_period_end": "2026-10-01T08:00:00Z",
        },
        answer=_answer(_ITEM),
        created=("created", _answer(_ITEM, created=True, granted=[_OWN, _CREDITS])),
        problems=(409,),
    ),
    route(
        http.SUBSCRIPTIONS,
        rule=_READING,
        tag="entitlements",
        summary="List subscriptions, newest first.",
        answer={
            "subscriptions": [_ITEM],
            "count": 1,
            "next_cursor": None,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.SUBSCRIPTION,
        rule=_READING,
        tag="entitlements",
        summary="Get one subscription as of now.",
        answer=_ITEM,
        problems=(404,),
    ),
    route(
        http.LIFECYCLE_CALLS,
        rule=_READING,
        tag="entitlements",
        summary="List calls of lifecycle handlers that are still to be made, the oldest first.",
        answer={
            "calls": [
                {
                    "subscription_id": "sub_abc123",
                    "subject_type": "user",
                    "subject_id": "teacher-7",
                    "plan_id": "pro",
                    "handler": "two_weeks",
                    "change": "cancelled",
                    "at": "2026-10-01T08:00:00Z",
                    "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                    "attempts": 2,
                    "next_at": "2026-10-01T08:00:15Z",
                    "last_error": "ConnectionError: the CRM does not respond",
                }
            ],
            "count": 1,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.CHANGE_PLAN,
        rule=_WRITING,
        tag="entitlements",
        summary="Replace the plan; units used in the current period count as used.",
        example={"plan_id": "team"},
        answer=_answer({**_ITEM, "plan_id": "team"}, granted=[_CREDITS]),
        problems=(404, 409),
    ),
    route(
        http.CANCEL_SUBSCRIPTION,
        rule=_WRITING,
        tag="entitlements",
        summary="Cancel a subscription, now or at the end of its period.",
        example={"at": "period_end"},
        answer=_answer(_CANCELING),
        problems=(404,),
    ),
    route(
        http.PAST_DUE,
        rule=_WRITING,
        tag="entitlements",
        summary="Record that a payment is late; the grants stay until the subscription ends.",
        example={"reason": "invoice 17 is not paid"},
        answer=_answer({**_ITEM, "status": "past_due"}),
        problems=(404, 409),
    ),
    route(
        http.EXPIRE_SUBSCRIPTION,
        rule=_WRITING,
        tag="entitlements",
        summary="End a subscription that was not paid.",
        example={"reason": "invoice 17 is not paid"},
        answer=_answer(_EXPIRED, revoked=[_OWN, _CREDITS]),
        problems=(404,),
    ),
)
