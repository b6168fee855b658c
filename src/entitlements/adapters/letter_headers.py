"""The headers of a dead letter as text, for headers of any bytes."""

from base64 import b64decode, b64encode

import msgspec

from entitlements.app.inbox.store import Headers

_decode = msgspec.json.Decoder(list[tuple[str, str | None]]).decode


def headers_text(headers: Headers) -> str:
    """Return the headers as JSON: [[name, base64 or null], ...]."""
    pairs = [(k, None if v is None else b64encode(v).decode()) for k, v in headers]
    return msgspec.json.encode(pairs).decode()


def headers_of(text: str) -> Headers:
    return tuple((k, None if v is None else b64decode(v)) for k, v in _decode(text))
