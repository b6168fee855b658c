"""The exceptions of the Python interfaces: one per kind of problem, in process and over HTTP.

A denied check and a consumption that no payer covers are responses. They raise nothing unless the
caller sets ``raise_on_shortfall``.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal

from msgspec import to_builtins

from entitlements.contracts.http import BulkCheckResponse, ConsumeResponse, ConsumeResult
from entitlements.contracts.problem import FieldError


class EntitlementsError(Exception):
    """The base class of all exceptions of the Python interfaces."""


class Closed(EntitlementsError):
    """Raised when the engine or client is not open, or not available in this process."""


class Shortfall(EntitlementsError):
    """Raised for finished work that no payer covers, or that has no price; it becomes a debt.

    ``answers`` is the response of a consumption, or the results of all items of a bulk; those with
    ``success`` true were charged. A repeat of the request charges nothing.
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
    """Raised when a request is refused; nothing was changed.

    ``code`` is stable and for programs; ``detail`` is text for people. ``data`` holds the numbers
    behind the refusal. ``retry_after_s`` is the time after which the same request can succeed, or
    None if waiting does not help.
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
        """Return the HTTP status of the code."""
        return STATUS.get(self.code, 500)


class InvalidRequest(Refused):
    """Raised for an invalid request; ``errors`` lists the fields that are wrong."""


class Unauthenticated(Refused):
    """Raised when the credential is missing or unknown."""


class Forbidden(Refused):
    """Raised when the credential's role, or a missing entitlement, does not permit the request."""


class InsufficientCredits(Refused):
    """Raised when no candidate payer has enough credits.

    A program can raise it as well, with the detail alone: ``InsufficientCredits("1000 needed")``.
    """

    def __init__(self, code: str, detail: str | None = None, **facts: Any) -> None:
        if detail is None:
            code, detail = "insufficient_credits", code
        super().__init__(code, detail, **facts)

    @property
    def required(self) -> int | None:
        """Return the required credits, if known."""
        return self._credits("required")

    @property
    def available(self) -> int | None:
        """Return the available credits, if known."""
        return self._credits("available")

    def _credits(self, name: str) -> int | None:
        """Return a number of ``data``, where that of a denied check has another name."""
        found: int | None = self.data.get(name, self.data.get(f"{name}_credits"))
        return found


InsufficientCreditsError = InsufficientCredits
"""The name in the package `entitlements`."""


class PolicyDenied(Refused):
    """Raised when the policy has no price for the metric, or requires something else first."""


class NotFound(Refused):
    """Raised when the named object does not exist."""


class Conflict(Refused):
    """Raised when the request conflicts with the current state."""


class KeyReused(Refused):
    """Raised when the idempotency key was used for another request."""


class RateLimited(Refused):
    """Raised when a rate limit is exceeded."""


Applied = Literal["no", "unknown"]


class Unavailable(EntitlementsError):
    """Raised when the service is unavailable. It is safe to retry with the same idempotency key.

    ``applied`` is ``no`` if nothing was changed, ``unknown`` if the change may have been made.
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
        """Return the ``data`` of the problem over HTTP."""
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
    "unknown_plan": 400,
    "invalid_period": 400,
    "unauthenticated": 401,
    "insufficient_credits": 402,
    "policy_denied": 402,
    "forbidden": 403,
    "not_entitled": 403,
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
    "subscription_exists": 409,
    "subscription_ended": 409,
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
"""The HTTP status of every code."""

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


def error_class(code: str, status: int | None = None) -> type[Refused]:
    """Return the exception class of a code; for an unknown code, that of ``status``."""
    if code == "policy_denied":
        return PolicyDenied
    return _KINDS.get(status or STATUS.get(code, 500), Refused)


def invalid(field: str, message: str) -> InvalidRequest:
    """Return the exception for one invalid field."""
    named = (FieldError(field=field, message=message),)
    return InvalidRequest("validation_failed", f"{field}: {message}", errors=named)


def denied(check: BulkCheckResponse) -> Refused:
    """Return the exception for a denied check; ``data`` is the check's response."""
    code = check.denial_reason or "insufficient_credits"
    limits = check.limits or ()
    waits_s = [limit.passes_in_seconds for limit in limits]
    known_s = [wait_s for wait_s in waits_s if wait_s is not None]
    limits_s = max(known_s) if known_s and len(known_s) == len(waits_s) else None
    return error_class(code)(
        code,
        f"denied: {check.required_credits} credits are required, "
        f"{check.available_credits} are available"
        if code == "insufficient_credits"
        else f"denied: {code}",
        data=to_builtins(check),
        retry_after_s=check.retry_after_seconds or limits_s,
        correlation_id=check.correlation_id,
    )
