"""Bodies of rate limits and their reset."""

from typing import Final

from msgspec import Struct

from entitlements.contracts.http.checks import LimitStanding
from entitlements.contracts.http.fields import Metric, OptionalReason, StoredId
from entitlements.contracts.verbs import Verb


class LimitUsage(LimitStanding, frozen=True, gc=False, kw_only=True):
    """The state of a limit, and the units from which on it is near; null if nothing warns."""

    warn_at: int | None = None


class RateLimitsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Every limit of the subject under the active policy.

    ``passes_in_seconds`` is for one more unit.
    """

    subject_id: str
    limits: list[LimitUsage]
    degraded: bool
    correlation_id: str


class ResetRateLimitRequest(Struct, frozen=True, gc=False, kw_only=True):
    subject_id: StoredId
    metric: Metric
    reason: OptionalReason | None = None


class ResetRateLimitResponse(Struct, frozen=True, gc=False, kw_only=True):
    success: bool
    message: str
    correlation_id: str
    replayed: bool = False


RATE_LIMITS: Final = Verb(
    "show_rate_limits", "GET", "/v1/admin/rate-limits/{subject_id}", None, RateLimitsResponse
)
RESET_RATE_LIMIT: Final = Verb(
    "reset_rate_limit",
    "POST",
    "/v1/admin/credits/reset-rate-limit",
    ResetRateLimitRequest,
    ResetRateLimitResponse,
)
