"""Under which name a request is remembered: its key, its job, its words, or none."""

import re
from hashlib import sha256
from typing import Final

import msgspec

from entitlements.core.commands import Origin
from entitlements.core.model import JobKey
from entitlements.transports.http.problems import invalid
from entitlements.transports.http.request import Request

KEY_MAX: Final = 255
DAY_S: Final = 86_400
UNNAMED_S: Final = 3_600
"""Receipts of requests without a name only answer for a commit whose end was not seen."""

_VISIBLE: Final = re.compile(rb"[!-~]{1,255}")
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def origin(request: Request, subjects: tuple[str | None, ...], body: msgspec.Struct) -> Origin:
    """Named by the header's key; without one the request is its own and never repeated."""
    key = _header_key(request)
    if key is None:
        return _origin(request, f"u:{request.service.new_id()}", "", UNNAMED_S)
    return _keyed(request, key, subjects, body)


def consumption_origin(
    request: Request,
    body: msgspec.Struct,
    *,
    subjects: tuple[str, str | None],
    words: tuple[str | int | None, ...],
    job: JobKey | None,
    units: int,
) -> Origin:
    """Named by the header's key, else the job, else, as the policy says, word for word."""
    key = _header_key(request)
    if key is not None:
        return _keyed(request, key, subjects, body)

    if job is not None:
        # With the units: the same job with others must reach the ledger, which calls it a conflict.
        digest = _digest(*job, units)
        return _origin(request, f"j:{digest}", digest, _retention_s(request))

    lifetime_s = request.service.policies.active.implicit_idempotency_s
    if lifetime_s is None:
        return _origin(request, f"u:{request.service.new_id()}", "", UNNAMED_S)
    digest = _digest(*words)
    return _origin(request, f"w:{digest}", digest, lifetime_s)


def _keyed(
    request: Request, key: str, subjects: tuple[str | None, ...], body: msgspec.Struct
) -> Origin:
    digest = _digest(request.method, request.path, *subjects, _without_ids(body))
    return _origin(request, f"k:{key}", digest, _retention_s(request))


def _header_key(request: Request) -> str | None:
    raw = request.headers.get(b"idempotency-key")
    if raw is None:
        return None
    if _VISIBLE.fullmatch(raw) is None:
        raise invalid("Idempotency-Key", f"must be 1 to {KEY_MAX} visible ASCII characters")
    return raw.decode("ascii")


def _origin(request: Request, key: str, fingerprint: str, lifetime_s: int) -> Origin:
    caller = request.caller
    assert caller is not None, "only routes with roles change anything"
    return Origin(
        actor=caller.actor,
        client=caller.client,
        correlation_id=request.correlation_id,
        key=key,
        fingerprint=fingerprint,
        lifetime_s=lifetime_s,
    )


def _retention_s(request: Request) -> int:
    return request.service.settings.receipts_retention_days * DAY_S


_IDS: Final = frozenset(("user_id", "org_id", "subject_id"))


def _without_ids(body: msgspec.Struct) -> dict[str, object]:
    """The fields that the subjects do not stand for; those come in normalised."""
    return {name: value for name, value in msgspec.structs.asdict(body).items() if name not in _IDS}


def _digest(*parts: object) -> str:
    return sha256(_encoder.encode(parts)).hexdigest()
