"""Routes that validate, activate, list and compare policies."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import route
from entitlements.transports.http.routes import roles

_VERSION: Final = "5f0c6b2d9a3e4f7081c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e"
_READERS: Final = roles(Role.READER, Role.OPERATOR)
_DOCUMENT: Final = "costs:\n  essay: 2\nrate_limits:\n  essay: 100/day\n"
ROUTES: Final = (
    route(
        http.CHECK_POLICY,
        rule=_READERS,
        tag="policies",
        summary="Validate a policy document; changes nothing.",
        example={"content": "costs:\n  essay: -2\n"},
        answer={
            "valid": False,
            "problems": [
                {
                    "line": 2,
                    "path": "costs.essay",
                    "reason": "must be a whole number, 0 or more",
                }
            ],
            "version": None,
            "correlation_id": "policy-review-7",
        },
    ),
    route(
        http.APPLY_POLICY,
        rule=roles(Role.ADMIN),
        tag="policies",
        summary="Activate a policy document; a superseded one is refused.",
        example={"content": _DOCUMENT, "reason": "prices of the spring term"},
        answer={
            "version": _VERSION,
            "changed": False,
            "active": True,
            "correlation_id": "policy-review-7",
        },
        created=(
            "changed",
            {
                "version": _VERSION,
                "changed": True,
                "active": True,
                "correlation_id": "policy-review-7",
            },
        ),
        problems=(409,),
    ),
    route(
        http.POLICIES,
        rule=_READERS,
        tag="policies",
        summary="List every policy version that was ever active, newest first.",
        answer={
            "policies": [
                {
                    "version": _VERSION,
                    "activated_at": "2026-01-07T08:00:00Z",
                    "actor": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
                    "active": True,
                }
            ],
            "count": 1,
            "next_before": None,
            "correlation_id": "policy-review-7",
        },
    ),
    route(
        http.DIFF_POLICIES,
        rule=_READERS,
        tag="policies",
        summary="List the changed rules between two policy versions.",
        answer={
            "from": _VERSION,
            "to": _VERSION[::-1],
            "changes": [{"path": "costs.essay", "before": "2", "after": "3"}],
            "correlation_id": "policy-review-7",
        },
        problems=(404,),
    ),
    route(
        http.POLICY,
        rule=_READERS,
        tag="policies",
        summary="Get a policy version and its document, by its first digits or `active`.",
        answer={
            "version": _VERSION,
            "activated_at": "2026-01-07T08:00:00Z",
            "actor": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
            "active": True,
            "content": _DOCUMENT,
            "problems": {},
            "correlation_id": "policy-review-7",
        },
        problems=(404,),
    ),
)
