"""The one table of what goes wrong and what it is over HTTP."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from msgspec import UNSET

from entitlements.app.access import Unauthenticated
from entitlements.app.committer import DeadlineExceeded, Overloaded
from entitlements.app.limits import LimiterUnavailable
from entitlements.app.policies import NoSuchPolicy, PolicyUnusable, Superseded
from entitlements.app.ports import Contended, Unavailable
from entitlements.contracts.problem import FieldError, Problem
from entitlements.core.outcomes import RefusalCode, Refused
from entitlements.core.pricing import AmountTooLarge

STATUS: Final[Mapping[str, int]] = {
    "validation_failed": 400,
    "invalid_json": 400,
    "unknown_host": 400,
    RefusalCode.BELOW_ZERO: 400,
    RefusalCode.HELD: 400,
    RefusalCode.AMOUNT_TOO_LARGE: 400,
    RefusalCode.INVALID_GRANT: 400,
    "unauthenticated": 401,
    RefusalCode.INSUFFICIENT_CREDITS: 402,
    RefusalCode.POLICY_DENIED: 402,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    RefusalCode.JOB_CONFLICT: 409,
    RefusalCode.NOT_REVERSIBLE: 409,
    RefusalCode.REVERSED_ALREADY: 409,
    RefusalCode.DEBT_CLOSED: 409,
    RefusalCode.HOLD_CLOSED: 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    RefusalCode.KEY_REUSED: 422,
    RefusalCode.RATE_LIMIT_EXCEEDED: 429,
    "internal_error": 500,
    "policy_superseded": 409,
    "policy_unusable": 503,
    "unavailable": 503,
    "limiter_unavailable": 503,
    "contended": 503,
    "overloaded": 503,
    "deadline_exceeded": 503,
}
"""The status of every code."""

CODES: Final[Mapping[type[BaseException], str]] = {
    Unauthenticated: "unauthenticated",
    AmountTooLarge: RefusalCode.AMOUNT_TOO_LARGE,
    Overloaded: "overloaded",
    DeadlineExceeded: "deadline_exceeded",
    NoSuchPolicy: "not_found",
    Superseded: "policy_superseded",
    PolicyUnusable: "policy_unusable",
    Unavailable: "unavailable",
    LimiterUnavailable: "limiter_unavailable",
    Contended: "contended",
    Exception: "internal_error",
}
"""The code of what the layers below raise, looked up along the exception's ancestry."""

_OPAQUE: Final[Mapping[str, str]] = {
    "internal_error": "The request failed for a reason of ours; it has been logged.",
    "unavailable": "The database does not answer; nothing is known to have been changed.",
    "limiter_unavailable": "The limiter does not answer.",
    "contended": "Others were faster; nothing was changed. The same again may pass.",
    "deadline_exceeded": "The request was not decided in time.",
    "overloaded": "Too many requests are waiting.",
}
"""Details that do not repeat what an exception says: it may speak of the inside."""

_WWW_AUTHENTICATE: Final = (b"www-authenticate", b'Bearer realm="entitlements"')


class Rejected(Exception):
    """The request gets a problem instead of an answer."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: tuple[tuple[bytes, bytes], ...] = (),
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.data = data


def invalid(field: str, message: str) -> Rejected:
    """One field is not valid."""
    errors = (FieldError(field=field, message=message),)
    return Rejected("validation_failed", f"{field}: {message}", errors=errors)


def refused(refusal: Refused, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Rejected:
    return Rejected(refusal.code, refusal.detail, headers=headers, data=refusal.data or None)


def of(error: BaseException) -> Rejected:
    """What the caller is told of anything that was raised."""
    if isinstance(error, Rejected):
        return error

    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if code == "unauthenticated":
        headers = (_WWW_AUTHENTICATE,)
    elif STATUS[code] == HTTPStatus.SERVICE_UNAVAILABLE:
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1
        headers = ((b"retry-after", str(wait_s).encode()),)
    return Rejected(code, _OPAQUE.get(code) or str(error), headers=headers)


def body(rejected: Rejected, correlation_id: str) -> Problem:
    status = STATUS[rejected.code]
    return Problem(
        type=f"urn:entitlements:problem:{rejected.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=rejected.detail,
        code=str(rejected.code),
        correlation_id=correlation_id,
        errors=rejected.errors,
        data=rejected.data if rejected.data is not None else UNSET,
    )
