"""Limits over HTTP: what a denial says of them, how much is used, and forgetting it."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Self
from urllib.parse import quote
from weakref import WeakValueDictionary

from entitlements.app.access import Role
from entitlements.app.limits import Looked
from entitlements.contracts.http import (
    LimitStanding,
    RateLimitsResponse,
    ResetRateLimitRequest,
    ResetRateLimitResponse,
)
from entitlements.core.limits import asks, uses, windows_of
from entitlements.core.model import AuditEntry, Subject
from entitlements.core.windows import Ask, Standing, WindowKey
from entitlements.transports.http.problems import Rejected, invalid
from entitlements.transports.http.request import Headers, Reply, Request
from entitlements.transports.http.routes import Route, roles

ADJUSTMENT: Final = "credit_adjustment"
Stands = Sequence[tuple[Ask, Standing]]


def headers(exceeded: Stands) -> Headers:
    """RateLimit and RateLimit-Policy of the IETF's draft on RateLimit fields (version 10), and
    Retry-After unless the request would never pass.
    """
    if not exceeded:
        return ()
    policies, states = [], []
    for ask, standing in exceeded:
        name = _name(ask.window)
        wait = "" if standing.passes_in_ms is None else f";t={_seconds(standing.passes_in_ms)}"
        policies.append(f'"{name}";q={ask.limit};w={ask.window.window_s}')
        states.append(f'"{name}";r={max(0, ask.limit - standing.used)}{wait}')
    found = (
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    )
    waits_ms = [standing.passes_in_ms for _, standing in exceeded]
    if any(wait_ms is None for wait_ms in waits_ms):
        return found
    longest_s = max(_seconds(wait_ms) for wait_ms in waits_ms if wait_ms is not None)
    return (*found, (b"retry-after", str(longest_s).encode()))


def standings(stands: Iterable[tuple[Ask, Standing]]) -> list[LimitStanding]:
    return [
        LimitStanding(
            metric=ask.window.metric,
            per=ask.window.subject.type,
            limit=ask.limit,
            window_seconds=ask.window.window_s,
            used=standing.used,
            remaining=max(0, ask.limit - standing.used),
            passes_in_seconds=None
            if standing.passes_in_ms is None
            else _seconds(standing.passes_in_ms),
        )
        for ask, standing in stands
    ]


def _name(window: WindowKey) -> str:
    """Unlike any other limit of the request; its text is printable ASCII without quotes."""
    return f"{quote(window.metric, safe='')}/{window.subject.type}/{window.window_s}"


def _seconds(ms: int) -> int:
    """Rounded up: who waits so long will pass."""
    return -(-ms // 1000)


class OperatorLimit:
    """Adjustments of one operator, one after the other, so that none slips past the limit while
    another is under way. Without credentials nobody is counted.
    """

    def __init__(self, request: Request) -> None:
        assert request.caller is not None
        self._service = request.service
        self._actor = request.caller.actor
        self._counts = request.service.settings.auth != "none"
        self._turn = _turns.setdefault(self._actor, asyncio.Lock()) if self._counts else None
        self._exceeded: Stands = ()

    async def __aenter__(self) -> Self:
        if self._turn is None:
            return self
        await self._turn.acquire()
        try:
            await self._look()
        except BaseException:
            self._turn.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._turn is not None:
            self._turn.release()

    async def _look(self) -> None:
        policy = self._service.policies.active
        asked = asks(policy, {ADJUSTMENT: 1}, user_id=self._actor, org_id=None)
        looked = await self._service.limits.look(asked)
        stands = zip(asked, looked.standings, strict=True)
        self._exceeded = [(ask, standing) for ask, standing in stands if not standing.passes]

    @property
    def is_exceeded(self) -> bool:
        return bool(self._exceeded)

    @property
    def headers(self) -> Headers:
        return headers(self._exceeded)

    def count(self) -> None:
        """An adjustment was made, not just answered again."""
        if self._turn is not None:
            policy = self._service.policies.active
            made = uses(policy, ADJUSTMENT, 1, user_id=self._actor, org_id=None)
            self._service.limits.record(made)


_turns: Final[WeakValueDictionary[str, asyncio.Lock]] = WeakValueDictionary()


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
