"""Bodies of policies."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from entitlements.contracts import kinds
from entitlements.contracts.http.fields import AwareTime, OptionalReason, PageLimit
from entitlements.contracts.verbs import Verb

Document = Annotated[str, Meta(max_length=1_000_000, description="A policy document in YAML.")]
Version = Annotated[
    str,
    Meta(description="SHA-256 of the document in hex, or its first digits; or `active`."),
    kinds.TEXT_FILTER,
]


class PolicyCheckRequest(Struct, frozen=True, kw_only=True):
    content: Document


class PolicyProblem(Struct, frozen=True, kw_only=True):
    """A problem in a policy document; ``path`` is empty if it concerns the whole document."""

    line: int
    path: str
    reason: str


class PolicyCheckResponse(Struct, frozen=True, kw_only=True):
    """``version`` is the version that the document would have; null if it is invalid."""

    valid: bool
    problems: list[PolicyProblem]
    version: str | None
    correlation_id: str


class PolicyApplyRequest(Struct, frozen=True, kw_only=True):
    """A policy document to activate. ``reason`` is stored in the audit log."""

    content: Document
    reason: OptionalReason | None = None


class PolicyApplyResponse(Struct, frozen=True, kw_only=True):
    """``changed`` is false if the document was already active."""

    version: str
    changed: bool
    active: bool
    correlation_id: str


class PoliciesQuery(Struct, frozen=True, kw_only=True):
    """Omit ``before`` for the first page; pass ``next_before`` of the response for the next."""

    limit: PageLimit = 100
    before: AwareTime | None = None


class PolicyItem(Struct, frozen=True, kw_only=True):
    """A policy version. ``actor`` is the id of the key that activated it, ``system`` or ``cli``."""

    version: str
    activated_at: datetime
    actor: str
    active: bool


class PoliciesResponse(Struct, frozen=True, kw_only=True):
    """Policy versions, newest first. ``next_before`` is null on the last page."""

    policies: list[PolicyItem]
    count: int
    next_before: datetime | None
    correlation_id: str


class PolicyResponse(Struct, frozen=True, kw_only=True):
    """A policy version with its document.

    ``problems`` is set for the active version only: why the responding process cannot use a
    document, by the document's source: ``file`` or ``database``.
    """

    version: str
    activated_at: datetime
    actor: str
    active: bool
    content: str
    problems: dict[str, str]
    correlation_id: str


class PolicyDiffQuery(Struct, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}):
    """``to`` defaults to the active version, ``from`` to the version before ``to``."""

    since: Version | None = None
    until: Version = "active"


class PolicyChange(Struct, frozen=True, kw_only=True):
    """One changed rule; ``before`` is null if it was added, ``after`` if it was removed."""

    path: str
    before: str | None
    after: str | None


class PolicyDiffResponse(
    Struct, frozen=True, kw_only=True, rename={"since": "from", "until": "to"}
):
    """Without changes, the documents differ only in comments, order or written-out defaults."""

    since: str
    until: str
    changes: list[PolicyChange]
    correlation_id: str


POLICIES: Final = Verb(
    "policy_history", "GET", "/v1/admin/policies", PoliciesQuery, PoliciesResponse
)
POLICY: Final = Verb("show_policy", "GET", f"{POLICIES.path}/{{version}}", None, PolicyResponse)
DIFF_POLICIES: Final = Verb(
    "diff_policies", "GET", f"{POLICIES.path}/diff", PolicyDiffQuery, PolicyDiffResponse
)
CHECK_POLICY: Final = Verb(
    "check_policy", "POST", f"{POLICIES.path}/check", PolicyCheckRequest, PolicyCheckResponse
)
APPLY_POLICY: Final = Verb(
    "apply_policy",
    "POST",
    POLICIES.path,
    PolicyApplyRequest,
    PolicyApplyResponse,
    answers_with=(200, 201),
)
