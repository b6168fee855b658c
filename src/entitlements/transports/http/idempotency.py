"""Under which name a request is remembered: its key, its job, its words, or none."""

import re
from functools import partial
from hashlib import sha256
from typing import Final

import msgspec

from entitlements.core.commands import Origin
from entitlements.core.model import JobKey
from entitlements.transports.http.problems import invalid
from entitlements.transports.http.request import Request

CONSUME_PATH: Final = "/v1/entitlements/consume-credits"
KEY_MAX: Final = 255
DAY_S: Final = 86_400
UNNAMED_S: Final = 3_600
"""Receipts of requests without a name only answer for a commit whose end was not seen."""

_VISIBLE: Final = re.compile(r"[!-~]{1,255}")
_encoder: Final = msgspec.json.Encoder(order="deterministic")


def origin(request: Request, subjects: tuple[str | None, ...], body: msgspec.Struct) -> Origin:
    """Named by the header's key; without one the request is its own and never repeated."""
    key = header_key(request)
    if key is None:
        return _origin(request, f"u:{request.service.new_id()}", "", UNNAMED_S)
    digest = _digest(request.method, request.path, *subjects, _without_ids(body))
    return _origin(request, f"k:{key}", digest, _retention_s(request))


def consumption_origin(
    request: Request,
    body: msgspec.Struct,
    *,
    key: str | None,
    subjects: tuple[str, str | None],
    words: tuple[str | int | None, ...],
    job: JobKey | None,
    units: int,
    correlation_id: str,
) -> Origin:
    """Named by the key, else the job, else, as the policy says, word for word: the same name
    whether it comes alone or among others.
    """
    named = partial(_origin, request, correlation_id=correlation_id)
    if key is not None:
        digest = _digest("POST", CONSUME_PATH, *subjects, _without_ids(body))
        return named(f"k:{key}", digest, _retention_s(request))

    if job is not None:
        # With the units: the same job with others must reach the ledger, which calls it a conflict.
        digest = _digest(*job, units)
        return named(f"j:{digest}", digest, _retention_s(request))

    lifetime_s = request.service.policies.active.implicit_idempotency_s
    if lifetime_s is None:
        return named(f"u:{request.service.new_id()}", "", UNNAMED_S)
    digest = _digest(*words)
    return named(f"w:{digest}", digest, lifetime_s)


def header_key(request: Request) -> str | None:
    raw = request.headers.get(b"idempotency-key")
    return None if raw is None else visible_key("Idempotency-Key", raw.decode("latin-1"))


def visible_key(field: str, key: str) -> str:
    """The key as it may be kept; raises Rejected."""
    if _VISIBLE.fullmatch(key) is None:
        raise invalid(field, f"must be 1 to {KEY_MAX} visible ASCII characters")
    return key


def _origin(
    request: Request,
    key: str,
    fingerprint: str,
    lifetime_s: int,
    *,
    correlation_id: str | None = None,
) -> Origin:
    caller = request.caller
    assert caller is not None, "only routes with roles change anything"
    return Origin(
        actor=caller.actor,
        client=caller.client,
        correlation_id=correlation_id or request.correlation_id,
        key=key,
        fingerprint=fingerprint,
        lifetime_s=lifetime_s,
    )


def _retention_s(request: Request) -> int:
    return request.service.settings.receipts_retention_days * DAY_S


_IDS: Final = frozenset(("user_id", "org_id", "subject_id", "idempotency_key"))


def _without_ids(body: msgspec.Struct) -> dict[str, object]:
    """The fields that neither the subjects, which come in normalised, nor the key stand for."""
    return {name: value for name, value in msgspec.structs.asdict(body).items() if name not in _IDS}


def _digest(*parts: object) -> str:
    return sha256(_encoder.encode(parts)).hexdigest()
