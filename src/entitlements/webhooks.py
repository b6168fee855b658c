"""Webhook signatures: the service signs, receivers check with `verify`.

The scheme is that of the Standard Webhooks specification (standardwebhooks.com), version 1 with
shared secrets: HMAC-SHA256 over ``id.timestamp.body``. It only needs the standard library.
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
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the prefix of every secret
SECRET_BYTES: Final = 32
TOLERANCE_S: Final = 300
_VERSION: Final = "v1,"
_SIGNATURES_MAX: Final = 20
_DIGITS_MAX: Final = 20


class NotVerified(Exception):
    """Raised when a message is not signed with the secret; the receiver must not process it."""


def new_secret() -> str:
    """Return a new secret of 256 random bits, in the format that both sides store."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signatures(message_id: str, timestamp: int, body: bytes, of: Iterable[str]) -> str:
    """Return the signature header: one signature per secret, separated by spaces."""
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
    """Return the id of a message that was signed with the secret, at most ``tolerance_s`` ago.

    ``body`` must be the received bytes, unchanged. An event can arrive more than once, always with
    the same id. Raise NotVerified, or ValueError for a malformed secret.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, sent_at, shown = given[ID], given[TIMESTAMP], given[SIGNATURE]
    except KeyError as missing:
        raise NotVerified(f"the header {missing.args[0]} is missing") from None
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= _DIGITS_MAX):
        raise NotVerified(f"{TIMESTAMP} is not a number of seconds")
    present = time.time() if now is None else now  # noqa: TID251 - the receiver's own clock
    if abs(present - int(sent_at)) > tolerance_s:
        raise NotVerified("the message is too old, or the clocks differ")
    expected = _signature(secret, f"{message_id}.{sent_at}.".encode() + body).encode()
    offered = shown.split(" ", _SIGNATURES_MAX)[:_SIGNATURES_MAX]
    # Compare every signature in constant time, so that timing does not show which one matches.
    fits = [
        hmac.compare_digest(expected, one.removeprefix(_VERSION).encode())
        for one in offered
        if one.startswith(_VERSION)
    ]
    if not any(fits):
        raise NotVerified("no matching signature")
    return message_id


def _signature(secret: str, signed: bytes) -> str:
    try:
        key = b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError("the secret is malformed") from None
    if not key:
        # Every sender can sign with it.
        raise ValueError("the secret is empty")
    return b64encode(hmac.digest(key, signed, "sha256")).decode()
