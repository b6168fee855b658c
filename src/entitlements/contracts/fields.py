"""Values by their contracts, and which field is wrong."""

import re
from typing import Final

import msgspec

from entitlements.contracts.errors import InvalidRequest, invalid

_WHERE: Final = re.compile(r"(?P<message>.*) - at `(?P<path>[^`]*)`(?: in `(?P<parent>[^`]*)`)?$")


def not_valid(error: msgspec.ValidationError) -> InvalidRequest:
    """The decoder says `Expected … - at `$.amount``; callers want the field and the sentence."""
    text = str(error)
    match = _WHERE.match(text)
    path = (match["parent"] or match["path"]) if match else "$"
    message = match["message"] if match else text
    field = path.removeprefix("$").removeprefix(".") or "body"
    missing = re.search(r"required field `([^`]*)`", message)
    if missing:
        field = missing[1] if field == "body" else f"{field}.{missing[1]}"
        message = "is required"
    return invalid(field, message)
