"""Why a request was not answered: one exception for each kind, the same in process and over HTTP.

A denied check and work that nobody could pay are answers, and raise nothing unless
``raise_on_shortfall`` was asked for.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal

from msgspec import to_builtins

from entitlements.contracts.http import BulkCheckResponse, ConsumeResponse, ConsumeResult
from entitlements.contracts.problem import FieldError


class EntitlementsError(Exception):
    """Whatever the Python surfaces raise of their own."""


class Closed(EntitlementsError):
    """What was to answer is not open, or not in this process."""


class Shortfall(EntitlementsError):
    """Finished work that nobody could pay, or that has no price: it is recorded, and owed.

    ``answers`` are the response to a consumption, or the results of each item of a bulk: those
    with ``success`` true were charged. The same again charges nothing.
    """

    def __init__(self, answers: Sequence[ConsumeResponse | ConsumeResult]) -> None:
        failed = [answer for answer in answers if not answer.success]
        owed = sum(answer.owed for answer in failed)
        super().__init__(
            f"{len(failed)} of {len(answers)} consumptions were not paid, {owed} credits are owed;"
            f" the first failed operation is {failed[0].operation_id}"
        )
        self.answers = answers


class Refused(EntitlementsError):
    """Not done, and nothing was changed. ``code`` is for programs and stable, the text for people.

    ``data`` holds the numbers behind it; ``retry_after_s`` is when the same again may pass, none
    where waiting does not help.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        data: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = str(code)
        self.detail = detail
        self.errors = errors
        self.data: Mapping[str, Any] = data or {}
        self.retry_after_s = retry_after_s
        self.correlation_id = correlation_id

    @property
    def status(self) -> int:
        """What it is over HTTP."""
        return STATUS.get(self.code, 500)


class InvalidRequest(Refused):
    """Not to be understood, or out of bounds; ``errors`` name the fields."""


class Unauthenticated(Refused):
    """No credential, or none that is known."""


class Forbidden(Refused):
    """The credential's role may not do this."""


class InsufficientCredits(Refused):
    """Nobody who could pay has enough."""


class PolicyDenied(Refused):
    """The policy has no price for it, or wants something else first."""


class NotFound(Refused):
    """What was named does not exist."""


class Conflict(Refused):
    """What is there already says otherwise."""


class KeyReused(Refused):
    """The idempotency key has named another request before."""


class RateLimited(Refused):
    """Too many in too short a time."""


Applied = Literal["no", "unknown"]


class Unavailable(EntitlementsError):
    """No answer; the same again, with the same key, is done once.

    ``applied`` is ``no`` where nothing was changed, and ``unknown`` where the change may be made.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        applied: Applied = "unknown",
        retry_after_s: int | None = 1,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = str(code)
        self.detail = detail
        self.applied: Applied = applied
        self.retry_after_s = retry_after_s
        self.correlation_id = correlation_id

    @property
    def data(self) -> Mapping[str, Any]:
        """What goes with the problem over HTTP."""
        return {"applied": self.applied}


STATUS: Final[Mapping[str, int]] = {
    "validation_failed": 400,
    "invalid_json": 400,
    "unknown_host": 400,
    "idempotency_key_not_supported": 400,
    "below_zero": 400,
    "held": 400,
    "amount_too_large": 400,
    "invalid_grant": 400,
    "unauthenticated": 401,
    "insufficient_credits": 402,
    "policy_denied": 402,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "job_conflict": 409,
    "not_reversible": 409,
    "reversed_already": 409,
    "nothing_left": 409,
    "debt_closed": 409,
    "unpriced": 409,
    "priced": 409,
    "hold_closed": 409,
    "hold_unknown": 409,
    "dead_letter_closed": 409,
    "policy_superseded": 409,
    "webhook_exists": 409,
    "webhook_limit": 409,
    "webhook_secrets": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_key_reused": 422,
    "rate_limit_exceeded": 429,
    "internal_error": 500,
    "records_unreadable": 500,
    "policy_unusable": 503,
    "unavailable": 503,
    "limiter_unavailable": 503,
    "contended": 503,
    "overloaded": 503,
}
"""The status of every code."""

_KINDS: Final[Mapping[int, type[Refused]]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.PAYMENT_REQUIRED: InsufficientCredits,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.METHOD_NOT_ALLOWED: InvalidRequest,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: InvalidRequest,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: InvalidRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: KeyReused,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
}


def kind_of(code: str, status: int | None = None) -> type[Refused]:
    """The exception of a code; one that is not known here goes by its status."""
    if code == "policy_denied":
        return PolicyDenied
    return _KINDS.get(status or STATUS.get(code, 500), Refused)


def invalid(field: str, message: str) -> InvalidRequest:
    """One field is not valid."""
    named = (FieldError(field=field, message=message),)
    return InvalidRequest("validation_failed", f"{field}: {message}", errors=named)


def denied(check: BulkCheckResponse) -> Refused:
    """What a denied check is where work was to start: ``data`` is the check's answer."""
    code = check.denial_reason or "insufficient_credits"
    limits = check.limits or ()
    waits_s = [limit.passes_in_seconds for limit in limits]
    known_s = [wait_s for wait_s in waits_s if wait_s is not None]
    limits_s = max(known_s) if known_s and len(known_s) == len(waits_s) else None
    return kind_of(code)(
        code,
        f"denied: {check.required_credits} credits are required, "
        f"{check.available_credits} are available"
        if code == "insufficient_credits"
        else f"denied: {code}",
        data=to_builtins(check),
        retry_after_s=check.retry_after_seconds or limits_s,
        correlation_id=check.correlation_id,
    )
