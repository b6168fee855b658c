"""Routes of grants, access checks, consumption by type and summaries."""

from typing import Any, Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import CREATED, route
from entitlements.transports.http.routes import roles

_GRANT_ID: Final = "0198c1f0-0d11-7a6b-8f2e-7d9c4b5a6e31"
_OPERATION_ID: Final = "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"
_GRANT: Final = {
    "id": _GRANT_ID,
    "subject_type": "user",
    "subject_id": "teacher-7",
    "user_id": "teacher-7",
    "entitlement_type": "credit_grant",
    "grant_reason": "promotion",
    "status": "active",
    "credit_type": "ai_tokens",
    "metric": None,
    "feature": None,
    "product_id": None,
    "tier_id": None,
    "subscription_id": None,
    "quantity_granted": 10000,
    "quantity_used": 0,
    "remaining": 10000,
    "consumption_type": "decremental",
    "priority": 50,
    "granted_at": "2026-09-01T08:00:00Z",
    "expires_at": "2026-10-01T00:00:00Z",
    "renews_at": None,
    "revoked_at": None,
    "revoke_reason": None,
    "reference_id": "promo-autumn",
    "cost_microcents": None,
    "notes": "Compensation for downtime on 2026-08-30",
    "metadata": {"max_file_mb": 50},
    "granted_by": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
    "created_at": "2026-09-01T08:00:00Z",
}
_REVOKED: Final = {
    **_GRANT,
    "status": "revoked",
    "quantity_used": 4000,
    "remaining": 0,
    "revoked_at": "2026-09-05T08:00:00Z",
    "revoke_reason": "refund processed",
}
_ACCESS: Final = {
    "has_access": True,
    "total_available_quantity": 10000,
    "expires_at": "2026-10-01T00:00:00Z",
    "limitations": {"max_file_mb": 50},
    "sources": [
        {
            "grant_id": _GRANT_ID,
            "subject_type": "user",
            "subject_id": "teacher-7",
            "grant_reason": "promotion",
            "remaining": 10000,
            "expires_at": "2026-10-01T00:00:00Z",
        }
    ],
}
_FEATURE: Final[dict[str, Any]] = {
    "has_access": True,
    "total_available_quantity": None,
    "expires_at": None,
    "limitations": {},
    "sources": [
        {
            "grant_id": _GRANT_ID,
            "subject_type": "org",
            "subject_id": "school-1",
            "grant_reason": "enterprise_contract",
            "remaining": None,
            "expires_at": None,
        }
    ],
}
_SUMMARY: Final = {
    "subject_type": "user",
    "subject_id": "teacher-7",
    "active_entitlements": 3,
    "has_active_subscription": True,
    "tier": "pro",
    "features": ["export"],
    "total_credits_available": {"ai_tokens": 6000},
    "total_credits_used": {"ai_tokens": 4000},
    "allowances": {"ai_feedback_generation": {"available": 80, "used": 20}},
    "next_expiries": [
        {
            "grant_id": _GRANT_ID,
            "entitlement_type": "credit_grant",
            "at": "2026-10-01T00:00:00Z",
            "remaining": 6000,
        }
    ],
    "next_renewals": [
        {
            "grant_id": "0198c1f0-0d12-7b1a-9c3d-5e6f7a8b9c0d",
            "entitlement_type": "usage_allowance",
            "at": "2026-10-01T00:00:00Z",
            "quantity": 100,
        }
    ],
}
_LISTED: Final = {
    "entitlements": [_GRANT],
    "count": 1,
    "next_cursor": None,
    "correlation_id": "support-12",
}
_CHECKING: Final = roles(Role.SERVICE, Role.OPERATOR)
_READING: Final = roles(Role.READER, Role.OPERATOR)
_WRITING: Final = roles(Role.OPERATOR)
ROUTES: Final = (
    route(
        http.GRANT,
        rule=_WRITING,
        tag="entitlements",
        summary="Grant an entitlement to a user or an org.",
        example={
            "user_id": "teacher-7",
            "entitlement_type": "credit_grant",
            "credit_type": "ai_tokens",
            "quantity_granted": 10000,
            "grant_reason": "promotion",
            "expires_at": "2026-10-01T00:00:00Z",
            "reference_id": "promo-autumn",
            "notes": "Compensation for downtime on 2026-08-30",
            "metadata": {"max_file_mb": 50},
        },
        answer={
            **_GRANT,
            "operation_id": _OPERATION_ID,
            "correlation_id": "support-12",
            "replayed": False,
        },
        status=CREATED,
    ),
    route(
        http.ENTITLEMENTS_OF_USER,
        rule=_READING,
        tag="entitlements",
        summary="List a user's grants, newest first.",
        answer=_LISTED,
    ),
    route(
        http.USER_SUMMARY,
        rule=_READING,
        tag="entitlements",
        summary="Summarise what a user has.",
        answer=_SUMMARY,
    ),
    route(
        http.ENTITLEMENT,
        rule=_READING,
        tag="entitlements",
        summary="Get one grant as of now.",
        answer=_GRANT,
        problems=(404,),
    ),
    route(
        http.REVOKE,
        rule=_WRITING,
        tag="entitlements",
        summary="Revoke a grant; one that has ended does not change.",
        answer=_REVOKED,
        problems=(404,),
    ),
    route(
        http.ENTITLEMENTS,
        rule=_READING,
        tag="entitlements",
        summary="List grants, newest first.",
        answer=_LISTED,
    ),
    route(
        http.REVOKE_REFERENCE,
        rule=_WRITING,
        tag="entitlements",
        summary="Revoke every grant with a reference, such as the id of a payment.",
        example={"reference_id": "promo-autumn", "reason": "refund processed"},
        answer={
            "revoked": [_REVOKED],
            "count": 1,
            "correlation_id": "support-12",
            "replayed": False,
        },
    ),
    route(
        http.SUMMARY,
        rule=_READING,
        tag="entitlements",
        summary="Summarise what a user or an org has.",
        answer=_SUMMARY,
    ),
    route(
        http.ACCESS,
        rule=_CHECKING,
        tag="entitlements",
        summary="Check whether a user has an entitlement, by themselves or by an org.",
        example={
            "user_id": "teacher-7",
            "entitlement_type": "credit_grant",
            "credit_type": "ai_tokens",
            "required_quantity": 1000,
        },
        answer=_ACCESS,
    ),
    route(
        http.ACCESS_ALL,
        rule=_CHECKING,
        tag="entitlements",
        summary="Check up to 100 entitlements of a user at once.",
        example={
            "user_id": "teacher-7",
            "org_id": "school-1",
            "checks": [
                {"entitlement_type": "feature_unlock", "feature": "export"},
                {"entitlement_type": "credit_grant", "credit_type": "ai_tokens"},
            ],
        },
        answer={"results": [_FEATURE, _ACCESS]},
    ),
    route(
        http.FEATURE,
        rule=_CHECKING,
        tag="entitlements",
        summary="Check whether a user has a feature, by themselves or by an org.",
        answer=_FEATURE,
    ),
    route(
        http.SPEND,
        rule=roles(Role.SERVICE),
        tag="entitlements",
        summary="Consume credits of a type, or allowances of a metric, without a price.",
        example={
            "user_id": "teacher-7",
            "entitlement_type": "credit_grant",
            "credit_type": "ai_tokens",
            "quantity_to_consume": 500,
            "usage_context": {"model": "gpt-5", "conversation_id": 123},
        },
        answer={
            "usage_records": [{"grant_id": _GRANT_ID, "quantity": 500}],
            "remaining": 9500,
            "source": "user",
            "operation_id": _OPERATION_ID,
            "correlation_id": "conversation-123",
            "replayed": False,
        },
        problems=(402,),
    ),
)
