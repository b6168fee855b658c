"""The name under which a request is idempotent: its key, its job, its words, or none."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from entitlements.app.operations.request import Request
from entitlements.contracts import http
from entitlements.core.commands import Origin
from entitlements.core.model import JobKey

UNNAMED_S: Final = 3_600
"""The lifetime of receipts of unnamed requests, which only resolve commits of unknown outcome."""
REFERENCE_S: Final = 100 * 365 * 86_400
"""The lifetime of receipts of imported rows, which are never imported twice."""

Words = tuple[str | int | None, ...]
"""User, org, metric, units, batch and correlation id."""

_encoder: Final = msgspec.json.Encoder(order="deterministic")


def origin(request: Request, subjects: tuple[str | None, ...]) -> Origin:
    """Return the origin, named by the request's key; without a key the request is unique."""
    return item_origin(request, subjects, request.given, path=request.path, key=request.key)


def item_origin(
    request: Request,
    subjects: tuple[str | None, ...],
    given: Struct,
    *,
    path: str,
    key: str | None,
    correlation_id: str | None = None,
) -> Origin:
    """Return the origin of a command; single (at ``path``) and bulk requests share names.

    ``given`` is the body as sent: its fingerprint does not depend on rules for names.
    """
    named = partial(_origin, request, correlation_id=correlation_id)
    if key is None:
        return named(f"u:{request.engine.new_id()}", "", UNNAMED_S)
    digest = _digest("POST", path, *subjects, _without_ids(given))
    return named(f"k:{key}", digest, request.engine.receipts_retention_s)


def consumption_origin(
    request: Request,
    given: Struct,
    *,
    key: str | None,
    subjects: tuple[str, str | None],
    words: Words,
    nth: int,
    job: JobKey | None,
    units: int,
    correlation_id: str,
) -> Origin:
    """Return the origin of a consumption. It is named by its key, else its job, else its words if
    the policy allows that. Single and bulk requests share names.

    From the second on, the ``nth`` of equal words in one bulk is named by the words and n.
    """
    named = partial(_origin, request, correlation_id=correlation_id)
    if key is not None:
        path = http.CONSUME.path
        return item_origin(
            request, subjects, given, path=path, key=key, correlation_id=correlation_id
        )

    if job is not None:
        # Includes the units: the same job with other units must reach the ledger, as a conflict.
        digest = _digest(*job, units)
        return named(f"j:{digest}", digest, request.engine.receipts_retention_s)

    lifetime_s = request.engine.policies.active.implicit_idempotency_s
    if lifetime_s is None or request.is_its_own:
        return named(f"u:{request.engine.new_id()}", "", UNNAMED_S)
    digest = _digest(*words) if nth == 1 else _digest(*words, nth)
    return named(f"w:{digest}", digest, lifetime_s)


def reference_origin(request: Request, reference: str, *content: object) -> Origin:
    """Return the origin of an imported row, named by its reference for good."""
    return _origin(request, f"r:{reference}", _digest(*content), REFERENCE_S)


def _origin(
    request: Request,
    key: str,
    fingerprint: str,
    lifetime_s: int,
    *,
    correlation_id: str | None = None,
) -> Origin:
    caller = request.caller
    assert caller is not None, "changes need an authenticated caller"
    return Origin(
        actor=caller.actor,
        client=caller.client,
        correlation_id=correlation_id or request.correlation_id,
        key=key,
        fingerprint=fingerprint,
        lifetime_s=lifetime_s,
        traceparent=request.traceparent,
    )


_IDS: Final = frozenset(("user_id", "org_id", "subject_id", "idempotency_key"))

_ADDED: Final[Sequence[tuple[type[msgspec.Struct], str]]] = (
    (http.AdjustRequest, "expires_at"),
    (http.SettleDebtRequest, "amount"),
)
"""Fields that earlier versions did not have: if omitted, they do not change the fingerprint."""


def _without_ids(body: Struct) -> dict[str, object]:
    """Return the fields, except the key and the ids, which are digested in normalised form."""
    fields = msgspec.structs.asdict(body)
    left_out = {name for kind, name in _ADDED if isinstance(body, kind) and fields[name] is None}
    return {name: fields[name] for name in fields if name not in _IDS | left_out}


def _digest(*parts: object) -> str:
    return sha256(_encoder.encode(parts)).hexdigest()
