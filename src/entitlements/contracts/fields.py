"""Validation of values, with errors that name the field."""

import re
from typing import Final

import msgspec

from entitlements.contracts.errors import InvalidRequest, invalid

KEY_MAX: Final = 255
_VISIBLE: Final = re.compile(r"[!-~]{1,255}")
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
"""W3C Trace Context, section 3.2.2; later versions can append further fields."""
_TRACEPARENT_SIZE: Final = 55
_WHERE: Final = re.compile(r"(?P<message>.*) - at `(?P<path>[^`]*)`(?: in `(?P<parent>[^`]*)`)?$")


NOT_A_TIME: Final = "must be a time with an offset, as 2026-09-01T08:00:00Z"
_OF_TIMES: Final = re.compile(r"RFC3339|Expected `datetime`")


def not_valid(error: msgspec.ValidationError, whole: str = "body") -> InvalidRequest:
    """Convert a decoder error such as `Expected … - at `$.amount`` to a field and a message.

    ``whole`` is the field name of an error that belongs to no single field.
    """
    text = str(error)
    match = _WHERE.match(text)
    path = (match["parent"] or match["path"]) if match else "$"
    message = match["message"] if match else text
    if _OF_TIMES.search(message):
        message = NOT_A_TIME
    field = path.removeprefix("$").removeprefix(".") or whole
    missing = re.search(r"required field `([^`]*)`", message)
    if missing:
        field = missing[1] if field == whole else f"{field}.{missing[1]}"
        message = "is required"
    return invalid(field, message)


def visible_key(field: str, key: str) -> str:
    """Return the key if it is 1 to 255 visible ASCII characters, else raise InvalidRequest."""
    if _VISIBLE.fullmatch(key) is None:
        raise invalid(field, f"must be 1 to {KEY_MAX} visible ASCII characters")
    return key


def traceparent(raw: bytes | None) -> str | None:
    """Return the caller's span in version 00 format.

    Return None for a malformed header, as the standard demands.
    """
    if raw is None or not _TRACEPARENT.fullmatch(raw):
        return None
    if len(raw) > _TRACEPARENT_SIZE and raw.startswith(b"00"):
        return None
    return f"00{raw[2:_TRACEPARENT_SIZE].decode()}"
