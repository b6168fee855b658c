"""Policy versions: check, apply, list, compare."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final

from entitlements.app.operations.request import Request, UseCases
from entitlements.app.policy.active import (
    PolicyUnusable,
    activate,
    before,
    brief,
    document,
    find,
    rules,
)
from entitlements.app.policy.document import DocumentProblem, PolicyError, parse
from entitlements.app.ports import PolicyVersion
from entitlements.contracts import errors, http
from entitlements.contracts.problem import FieldError
from entitlements.core.policy_diff import difference
from entitlements.lifecycle import known_handlers

CONTENT: Final = "content"
PROBLEMS_MAX: Final = 100


async def check(request: Request, body: http.PolicyCheckRequest) -> http.PolicyCheckResponse:
    """Return whether the document is valid, and its problems."""
    problems: list[DocumentProblem] = []
    version = None
    try:
        # In a thread: parsing a long document would delay other requests.
        read = partial(parse, body.content, source=CONTENT, handlers=known_handlers())
        version = (await asyncio.to_thread(read)).version
    except PolicyError as error:
        problems = error.problems
    return http.PolicyCheckResponse(
        valid=not problems,
        problems=[http.PolicyProblem(line=p.line, path=p.path, reason=p.reason) for p in problems],
        version=version,
        correlation_id=request.correlation_id,
    )


async def apply(request: Request, body: http.PolicyApplyRequest) -> http.PolicyApplyResponse:
    """Activate the document for all processes."""
    engine = request.engine
    act = request.act(body.reason)
    try:
        policy, changed = await activate(
            engine.store.policies, body.content, source="api", name=CONTENT, act=act
        )
    except PolicyError as error:
        raise _not_valid(error) from None
    with suppress(PolicyUnusable):  # a newer program has activated another one since
        await engine.policies.refresh(engine.store.policies, source="api")
    return http.PolicyApplyResponse(
        version=policy.version,
        changed=changed,
        active=engine.policies.active.version == policy.version,
        correlation_id=request.correlation_id,
    )


def _not_valid(error: PolicyError) -> errors.InvalidRequest:
    named = tuple(
        FieldError(
            field=CONTENT,
            message=": ".join(part for part in (f"line {line}", path, reason) if part),
        )
        for line, path, reason in error.problems[:PROBLEMS_MAX]
    )
    return errors.InvalidRequest("validation_failed", brief(error), errors=named)


async def history(request: Request, wanted: http.PoliciesQuery) -> http.PoliciesResponse:
    found = await request.engine.store.policies.versions(before=wanted.before, limit=wanted.limit)
    return http.PoliciesResponse(
        policies=[_item(version) for version in found],
        count=len(found),
        next_before=found[-1].activated_at if len(found) == wanted.limit else None,
        correlation_id=request.correlation_id,
    )


def _item(version: PolicyVersion) -> http.PolicyItem:
    return http.PolicyItem(
        version=version.version,
        activated_at=version.activated_at,
        actor=version.actor,
        active=version.active,
    )


async def show(request: Request, _: None) -> http.PolicyResponse:
    versions = request.engine.store.policies
    found = await find(versions, request.params["version"])
    return http.PolicyResponse(
        version=found.version,
        activated_at=found.activated_at,
        actor=found.actor,
        active=found.active,
        content=await document(versions, found.version),
        problems=_problems(request) if found.active else {},
        correlation_id=request.correlation_id,
    )


def _problems(request: Request) -> dict[str, str]:
    return {str(place): why for place, why in request.engine.policies.problems.items()}


async def diff(request: Request, wanted: http.PolicyDiffQuery) -> http.PolicyDiffResponse:
    versions = request.engine.store.policies
    until = await find(versions, wanted.until)
    if wanted.since is None:
        since = await before(versions, until)
    else:
        since = await find(versions, wanted.since)
    changes = difference(await rules(versions, since.version), await rules(versions, until.version))
    return http.PolicyDiffResponse(
        since=since.version,
        until=until.version,
        changes=[http.PolicyChange(path=c.path, before=c.before, after=c.after) for c in changes],
        correlation_id=request.correlation_id,
    )


USE_CASES: Final[UseCases] = {
    http.POLICIES: history,
    http.POLICY: show,
    http.DIFF_POLICIES: diff,
    http.CHECK_POLICY: check,
    http.APPLY_POLICY: apply,
}
