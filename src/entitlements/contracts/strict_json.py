"""Strict JSON decoding: bounded depth, valid UTF-8, no NaN, no lone surrogates."""

import re
from typing import Final, TypeVar

import msgspec

from entitlements.contracts.errors import InvalidRequest
from entitlements.contracts.fields import not_valid

DEPTH_MAX: Final = 32

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

T = TypeVar("T")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode the body. Raise InvalidRequest, with the field if one is wrong.

    If a key occurs twice, the last value counts.
    """
    # The decoder skips unknown fields without validating their text.
    if not body.isascii():
        _require_utf8(body)
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and depth(body) > DEPTH_MAX:
        raise InvalidRequest("invalid_json", f"the body is nested deeper than {DEPTH_MAX} levels")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise not_valid(error) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest("invalid_json", f"the body is not valid JSON: {error}") from None


def depth(body: bytes) -> int:
    """Return the nesting depth of arrays and objects, exact up to `DEPTH_MAX`.

    Brackets inside strings are ignored. It removes innermost pairs layer by layer, so the work is
    done in C for any body.
    """
    brackets = _STRINGS.sub(b"", body).translate(_ALIKE, _NO_BRACKETS)
    layers = 0
    while layers <= DEPTH_MAX and b"[]" in brackets:
        brackets = brackets.replace(b"[]", b"")
        layers += 1
    return layers + brackets.count(b"[")


def _require_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("invalid_json", "the body is not valid UTF-8") from None
