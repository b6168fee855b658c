"""Routes that validate, activate, list and compare policies."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.app.operations import policies
from entitlements.contracts import verbs
from entitlements.contracts.http import (
    PoliciesQuery,
    PoliciesResponse,
    PolicyApplyRequest,
    PolicyApplyResponse,
    PolicyCheckRequest,
    PolicyCheckResponse,
    PolicyDiffQuery,
    PolicyDiffResponse,
    PolicyResponse,
)
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Content, Route, roles

_VERSION: Final = "5f0c6b2d9a3e4f7081c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e"


async def check_policy(request: HttpRequest, body: PolicyCheckRequest) -> Reply:
    return Reply(await policies.check(request, body))


async def apply_policy(request: HttpRequest, body: PolicyApplyRequest) -> Reply:
    answer = await policies.apply(request, body)
    return Reply(answer, 201 if answer.changed else 200)


async def policy_history(request: HttpRequest, _: None) -> Reply:
    return Reply(await policies.history(request, request.query(PoliciesQuery)))


async def show_policy(request: HttpRequest, _: None) -> Reply:
    return Reply(await policies.show(request, request.params["version"]))


async def diff_policies(request: HttpRequest, _: None) -> Reply:
    return Reply(await policies.diff(request, request.query(PolicyDiffQuery)))


_READERS: Final = roles(Role.READER, Role.OPERATOR)
_DOCUMENT: Final = "costs:\n  essay: 2\nrate_limits:\n  essay: 100/day\n"
ROUTES: Final = (
    Route(
        method="POST",
        path=verbs.CHECK_POLICY.path,
        handler=check_policy,
        rule=_READERS,
        tag="policies",
        summary="Validate a policy document; changes nothing.",
        request=Content(PolicyCheckRequest, {"content": "costs:\n  essay: -2\n"}),
        responses={
            200: Content(
                PolicyCheckResponse,
                {
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
            )
        },
    ),
    Route(
        method="POST",
        path=verbs.APPLY_POLICY.path,
        handler=apply_policy,
        rule=roles(Role.ADMIN),
        tag="policies",
        summary="Activate a policy document; a superseded one is refused.",
        request=Content(
            PolicyApplyRequest, {"content": _DOCUMENT, "reason": "prices of the spring term"}
        ),
        responses={
            201: Content(
                PolicyApplyResponse,
                {
                    "version": _VERSION,
                    "changed": True,
                    "active": True,
                    "correlation_id": "policy-review-7",
                },
            ),
            200: Content(
                PolicyApplyResponse,
                {
                    "version": _VERSION,
                    "changed": False,
                    "active": True,
                    "correlation_id": "policy-review-7",
                },
            ),
        },
        problems=(409,),
    ),
    Route(
        method="GET",
        path=verbs.POLICIES.path,
        handler=policy_history,
        rule=_READERS,
        tag="policies",
        summary="List every policy version that was ever active, newest first.",
        query=PoliciesQuery,
        responses={
            200: Content(
                PoliciesResponse,
                {
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
            )
        },
    ),
    Route(
        method="GET",
        path=verbs.DIFF_POLICIES.path,
        handler=diff_policies,
        rule=_READERS,
        tag="policies",
        summary="List the changed rules between two policy versions.",
        query=PolicyDiffQuery,
        responses={
            200: Content(
                PolicyDiffResponse,
                {
                    "from": _VERSION,
                    "to": _VERSION[::-1],
                    "changes": [{"path": "costs.essay", "before": "2", "after": "3"}],
                    "correlation_id": "policy-review-7",
                },
            )
        },
        problems=(404,),
    ),
    Route(
        method="GET",
        path=verbs.POLICY.path,
        handler=show_policy,
        rule=_READERS,
        tag="policies",
        summary="Get a policy version and its document, by its first digits or `active`.",
        responses={
            200: Content(
                PolicyResponse,
                {
                    "version": _VERSION,
                    "activated_at": "2026-01-07T08:00:00Z",
                    "actor": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
                    "active": True,
                    "content": _DOCUMENT,
                    "problems": {},
                    "correlation_id": "policy-review-7",
                },
            )
        },
        problems=(404,),
    ),
)
