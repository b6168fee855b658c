"""Map exceptions of the lower layers to the errors that callers get."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from entitlements.app.access.keys import KeyRefused
from entitlements.app.credits.committer import Overloaded
from entitlements.app.limits.limiter import LimiterUnavailable
from entitlements.app.policy.active import NoSuchPolicy, PolicyUnusable, Superseded
from entitlements.app.ports import Contended, StoreUnavailable, TransactionOver, Unreadable
from entitlements.contracts import errors
from entitlements.core.outcomes import Refusal
from entitlements.core.pricing import AmountTooLarge
from entitlements.core.reasons import RefusalCode
from entitlements.core.windows import LimitQuery, WindowState

ExceededLimits = Sequence[tuple[LimitQuery, WindowState]]

CODES: Final[Mapping[type[BaseException], str]] = {
    KeyRefused: "unauthenticated",
    AmountTooLarge: RefusalCode.AMOUNT_TOO_LARGE,
    Overloaded: "overloaded",
    NoSuchPolicy: "not_found",
    Superseded: "policy_superseded",
    PolicyUnusable: "policy_unusable",
    StoreUnavailable: "unavailable",
    LimiterUnavailable: "limiter_unavailable",
    Contended: "contended",
    Unreadable: "records_unreadable",
}
"""The codes of exceptions, looked up along the class hierarchy."""

_OPAQUE: Final[Mapping[str, str]] = {
    "unavailable": "The database does not respond; nothing was changed.",
    "limiter_unavailable": "The limiter does not respond.",
    "contended": "A concurrent request conflicted; nothing was changed. Retry.",
    "overloaded": "Too many requests are waiting.",
}
"""Fixed details, used instead of the exception's text, which may expose internals."""
_UNKNOWN: Final = (
    "The database did not respond to a commit, which may have succeeded: "
    "repeat the request with the same key to get its outcome."
)


class LimitRefused(errors.RateLimited):
    """A refusal that carries the exceeded limits."""

    def __init__(self, refusal: Refusal, exceeded: ExceededLimits) -> None:
        super().__init__(
            refusal.code, refusal.detail, data=refusal.data, retry_after_s=longest_wait_s(exceeded)
        )
        self.exceeded = exceeded


def refused(refusal: Refusal) -> errors.Refused:
    """Return the API error of a refused command."""
    if refusal.field is not None:
        error = errors.invalid(refusal.field, refusal.detail)
        error.code = refusal.code
        return error
    return errors.error_class(refusal.code)(refusal.code, refusal.detail, data=refusal.data)


def to_api_error(error: BaseException) -> errors.Refused | errors.Unavailable | None:
    """Return the API error of an exception; None if it is a bug of the service."""
    if isinstance(error, errors.Refused | errors.Unavailable):
        return error
    if isinstance(error, TransactionOver):
        return errors.invalid("transaction", str(error))
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
    if code is None:
        return None
    detail = _OPAQUE.get(code) or str(error)
    applied = error.applied if isinstance(error, StoreUnavailable) else "no"
    if applied == "unknown":
        detail = _UNKNOWN
    if errors.STATUS[code] != HTTPStatus.SERVICE_UNAVAILABLE:
        return errors.error_class(code)(code, detail)
    wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1
    return errors.Unavailable(code, detail, applied=applied, retry_after_s=wait_s)


def longest_wait_s(exceeded: ExceededLimits) -> int | None:
    """Return the seconds until all limits pass; None if waiting does not help."""
    waits_ms = [standing.passes_in_ms for _, standing in exceeded]
    if not waits_ms or any(wait_ms is None for wait_ms in waits_ms):
        return None
    return max(seconds(wait_ms) for wait_ms in waits_ms if wait_ms is not None)


def seconds(ms: int) -> int:
    """Return whole seconds, rounded up so that a caller does not retry too early."""
    return -(-ms // 1000)
