"""The usage of rate limits, and its reset."""

from typing import Final

from msgspec.structs import asdict

from entitlements.app.operations import acts
from entitlements.app.operations.checks import states
from entitlements.app.operations.request import Request, UseCases
from entitlements.contracts import errors, http
from entitlements.contracts.errors import invalid
from entitlements.core.limits import WindowLimit, windows_of
from entitlements.core.model import AuditEntry, Subject
from entitlements.core.windows import LimitQuery, WindowKey


async def usage(request: Request, _: None) -> http.RateLimitsResponse:
    subject_id = request.params["subject_id"]
    windows = _windows(request, subject_id)
    asked = [LimitQuery(window, found.limit, 1) for window, found in windows.items()]
    peeked = await request.engine.limits.peek(asked)
    return http.RateLimitsResponse(
        subject_id=subject_id,
        limits=[
            http.LimitUsage(**asdict(standing), warn_at=found.warn_at)
            for standing, found in zip(
                states(zip(asked, peeked.states, strict=True)), windows.values(), strict=True
            )
        ],
        degraded=peeked.is_degraded,
        correlation_id=request.correlation_id,
    )


async def reset(request: Request, body: http.ResetRateLimitRequest) -> http.ResetRateLimitResponse:
    """Reset the usage. The audit entry is written first, so that no reset is unaudited. The receipt
    is written last, so that an interrupted reset is repeated.
    """
    subject_id = str(body.subject_id)

    async def act(
        receipt: acts.ReceiptOf[http.ResetRateLimitResponse],
    ) -> http.ResetRateLimitResponse:
        response = await _reset(request, subject_id, body)
        if (kept := receipt(response)) is not None:
            await request.engine.store.acts.add_receipt(kept)
        return response

    return await acts.once(request, http.ResetRateLimitResponse, act, subject_id)


async def _reset(
    request: Request, subject_id: str, body: http.ResetRateLimitRequest
) -> http.ResetRateLimitResponse:
    engine = request.engine
    metric = body.metric
    windows = [window for window in _windows(request, subject_id) if window.metric == metric]
    if not windows:
        raise invalid("metric", "has no limit under the active policy")
    if engine.limits.is_degraded:
        raise errors.Unavailable(
            "limiter_unavailable",
            "the limiter does not respond; nothing was reset",
            applied="no",
        )

    assert request.caller is not None, "changes need an authenticated caller"
    request.ids = (subject_id, None)
    await engine.store.acts.add_audit(
        AuditEntry(
            id=engine.new_id(),
            at=engine.clock(),
            actor=request.caller.actor,
            client=request.caller.client,
            action="rate_limit.reset",
            subject=Subject("user", subject_id),
            reason=body.reason,
            detail={"metric": metric},
            correlation_id=request.correlation_id,
        )
    )
    await engine.limits.reset(windows)
    return http.ResetRateLimitResponse(
        success=True,
        message=f"usage of {metric} reset for {subject_id}",
        correlation_id=request.correlation_id,
    )


def _windows(request: Request, subject_id: str) -> dict[WindowKey, WindowLimit]:
    """Return the windows of the user and of the org with this id."""
    policy = request.engine.policies.active
    user, org = Subject("user", subject_id), Subject("org", subject_id)
    return windows_of(policy, user) | windows_of(policy, org)


USE_CASES: Final[UseCases] = {http.RATE_LIMITS: usage, http.RESET_RATE_LIMIT: reset}
