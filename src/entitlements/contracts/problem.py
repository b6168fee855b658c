"""The body of every error: RFC 9457 problem details, with a code for programs."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class FieldError(Struct, frozen=True, kw_only=True):
    """What is wrong with one field; ``field`` is its path in the body, or the header's name."""

    field: str
    message: str


class Problem(Struct, frozen=True, kw_only=True):
    """``code`` is for programs and stable, ``detail`` for people and not.

    ``data`` holds the numbers behind a refusal, where there are any.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    correlation_id: str
    errors: tuple[FieldError, ...] = ()
    data: dict[str, Any] | UnsetType = UNSET
