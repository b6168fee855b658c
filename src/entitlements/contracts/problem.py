"""The body of every error: RFC 9457 problem details, with a code for programs."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class FieldError(Struct, frozen=True, kw_only=True):
    """An invalid field; ``field`` is its path in the body, or the name of the header."""

    field: str
    message: str


class Problem(Struct, frozen=True, kw_only=True):
    """An error; ``code`` is stable and for programs, ``detail`` is text for people and can change.

    ``data`` holds the numbers behind a refusal, if any.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    correlation_id: str
    errors: tuple[FieldError, ...] = ()
    data: dict[str, Any] | UnsetType = UNSET
