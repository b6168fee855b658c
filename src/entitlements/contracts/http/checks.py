"""Bodies of checks, and the explanation of their decisions."""

from datetime import datetime
from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from entitlements.contracts.http.fields import (
    Amount,
    DenialReason,
    Metric,
    Requirements,
    SubjectId,
    SubjectType,
    Text255,
)
from entitlements.contracts.verbs import Verb


class CheckRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A check of one metric. ``amount`` is in units of the metric."""

    user_id: SubjectId
    org_id: SubjectId | None = None
    metric: Metric
    amount: Amount = 1


class LimitStanding(Struct, frozen=True, gc=False, kw_only=True):
    """The state of a limit.

    ``passes_in_seconds`` is when the requested amount would pass if nothing else were used, or
    null if the amount alone exceeds the limit.
    """

    metric: str
    per: SubjectType
    limit: int
    window_seconds: int
    used: int
    remaining: int
    passes_in_seconds: int | None


class CheckQuery(Struct, frozen=True, kw_only=True):
    """``explain`` adds the gates, wallets and draws of the decision."""

    explain: bool = False


class GateItem(Struct, frozen=True, gc=False, kw_only=True):
    """One step of the decision; ``skipped``: it was not reached, or had nothing to evaluate."""

    gate: Literal["policy", "limit", "allowance", "debt_gate", "member", "payer"]
    metric: str | UnsetType = UNSET
    verdict: Literal["pass", "fail", "skipped"]
    inputs: dict[str, Any]


class WalletItem(Struct, frozen=True, gc=False, kw_only=True):
    subject: str
    credit_type: str
    balance: int
    held: int
    available: int


class GrantDraw(Struct, frozen=True, gc=False, kw_only=True):
    """The credits that one grant would pay."""

    grant_id: str
    quantity: int
    subject: str
    credit_type: str


class ExplanationItem(Struct, frozen=True, gc=False, kw_only=True):
    """The explanation of a decision.

    ``binding`` is the gate that denied the request, or null. ``passes_at`` is when the same
    request would be allowed if nothing else happened, or null if that cannot be predicted.
    """

    policy_version: str
    at: datetime
    gates: list[GateItem]
    wallets: list[WalletItem]
    draws: list[GrantDraw]
    binding: GateItem | None
    passes_at: datetime | None


class CheckResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The decision of a check of one metric.

    ``reason`` is null if it is allowed; ``source`` is null without a payer. ``detail``, ``limits``
    and ``degraded`` are those of the bulk check.
    """

    allowed: bool
    reason: DenialReason | None
    required_credits: int
    available_credits: int
    source: SubjectType | None
    allowance_units: int | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    limits: list[LimitStanding] | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    explain: ExplanationItem | UnsetType = UNSET


class BulkCheckRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A check of several metrics at once. ``requirements`` are units by metric."""

    user_id: SubjectId
    org_id: SubjectId | None = None
    requirements: Requirements
    correlation_id: Text255 | None = None


class MetricDecision(Struct, frozen=True, gc=False, kw_only=True):
    """One metric's part of a decision: credits required, and those available of its type."""

    required: int
    available: int
    allowed: bool
    source: SubjectType | None
    reason: DenialReason | None
    detail: str | UnsetType = UNSET
    allowance_units: int | UnsetType = UNSET


class CreditTypeNeed(Struct, frozen=True, gc=False, kw_only=True):
    """Credits of one type: required, and available to user and org; ``org`` is null without one."""

    required: int
    org: int | None
    user: int


class AvailableBalances(Struct, frozen=True, gc=False, kw_only=True):
    """Available credits of the main credit type, which the top-level numbers have."""

    org: int | None
    user: int


class CandidateItem(Struct, frozen=True, gc=False, kw_only=True):
    """A candidate payer's credits, and how many of the required ones are missing."""

    balance: int
    held: int
    available: int
    missing: int


class CandidatesItem(Struct, frozen=True, gc=False, kw_only=True):
    """The candidates' credits of the main credit type; ``org`` is null without an org."""

    org: CandidateItem | None
    user: CandidateItem


class BulkCheckResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The decision of a check of several metrics. Null fields are included.

    ``balances``, ``candidates``, ``missing_credits`` and ``limits`` are only in denials.
    ``retry_after_seconds`` is present if lapsing holds alone will let the same request pass,
    ``degraded`` if the limiter that all processes share was unreachable.
    """

    allowed: bool
    required_credits: int
    available_credits: int
    per_metric: dict[str, MetricDecision]
    denial_reason: DenialReason | None
    correlation_id: str
    by_credit_type: dict[str, CreditTypeNeed]
    balances: AvailableBalances | UnsetType = UNSET
    candidates: CandidatesItem | UnsetType = UNSET
    retry_after_seconds: int | UnsetType = UNSET
    missing_credits: int | UnsetType = UNSET
    limits: list[LimitStanding] | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    explain: ExplanationItem | UnsetType = UNSET


CHECK: Final = Verb("check", "POST", "/v1/entitlements/check-credits", CheckRequest, CheckResponse)
CHECK_ALL: Final = Verb(
    "check_bulk",
    "POST",
    f"{CHECK.path}/bulk",
    BulkCheckRequest,
    BulkCheckResponse,
    answers_with=(200, 402, 429),
)
