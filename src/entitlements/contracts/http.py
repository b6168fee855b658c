"""Bodies and query strings of the HTTP interface, as sent on the wire.

Integers are strict: text, floats and booleans are invalid. Unknown request fields are ignored.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

AMOUNT_MAX = 10**15
METRICS_MAX = 1_000
ITEMS_MAX = 1_000
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

SubjectType = Literal["org", "user"]
SubjectId = (
    Annotated[
        str,
        Meta(
            description="Text of 1 to 255 characters after Unicode NFC, no control characters.",
            extra_json_schema={"maxLength": 255},
        ),
    ]
    | Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX, description="Taken as its decimal digits.")]
)
Metric = Annotated[
    str, Meta(min_length=1, max_length=255, description="Printable characters, verbatim.")
]
CreditType = Annotated[str, Meta(min_length=1, max_length=255)]
Text255 = Annotated[
    str, Meta(max_length=255, description="Stored verbatim; no control characters.")
]
IdempotencyKey = Annotated[
    str,
    Meta(
        description="1 to 255 visible ASCII characters.",
        max_length=255,
        extra_json_schema={"minLength": 1, "pattern": "^[!-~]+$"},
    ),
]
Reason = Annotated[str, Meta(min_length=1, max_length=1_000, description="No control characters.")]
OptionalReason = Annotated[str, Meta(max_length=1_000, description="No control characters.")]
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
PositiveAmount = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
AwareTime = Annotated[datetime, Meta(tz=True)]
SignedAmount = Annotated[int, Meta(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]


def _one_of(*values: str) -> Meta:
    """Return a closed set of values for the schema.

    In Python the type is plain text, so that a client accepts the values of later versions.
    """
    return Meta(extra_json_schema={"enum": list(values)})


DenialReason = Annotated[
    str, _one_of("policy_denied", "rate_limit_exceeded", "insufficient_credits")
]
OperationStatus = Annotated[str, _one_of("completed", "failed", "pending")]
ConsumeStatus = Annotated[str, _one_of("completed", "failed", "pending", "refused")]
ConsumedFrom = Literal["org", "user", "none"]
OperationKind = Literal[
    "consume", "grant", "activation", "expiry", "revocation", "manual_adjustment", "reversal",
    "settlement", "write_off", "hold", "extension", "release", "lapse",
]  # fmt: skip
RecordedKind = Annotated[str, _one_of(*get_args(OperationKind))]


# --- checks


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

    gate: Literal["policy", "limit", "debt_gate", "payer"]
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
    detail: str | UnsetType = UNSET
    limits: list[LimitStanding] | UnsetType = UNSET
    degraded: bool | UnsetType = UNSET
    explain: ExplanationItem | UnsetType = UNSET


class BulkCheckRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A check of several metrics at once. ``requirements`` are units by metric."""

    user_id: SubjectId
    org_id: SubjectId | None = None
    requirements: Annotated[dict[Metric, Amount], Meta(max_length=METRICS_MAX)]
    correlation_id: Text255 | None = None


class MetricDecision(Struct, frozen=True, gc=False, kw_only=True):
    """One metric's part of a decision: credits required, and those available of its type."""

    required: int
    available: int
    allowed: bool
    source: SubjectType | None
    reason: DenialReason | None
    detail: str | UnsetType = UNSET


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


# --- consumption


class ConsumeRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Finished work: ``amount`` units. The correlation id can be in the header instead.

    ``service_name`` and ``processing_id``, with the batch if there is one, identify a job, which
    is charged once.
    """

    user_id: SubjectId
    org_id: SubjectId | None = None
    metric: Metric
    amount: PositiveAmount
    batch_id: Text255 | None = None
    correlation_id: Text255 | None = None
    service_name: Text255 | None = None
    processing_id: Text255 | None = None


class ConsumeResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The result of a consumption.

    ``success`` false means that no payer covers the work: ``owed`` credits are recorded as a debt,
    and ``candidates`` has the credits of each candidate payer at that time. With the reason
    ``policy_denied`` and nothing owed yet, the policy has no price for the work.
    """

    success: bool
    new_balance: int
    consumed_from: ConsumedFrom
    operation_id: str | None
    credits: int
    status: OperationStatus
    owed: int
    reason: DenialReason | None
    correlation_id: str
    replayed: bool
    candidates: CandidatesItem | UnsetType = UNSET


class ConsumeItem(ConsumeRequest, frozen=True, gc=False, kw_only=True):
    """One consumption of a bulk request, with its own idempotency key in place of the header."""

    idempotency_key: IdempotencyKey | None = None


class BulkConsumeRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Several consumptions. ``atomic``: all items are charged, or none."""

    items: Annotated[list[ConsumeItem], Meta(min_length=1, max_length=ITEMS_MAX)]
    atomic: bool = False


class ConsumeResult(Struct, frozen=True, gc=False, kw_only=True):
    """The result of one item: the response of a single consumption, or a refusal.

    A refused item has the status ``refused`` and neither balance nor operation. ``code``,
    ``detail`` and ``data`` give the cause; ``reason`` repeats ``code``.
    """

    success: bool
    new_balance: int | None
    consumed_from: ConsumedFrom
    operation_id: str | None
    credits: int
    status: ConsumeStatus
    owed: int
    reason: str | None
    correlation_id: str
    replayed: bool
    candidates: CandidatesItem | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET


class BulkConsumeResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the items; ``success`` is true if all items succeeded."""

    success: bool
    results: list[ConsumeResult]
    correlation_id: str


class ReverseRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A reversal of ``amount`` credits; by default of all that has not been reversed yet."""

    reason: Reason
    amount: PositiveAmount | None = None


class ReverseResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``credits`` were reversed now, ``total_reversed`` so far. ``lapsed`` expired immediately."""

    success: bool
    operation_id: str | None
    reverses: str
    credits: int
    total_reversed: int
    lapsed: int
    new_balance: int
    correlation_id: str
    replayed: bool


# --- balances


class BalanceQuery(Struct, frozen=True, kw_only=True):
    org_id: str | None = None


class SoonestExpiry(Struct, frozen=True, gc=False, kw_only=True):
    """The next expiry: the credits that are lost unless they are spent before."""

    at: datetime
    credits: int


class Holding(Struct, frozen=True, gc=False, kw_only=True):
    """A subject's credits of one type; ``soonest_expiry`` is null if nothing expires."""

    balance: int
    held: int
    available: int
    soonest_expiry: SoonestExpiry | None


class BalanceResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Balances; the top-level ones are of the type ``credits``. Without an org, its are null."""

    user_id: str
    user_balance: int
    org_balance: int | None
    org_id: str | None
    user_held: int
    user_available: int
    org_held: int | None
    org_available: int | None
    by_credit_type: dict[str, dict[SubjectType, Holding]]


# --- administration


class AdjustRequest(Struct, frozen=True, gc=False, kw_only=True):
    """An adjustment: a positive ``amount`` grants credits, a negative one burns them.

    Granted credits can expire (``expires_at``). ``expires_at`` with a negative amount, and amount
    0, are refused.
    """

    subject_type: SubjectType
    subject_id: SubjectId
    amount: SignedAmount
    reason: Reason
    credit_type: CreditType = "credits"
    expires_at: AwareTime | None = None
    correlation_id: Text255 | None = None


class AdjustResponse(Struct, frozen=True, gc=False, kw_only=True):
    success: bool
    new_balance: int
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    operation_id: str | None
    correlation_id: str
    replayed: bool


class SetRequest(Struct, frozen=True, gc=False, kw_only=True):
    subject_type: SubjectType
    subject_id: SubjectId
    balance: Amount
    reason: OptionalReason | None = None
    credit_type: CreditType = "credits"
    correlation_id: Text255 | None = None


class SetResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``operation_id`` is null if the balance was already at the target."""

    success: bool
    balance: int
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    delta: int
    operation_id: str | None
    correlation_id: str
    replayed: bool


class AccountRequest(Struct, frozen=True, gc=False, kw_only=True):
    subject_type: SubjectType
    subject_id: SubjectId
    correlation_id: Text255 | None = None


class AccountResponse(Struct, frozen=True, gc=False, kw_only=True):
    """An account. If ``created`` is false, it existed before and got its bonus then."""

    success: bool
    created: bool
    bonus: int
    new_balance: int
    subject_type: SubjectType
    subject_id: str
    operation_id: str | None
    correlation_id: str
    replayed: bool


class ItemResult(Struct, frozen=True, gc=False, kw_only=True):
    """The problem's fields of a refused item, as if the item had been sent alone."""

    status: int | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET


class AdjustItem(AdjustRequest, frozen=True, gc=False, kw_only=True):
    """One adjustment of a bulk request, with its own idempotency key in place of the header."""

    idempotency_key: IdempotencyKey | None = None


class BulkAdjustRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Several adjustments. ``atomic``: all items are applied, or none."""

    items: Annotated[list[AdjustItem], Meta(min_length=1, max_length=ITEMS_MAX)]
    atomic: bool = False


class AdjustResult(ItemResult, frozen=True, gc=False, kw_only=True):
    """The response of a single adjustment; a refused item has neither balance nor operation."""

    success: bool
    new_balance: int | None
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    operation_id: str | None
    correlation_id: str
    replayed: bool


class BulkAdjustResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the items; ``success`` is true if all items succeeded."""

    success: bool
    results: list[AdjustResult]
    correlation_id: str


class SetItem(SetRequest, frozen=True, gc=False, kw_only=True):
    """One balance of a bulk request, with its own idempotency key in place of the header."""

    idempotency_key: IdempotencyKey | None = None


class BulkSetRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Several balances to set. ``atomic``: all items are applied, or none."""

    items: Annotated[list[SetItem], Meta(min_length=1, max_length=ITEMS_MAX)]
    atomic: bool = False


class SetResult(ItemResult, frozen=True, gc=False, kw_only=True):
    """The response of a single set; a refused item has neither balance nor operation."""

    success: bool
    balance: int | None
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    delta: int
    operation_id: str | None
    correlation_id: str
    replayed: bool


class BulkSetResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the items; ``success`` is true if all items succeeded."""

    success: bool
    results: list[SetResult]
    correlation_id: str


class AccountItem(AccountRequest, frozen=True, gc=False, kw_only=True):
    """One account of a bulk request, with its own idempotency key in place of the header."""

    idempotency_key: IdempotencyKey | None = None


class BulkAccountRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Several accounts to open. ``atomic``: all items are opened, or none."""

    items: Annotated[list[AccountItem], Meta(min_length=1, max_length=ITEMS_MAX)]
    atomic: bool = False


class AccountResult(ItemResult, frozen=True, gc=False, kw_only=True):
    """The response of a single account; a refused item has neither balance nor operation."""

    success: bool
    created: bool
    bonus: int
    new_balance: int | None
    subject_type: SubjectType
    subject_id: str
    operation_id: str | None
    correlation_id: str
    replayed: bool


class BulkAccountResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the items; ``success`` is true if all items succeeded."""

    success: bool
    results: list[AccountResult]
    correlation_id: str


PageLimit = Annotated[int, Meta(ge=1, le=1_000)]


class RateLimitsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Every limit of the subject under the active policy.

    ``passes_in_seconds`` is for one more unit.
    """

    subject_id: str
    limits: list[LimitStanding]
    degraded: bool
    correlation_id: str


class ResetRateLimitRequest(Struct, frozen=True, gc=False, kw_only=True):
    subject_id: SubjectId
    metric: Metric
    reason: OptionalReason | None = None


class ResetRateLimitResponse(Struct, frozen=True, gc=False, kw_only=True):
    success: bool
    message: str
    correlation_id: str
    replayed: bool = False


class OperationsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive.

    ``key`` is the idempotency key of a request, of any client, as long as the key is retained.
    Without subject_id, correlation_id, hold_id, key or status ``failed``, a filter looks back 31
    days from ``until`` unless ``since`` is given.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    key: str | None = None
    hold_id: str | None = None
    metric: str | None = None
    status: Literal["completed", "failed", "pending"] | None = None
    kind: OperationKind | None = None
    user_id: str | None = None
    org_id: str | None = None
    batch_id: str | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class DrawItem(Struct, frozen=True, gc=False, kw_only=True):
    """The credits that one grant paid; negative if it received credits."""

    grant_id: str
    quantity: int


class OperationItem(Struct, frozen=True, gc=False, kw_only=True):
    """One entry of the ledger: ``amount`` is in credits and never negative, ``delta`` is signed."""

    id: str
    seq: int
    kind: RecordedKind
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    user_id: str | None
    org_id: str | None
    metric: str | None
    quantity: int
    amount: int
    delta: int
    balance_after: int
    owed: int
    draws: tuple[DrawItem, ...]
    batch_id: str | None
    consumed_from: ConsumedFrom
    correlation_id: str
    operation_status: OperationStatus
    reason: str | None
    policy_version: str
    actor: str
    client: str
    reverses: str | None
    hold_id: str | None
    created_at: datetime
    effective_at: datetime


class OperationsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Operations, newest first. ``next_cursor`` is null on the last page.

    A page reads at most 20,000 operations, so a filtered page can be empty without being the last.
    ``since`` is the start of the listed period; null if it has none.
    """

    operations: list[OperationItem]
    count: int
    next_cursor: str | None
    since: datetime | None = None
    correlation_id: str


class DebtsQuery(Struct, frozen=True, kw_only=True):
    status: Literal["open", "all"] = "open"
    limit: PageLimit = 100
    cursor: str | None = None


class DebtItem(Struct, frozen=True, gc=False, kw_only=True):
    """A debt. ``operation_id`` is the failed operation, ``closed_by`` the one that closed the debt.

    ``owed`` is the open amount, or null while the work has no price.
    """

    operation_id: str
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    metric: str
    owed: int | None
    created_at: datetime
    closed_by: str | None


class DebtsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Debts, oldest first. ``next_cursor`` is null on the last page."""

    debts: list[DebtItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class DebtRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class SettleDebtRequest(DebtRequest, frozen=True, gc=False, kw_only=True):
    """Settles ``amount``, by default as much as is available; never more than is owed."""

    amount: PositiveAmount | None = None


class DebtResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``operation_id`` is the settlement or write-off of ``credits``.

    ``owed`` is the rest of the debt, which is closed when it is 0.
    """

    success: bool
    operation_id: str | None
    debt_id: str
    how: Literal["settled", "written_off"]
    credits: int
    owed: int
    new_balance: int
    correlation_id: str
    replayed: bool


class DebtPricedResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``operation_id`` has charged ``credits`` and closed the debt, or recorded ``owed``."""

    success: bool
    operation_id: str | None
    debt_id: str
    credit_type: str
    credits: int
    owed: int
    consumed_from: ConsumedFrom
    new_balance: int
    correlation_id: str
    replayed: bool


# --- the audit log


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive."""

    actor: str | None = None
    client: str | None = None
    action: str | None = None
    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class AuditItem(Struct, frozen=True, gc=False, kw_only=True):
    """One administrative act; the subject is null if it concerns no user or org."""

    id: str
    at: datetime
    actor: str
    client: str
    action: str
    subject_type: SubjectType | None
    subject_id: str | None
    reason: str | None
    detail: dict[str, Any]
    correlation_id: str


class AuditResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Audit entries, newest first. ``next_cursor`` is null on the last page."""

    entries: list[AuditItem]
    count: int
    next_cursor: str | None
    correlation_id: str


# --- inbound events


UseOutcome = Literal["charged", "free", "failed", "duplicate", "conflict", "settled"]


class ConsumptionRecordsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive."""

    user_id: str | None = None
    org_id: str | None = None
    resource_type: str | None = None
    outcome: UseOutcome | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class ConsumptionRecordItem(Struct, frozen=True, gc=False, kw_only=True):
    """The result of one usage report.

    For a duplicate or conflict, ``operation_id`` is the operation that it repeats. ``event_type``
    is ``request`` if a request repeated a job.
    """

    id: str
    event_id: str
    event_type: str
    source_service: str
    user_id: str | None
    org_id: str | None
    resource_type: str
    units: int
    service_name: str | None
    processing_id: str | None
    batch_id: str | None
    hold_id: str | None
    outcome: UseOutcome
    operation_id: str | None
    credits: int
    owed: int
    reason: str | None
    correlation_id: str
    trace_id: str | None
    reported_at: datetime | None
    consumed_at: datetime | None
    recorded_at: datetime


class ConsumptionRecordsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Consumption records, newest first. ``next_cursor`` is null on the last page."""

    records: list[ConsumptionRecordItem]
    count: int
    next_cursor: str | None
    correlation_id: str


DeadLetterState = Literal["open", "replayed", "dropped"]
DeadLetterReason = Literal["malformed", "unpriceable", "failed"]


class DeadLettersFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything, except ``state``."""

    state: Literal["open", "replayed", "dropped", "all"] = "open"
    topic: str | None = None
    reason: DeadLetterReason | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class DeadLetterItem(Struct, frozen=True, gc=False, kw_only=True):
    """An event that could not be processed, with its topic, partition and offset."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: DeadLetterReason
    detail: str
    died_at: datetime
    state: DeadLetterState
    closed_at: datetime | None


class DeadLettersResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Dead letters, newest first. ``next_cursor`` is null on the last page."""

    dead_letters: list[DeadLetterItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class HeaderItem(Struct, frozen=True, gc=False, kw_only=True):
    name: str
    value: bytes | None


class DeadLetterResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The original event; bytes are base64. ``text`` is the value as text, or null."""

    dead_letter: DeadLetterItem
    key: bytes | None
    value: bytes | None
    text: str | None
    headers: list[HeaderItem]
    correlation_id: str


class ReplayRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class ReplayResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``success`` false: the event still cannot be processed; ``result`` and ``detail`` say why."""

    success: bool
    dead_letter_id: str
    state: DeadLetterState
    result: str
    detail: str | None
    operation_id: str | None
    correlation_id: str
    replayed: bool = False


class DropRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: Reason


class DropResponse(Struct, frozen=True, gc=False, kw_only=True):
    success: bool
    dead_letter_id: str
    state: DeadLetterState
    correlation_id: str
    replayed: bool = False


class ConsumedPartition(Struct, frozen=True, gc=False, kw_only=True):
    """``position`` is the next offset to read, ``lag`` the number of unread records.

    Each is null if the broker has not reported it.
    """

    topic: str
    partition: int
    position: int | None
    lag: int | None


class ConsumerResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The consumer of the responding process; ``status`` is ``none`` if it has no consumer."""

    status: Literal["none", "running", "paused", "restarting", "stopped"]
    group: str | None
    problem: str | None
    restarts: int
    partitions: list[ConsumedPartition]
    correlation_id: str


# --- holds


HoldState = Literal["open", "settled", "released", "lapsed"]
Requirements = Annotated[dict[Metric, Amount], Meta(max_length=METRICS_MAX)]
TtlSeconds = Annotated[
    int, Meta(ge=1, le=86_400, description="The hold's lifetime in seconds, from now.")
]


class HoldRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A hold of the cost of ``requirements`` (units by metric), or of ``credits`` of a type."""

    user_id: SubjectId
    org_id: SubjectId | None = None
    requirements: (
        Annotated[dict[Metric, Amount], Meta(min_length=1, max_length=METRICS_MAX)] | None
    ) = None
    credits: PositiveAmount | None = None
    credit_type: Text255 | None = None
    ttl_seconds: TtlSeconds = 300
    correlation_id: Text255 | None = None


class HoldResponse(Struct, frozen=True, gc=False, kw_only=True):
    """A hold of ``credits`` of ``credit_type``, the first type, until ``expires_at``.

    ``source`` is null if all of it is free.
    """

    hold_id: str
    credits: int
    credit_type: str
    source: SubjectType | None
    expires_at: datetime
    by_credit_type: dict[str, int]
    correlation_id: str
    replayed: bool


class SettleHoldRequest(Struct, frozen=True, gc=False, kw_only=True):
    """The actual usage: units by metric in ``requirements``, or ``credits``.

    ``credit_type`` defaults to the hold's first type. ``final`` false settles a part and keeps the
    rest held.
    """

    requirements: Requirements | None = None
    credits: Amount | None = None
    credit_type: Text255 | None = None
    final: bool = True


class ExtendHoldRequest(Struct, frozen=True, gc=False, kw_only=True):
    ttl_seconds: TtlSeconds


class ReleaseHoldRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class HoldNumbersItem(Struct, frozen=True, gc=False, kw_only=True):
    """The effect of the request on the hold, in credits of one type; ``held`` is still held."""

    charged: int
    returned: int
    held: int
    owed: int


class HoldChangeResponse(Struct, frozen=True, gc=False, kw_only=True):
    """A changed hold. The top-level numbers are those of ``credit_type``.

    ``lapsed``: it was settled after it had lapsed, as a plain consumption.
    """

    hold_id: str
    status: HoldState
    credit_type: str
    charged: int
    returned: int
    held: int
    owed: int
    consumed_from: ConsumedFrom
    new_balance: int
    operation_id: str | None
    expires_at: datetime
    lapsed: bool
    by_credit_type: dict[str, HoldNumbersItem]
    correlation_id: str
    replayed: bool


class HoldPartItem(Struct, frozen=True, gc=False, kw_only=True):
    """Credits of one type: ``taken`` is the sum of ``held``, ``charged`` and ``returned``."""

    taken: int
    held: int
    charged: int
    returned: int
    backing: tuple[DrawItem, ...]


class HoldSettlementItem(Struct, frozen=True, gc=False, kw_only=True):
    """The charge of a settlement after the lapse, a plain consumption, in ``credit_type``."""

    charged: int
    owed: int
    lapsed: bool
    operation_id: str | None
    credit_type: str


class HoldItem(Struct, frozen=True, gc=False, kw_only=True):
    """The current state of a hold; ``settled`` is the units by metric settled so far.

    ``settlement`` is null unless the hold was settled after its lapse. The charge of such a
    settlement is not in ``by_credit_type``, because nothing was held any more.
    """

    hold_id: str
    status: HoldState
    subject_type: SubjectType
    subject_id: str
    user_id: str
    org_id: str | None
    requirements: dict[str, int] | None
    settled: dict[str, int]
    by_credit_type: dict[str, HoldPartItem]
    settlement: HoldSettlementItem | None
    expires_at: datetime
    correlation_id: str
    policy_version: str
    actor: str
    client: str
    created_at: datetime
    closed_at: datetime | None


class HoldsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything, except ``status``."""

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    status: Literal["open", "settled", "released", "lapsed", "all"] = "open"
    limit: PageLimit = 100
    cursor: str | None = None


class HoldsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Holds, newest first. ``next_cursor`` is null on the last page."""

    holds: list[HoldItem]
    count: int
    next_cursor: str | None
    correlation_id: str


# --- policies


Document = Annotated[str, Meta(max_length=1_000_000, description="A policy document in YAML.")]
Version = Annotated[
    str, Meta(description="SHA-256 of the document in hex, or its first digits; or `active`.")
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


# --- health


class HealthCheck(Struct, frozen=True, kw_only=True):
    """The state of one part; a warning leaves the service healthy."""

    status: Literal["healthy", "warning", "unhealthy"]
    message: str = ""


class HealthResponse(Struct, frozen=True, kw_only=True):
    service: str
    status: Literal["healthy", "unhealthy"]
    message: str
    version: str
    checks: dict[str, HealthCheck]
    environment: str


class ProbeResponse(Struct, frozen=True, kw_only=True):
    status: Literal["alive", "ready", "not_ready"]


class OutboxRelay(Struct, frozen=True, gc=False, kw_only=True):
    """A relay and the outbox buckets that it leases.

    ``relay`` is null for buckets that no relay publishes now. ``sink`` is the external sink of the
    buckets, or null if they have none.
    """

    relay: str | None
    sink: str | None
    buckets: int
    expires_at: datetime | None


class OutboxResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Waiting and parked events, each counted up to 10,000, and the relays."""

    waiting: int
    oldest_at: datetime | None
    parked: int
    relays: list[OutboxRelay]
    correlation_id: str


class ParkedQuery(Struct, frozen=True, kw_only=True):
    limit: PageLimit = 100
    cursor: str | None = None


class ParkedItem(Struct, frozen=True, gc=False, kw_only=True):
    """A parked event. ``attempts`` counts those of the relay that parked it.

    ``reason`` is the error of the sink.
    """

    event_id: str
    event_type: str
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    seq: int
    reason: str
    attempts: int
    created_at: datetime
    parked_at: datetime


class ParkedResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Parked events, the earliest parked first. ``next_cursor`` is null on the last page."""

    events: list[ParkedItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class OutboxRequest(Struct, frozen=True, gc=False, kw_only=True):
    reason: OptionalReason | None = None


class OutboxChanged(Struct, frozen=True, gc=False, kw_only=True):
    """``changed`` is the number of changed events or outbox buckets."""

    success: bool
    changed: int
    correlation_id: str
    replayed: bool = False
