"""Errors as problem+json responses."""

from http import HTTPStatus
from typing import Any, Final

from msgspec import UNSET

from entitlements.app.operations import refusals
from entitlements.contracts import errors
from entitlements.contracts.errors import STATUS
from entitlements.contracts.problem import FieldError, Problem
from entitlements.transports.http import limit_headers

Headers = tuple[tuple[bytes, bytes], ...]

_INTERNAL: Final = "The request failed with an internal error, which has been logged."
_WWW_AUTHENTICATE: Final = (b"www-authenticate", b'Bearer realm="entitlements"')


class ProblemResponse(Exception):
    """Raised when the response of a request is a problem."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Headers = (),
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.data = data


def problem_for(error: BaseException) -> ProblemResponse:
    """Return the problem for an exception."""
    if isinstance(error, ProblemResponse):
        return error
    told = refusals.to_api_error(error)
    if told is None:
        return ProblemResponse("internal_error", _INTERNAL)
    if isinstance(told, errors.Unavailable):
        return ProblemResponse(
            told.code,
            told.detail,
            headers=_retry_after(told.retry_after_s),
            data=dict(told.data),
        )
    headers: Headers = ()
    if isinstance(told, refusals.LimitRefused):
        headers = limit_headers.headers(told.exceeded)
    elif isinstance(told, errors.Unauthenticated):
        headers = (_WWW_AUTHENTICATE,)
    return ProblemResponse(
        told.code, told.detail, errors=told.errors, headers=headers, data=dict(told.data) or None
    )


def _retry_after(wait_s: int | None) -> Headers:
    return ((b"retry-after", str(wait_s).encode()),) if wait_s is not None else ()


def body(rejected: ProblemResponse, correlation_id: str) -> Problem:
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
