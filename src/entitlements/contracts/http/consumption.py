"""Bodies of consumptions and their reversal."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from entitlements.contracts.http.checks import CandidatesItem
from entitlements.contracts.http.fields import (
    ITEMS_MAX,
    ConsumedFrom,
    DenialReason,
    IdempotencyKey,
    Metric,
    Name,
    OperationStatus,
    PositiveAmount,
    Reason,
    SubjectId,
    SubjectType,
    Text255,
    one_of,
)
from entitlements.contracts.verbs import Verb

ConsumeStatus = Annotated[str, one_of("completed", "failed", "pending", "refused")]


class ConsumeRequest(Struct, frozen=True, gc=False, kw_only=True):
    """Finished work: ``amount`` units. The correlation id can be in the header instead.

    ``service_name`` and ``processing_id``, with the batch if there is one, identify a job, which
    is charged once.
    """

    user_id: SubjectId
    org_id: SubjectId | None = None
    metric: Metric
    amount: PositiveAmount
    batch_id: Name | None = None
    correlation_id: Text255 | None = None
    service_name: Name | None = None
    processing_id: Name | None = None


class ConsumedPart(Struct, frozen=True, gc=False, kw_only=True):
    """One subject's part of a consumption that the org and the user share."""

    operation_id: str
    subject_type: SubjectType
    subject_id: str
    credits: int
    new_balance: int


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
    allowance_units: int | UnsetType = UNSET
    parts: list[ConsumedPart] | UnsetType = UNSET


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
    allowance_units: int | UnsetType = UNSET
    parts: list[ConsumedPart] | UnsetType = UNSET
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    data: dict[str, Any] | UnsetType = UNSET


class BulkConsumeResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the items; ``success`` is true if all items succeeded."""

    success: bool
    results: list[ConsumeResult]
    correlation_id: str


class ReverseRequest(Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
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
    allowance_units: int | UnsetType = UNSET


CONSUME: Final = Verb(
    "consume", "POST", "/v1/entitlements/consume-credits", ConsumeRequest, ConsumeResponse
)
CONSUME_ALL: Final = Verb(
    "consume_bulk", "POST", f"{CONSUME.path}/bulk", BulkConsumeRequest, BulkConsumeResponse
)
REVERSE: Final = Verb(
    "reverse",
    "POST",
    "/v1/entitlements/operations/{operation_id}/reverse",
    ReverseRequest,
    ReverseResponse,
)
