"""The one table of what goes wrong below the surfaces, and what a caller is told of it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from entitlements.app.access import Unauthenticated
from entitlements.app.committer import Overloaded
from entitlements.app.limits import LimiterUnavailable
from entitlements.app.policies import NoSuchPolicy, PolicyUnusable, Superseded
from entitlements.app.ports import Contended, Unavailable, Unreadable
from entitlements.contracts import errors
from entitlements.core.outcomes import RefusalCode, Refused
from entitlements.core.pricing import AmountTooLarge
from entitlements.core.windows import Ask, Standing

Stands = Sequence[tuple[Ask, Standing]]

CODES: Final[Mapping[type[BaseException], str]] = {
    Unauthenticated: "unauthenticated",
    AmountTooLarge: RefusalCode.AMOUNT_TOO_LARGE,
    Overloaded: "overloaded",
    NoSuchPolicy: "not_found",
    Superseded: "policy_superseded",
    PolicyUnusable: "policy_unusable",
    Unavailable: "unavailable",
    LimiterUnavailable: "limiter_unavailable",
    Contended: "contended",
    Unreadable: "records_unreadable",
}
"""The code of what the layers below raise, looked up along the exception's ancestry."""

_OPAQUE: Final[Mapping[str, str]] = {
    "unavailable": "The database does not answer; nothing was changed.",
    "limiter_unavailable": "The limiter does not answer.",
    "contended": "Others were faster; nothing was changed. The same again may pass.",
    "overloaded": "Too many requests are waiting.",
}
"""Details that do not repeat what an exception says: it may speak of the inside."""
_UNKNOWN: Final = (
    "The database did not answer to a commit, which may have been done: "
    "the same request with the same key tells."
)


class LimitExceeded(errors.RateLimited):
    """A refusal that knows which limits were in the way."""

    def __init__(self, refusal: Refused, exceeded: Stands) -> None:
        super().__init__(
            refusal.code, refusal.detail, data=refusal.data, retry_after_s=longest_wait_s(exceeded)
        )
        self.exceeded = exceeded


def refused(refusal: Refused) -> errors.Refused:
    """A command's refusal, as its kind."""
    return errors.kind_of(refusal.code)(refusal.code, refusal.detail, data=refusal.data)


def told(error: BaseException) -> errors.Refused | errors.Unavailable | None:
    """What the caller is told of anything that was raised; none: a mistake of ours."""
    if isinstance(error, errors.Refused | errors.Unavailable):
        return error
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
    if code is None:
        return None
    detail = _OPAQUE.get(code) or str(error)
    applied = error.applied if isinstance(error, Unavailable) else "no"
    if applied == "unknown":
        detail = _UNKNOWN
    if errors.STATUS[code] != HTTPStatus.SERVICE_UNAVAILABLE:
        return errors.kind_of(code)(code, detail)
    wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1
    return errors.Unavailable(code, detail, applied=applied, retry_after_s=wait_s)


def longest_wait_s(exceeded: Stands) -> int | None:
    """When all of them pass, in whole seconds; none: not by waiting."""
    waits_ms = [standing.passes_in_ms for _, standing in exceeded]
    if not waits_ms or any(wait_ms is None for wait_ms in waits_ms):
        return None
    return max(seconds(wait_ms) for wait_ms in waits_ms if wait_ms is not None)


def seconds(ms: int) -> int:
    """Rounded up: who waits so long will pass."""
    return -(-ms // 1000)
