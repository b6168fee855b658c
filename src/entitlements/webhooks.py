"""Signatures of webhooks: made by the service, checked by receivers with `verify`.

The scheme is that of the Standard Webhooks specification (standardwebhooks.com), version 1 with
shared secrets: HMAC-SHA256 over ``id.timestamp.body``. Needs nothing but the standard library.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Final

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - every secret begins so
SECRET_BYTES: Final = 32
TOLERANCE_S: Final = 300
_VERSION: Final = "v1,"
_SIGNATURES_MAX: Final = 20
_DIGITS_MAX: Final = 20


class NotVerified(Exception):
    """The message is not known to come from who has the secret; it must not be acted upon."""


def new_secret() -> str:
    """256 random bits, as both sides keep them."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signatures(message_id: str, timestamp: int, body: bytes, of: Iterable[str]) -> str:
    """The header's value: a signature with each of the secrets, separated by spaces."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(_VERSION + _signature(secret, signed) for secret in of)


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secret: str,
    tolerance_s: int = TOLERANCE_S,
    *,
    now: float | None = None,
) -> str:
    """The id of the message, if it was signed with the secret not longer than ``tolerance_s`` ago.

    ``body`` must be the bytes as they were received. An event may come more than once, each time
    under the same id. Raises NotVerified; ValueError for a secret that is none.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, sent_at, shown = given[ID], given[TIMESTAMP], given[SIGNATURE]
    except KeyError as missing:
        raise NotVerified(f"the header {missing.args[0]} is missing") from None
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= _DIGITS_MAX):
        raise NotVerified(f"{TIMESTAMP} is no number of seconds")
    present = time.time() if now is None else now  # noqa: TID251 - the receiver's own clock
    if abs(present - int(sent_at)) > tolerance_s:
        raise NotVerified("the message is too old, or the clocks differ")
    expected = _signature(secret, f"{message_id}.{sent_at}.".encode() + body).encode()
    offered = shown.split(" ", _SIGNATURES_MAX)[:_SIGNATURES_MAX]
    # Every signature is compared, each in constant time: which one fits is nobody's business.
    fits = [
        hmac.compare_digest(expected, one.removeprefix(_VERSION).encode())
        for one in offered
        if one.startswith(_VERSION)
    ]
    if not any(fits):
        raise NotVerified("no signature fits")
    return message_id


def _signature(secret: str, signed: bytes) -> str:
    try:
        key = b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError("the secret is not whole") from None
    if not key:
        # Anybody can sign with it.
        raise ValueError("the secret is empty")
    return b64encode(hmac.digest(key, signed, "sha256")).decode()
