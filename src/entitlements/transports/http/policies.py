"""The rules in force and those before: checked, applied, listed, compared."""

import asyncio
from contextlib import suppress
from typing import Final

from entitlements.app.access import Act, Role
from entitlements.app.policies import (
    PolicyUnusable,
    activate,
    before,
    brief,
    document,
    find,
    rules,
)
from entitlements.app.policy_document import PolicyError, Problem, parse
from entitlements.app.ports import PolicyVersion
from entitlements.contracts.http import (
    PoliciesQuery,
    PoliciesResponse,
    PolicyApplyRequest,
    PolicyApplyResponse,
    PolicyChange,
    PolicyCheckRequest,
    PolicyCheckResponse,
    PolicyDiffQuery,
    PolicyDiffResponse,
    PolicyItem,
    PolicyProblem,
    PolicyResponse,
)
from entitlements.contracts.problem import FieldError
from entitlements.core.policy_diff import difference
from entitlements.transports.http.problems import Rejected
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles

CONTENT: Final = "content"
PROBLEMS_MAX: Final = 100
_VERSION: Final = "5f0c6b2d9a3e4f7081c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e"


async def check_policy(request: Request, body: PolicyCheckRequest) -> Reply:
    problems: list[Problem] = []
    version = None
    try:
        # In a thread: reading a long document takes a while, and others have requests too.
        version = (await asyncio.to_thread(parse, body.content, source=CONTENT)).version
    except PolicyError as error:
        problems = error.problems
    return Reply(
        PolicyCheckResponse(
            valid=not problems,
            problems=[PolicyProblem(line=p.line, path=p.path, reason=p.reason) for p in problems],
            version=version,
            correlation_id=request.correlation_id,
        )
    )


async def apply_policy(request: Request, body: PolicyApplyRequest) -> Reply:
    service = request.service
    act = _act(request, request.optional_text("reason", body.reason, at_most=1_000))
    try:
        policy, changed = await activate(
            service.records, body.content, source="api", name=CONTENT, act=act
        )
    except PolicyError as error:
        raise _not_valid(error) from None
    with suppress(PolicyUnusable):  # another one came at once, and was of a newer program
        await service.policies.look(service.records, source="api")
    return Reply(
        PolicyApplyResponse(
            version=policy.version,
            changed=changed,
            active=service.policies.active.version == policy.version,
            correlation_id=request.correlation_id,
        ),
        201 if changed else 200,
    )


def _act(request: Request, reason: str | None) -> Act:
    assert request.caller is not None, "the route has a rule"
    return Act(
        actor=request.caller.actor,
        client=request.caller.client,
        at=request.service.clock(),
        new_id=request.service.new_id,
        correlation_id=request.correlation_id,
        reason=reason,
    )


def _not_valid(error: PolicyError) -> Rejected:
    errors = tuple(
        FieldError(
            field=CONTENT,
            message=": ".join(part for part in (f"line {line}", path, reason) if part),
        )
        for line, path, reason in error.problems[:PROBLEMS_MAX]
    )
    return Rejected("validation_failed", brief(error), errors=errors)


async def policy_history(request: Request, _: None) -> Reply:
    wanted = request.query(PoliciesQuery)
    found = await request.service.records.policies(before=wanted.before, limit=wanted.limit)
    return Reply(
        PoliciesResponse(
            policies=[_item(version) for version in found],
            count=len(found),
            next_before=found[-1].activated_at if len(found) == wanted.limit else None,
            correlation_id=request.correlation_id,
        )
    )


def _item(version: PolicyVersion) -> PolicyItem:
    return PolicyItem(
        version=version.version,
        activated_at=version.activated_at,
        actor=version.actor,
        active=version.active,
    )


async def show_policy(request: Request, _: None) -> Reply:
    name = request.text("version", request.params["version"])
    records = request.service.records
    found = await find(records, name)
    return Reply(
        PolicyResponse(
            version=found.version,
            activated_at=found.activated_at,
            actor=found.actor,
            active=found.active,
            content=await document(records, found.version),
            problems=_problems(request) if found.active else {},
            correlation_id=request.correlation_id,
        )
    )


def _problems(request: Request) -> dict[str, str]:
    return {str(place): why for place, why in request.service.policies.problems.items()}


async def diff_policies(request: Request, _: None) -> Reply:
    wanted = request.query(PolicyDiffQuery)
    records = request.service.records
    until = await find(records, request.text("to", wanted.until))
    if wanted.since is None:
        since = await before(records, until)
    else:
        since = await find(records, request.text("from", wanted.since))
    changes = difference(await rules(records, since.version), await rules(records, until.version))
    return Reply(
        PolicyDiffResponse(
            since=since.version,
            until=until.version,
            changes=[PolicyChange(path=c.path, before=c.before, after=c.after) for c in changes],
            correlation_id=request.correlation_id,
        )
    )


_READERS: Final = roles(Role.READER, Role.OPERATOR)
_DOCUMENT: Final = "costs:\n  essay: 2\nrate_limits:\n  essay: 100/day\n"
ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/admin/policies/check",
        handler=check_policy,
        rule=_READERS,
        tag="policies",
        summary="Is this document valid, and if not, why? Nothing changes.",
        request=PolicyCheckRequest,
        responses={200: PolicyCheckResponse},
        example={"content": "costs:\n  essay: -2\n"},
        answer={
            "valid": False,
            "problems": [
                {"line": 2, "path": "costs.essay", "reason": "must be a whole number, 0 or more"}
            ],
            "version": None,
            "correlation_id": "policy-review-7",
        },
    ),
    Route(
        method="POST",
        path="/v1/admin/policies",
        handler=apply_policy,
        rule=roles(Role.ADMIN),
        tag="policies",
        summary="Put a document in force, everywhere; one that was superseded does not come back.",
        request=PolicyApplyRequest,
        responses={201: PolicyApplyResponse, 200: PolicyApplyResponse},
        problems=(409,),
        example={"content": _DOCUMENT, "reason": "prices of the spring term"},
        answer={
            "version": _VERSION,
            "changed": False,
            "active": True,
            "correlation_id": "policy-review-7",
        },
    ),
    Route(
        method="GET",
        path="/v1/admin/policies",
        handler=policy_history,
        rule=_READERS,
        tag="policies",
        summary="Every version that was ever in force, newest first.",
        query=PoliciesQuery,
        responses={200: PoliciesResponse},
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
    Route(
        method="GET",
        path="/v1/admin/policies/diff",
        handler=diff_policies,
        rule=_READERS,
        tag="policies",
        summary="What changes between two versions, rule by rule.",
        query=PolicyDiffQuery,
        responses={200: PolicyDiffResponse},
        problems=(404,),
        answer={
            "from": _VERSION,
            "to": _VERSION[::-1],
            "changes": [{"path": "costs.essay", "before": "2", "after": "3"}],
            "correlation_id": "policy-review-7",
        },
    ),
    Route(
        method="GET",
        path="/v1/admin/policies/{version}",
        handler=show_policy,
        rule=_READERS,
        tag="policies",
        summary="One version and its document, by its first digits; `active` is the one in force.",
        responses={200: PolicyResponse},
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
