"""Bodies of the ledger's operations."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Struct

from entitlements.contracts.http.fields import (
    AwareTime,
    ConsumedFrom,
    IdFilter,
    OperationStatus,
    PageLimit,
    SubjectType,
    TextFilter,
    one_of,
)
from entitlements.contracts.verbs import Verb

OperationKind = Literal[
    "consume", "grant", "activation", "renewal", "expiry", "revocation", "manual_adjustment",
    "reversal", "settlement", "write_off", "hold", "extension", "release", "lapse",
    "subscription",
]  # fmt: skip
RecordedKind = Annotated[str, one_of(*get_args(OperationKind))]


class OperationsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive.

    ``key`` is the idempotency key of a request, of any client, as long as the key is retained.
    Without subject_id, correlation_id, hold_id, key or status ``failed``, a filter looks back 31
    days from ``until`` unless ``since`` is given.
    """

    subject_type: SubjectType | None = None
    subject_id: IdFilter | None = None
    correlation_id: TextFilter | None = None
    key: TextFilter | None = None
    hold_id: TextFilter | None = None
    group_id: TextFilter | None = None
    metric: TextFilter | None = None
    status: Literal["completed", "failed", "pending"] | None = None
    kind: OperationKind | None = None
    user_id: IdFilter | None = None
    org_id: IdFilter | None = None
    batch_id: TextFilter | None = None
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
    group_id: str | None
    usage_context: dict[str, Any] | None = None
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


class ImportedOperationsFilter(Struct, frozen=True, kw_only=True):
    """Omitted filters match everything. ``since`` is inclusive, ``until`` exclusive."""

    subject_type: SubjectType | None = None
    subject_id: IdFilter | None = None
    correlation_id: TextFilter | None = None
    metric: TextFilter | None = None
    status: TextFilter | None = None
    batch_id: TextFilter | None = None
    since: AwareTime | None = None
    until: AwareTime | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class ImportedOperationItem(Struct, frozen=True, gc=False, kw_only=True):
    """One operation of an older service, as it was imported. It is not part of the ledger."""

    id: str
    subject_type: SubjectType
    subject_id: str
    credit_type: str
    metric: str
    amount: int
    batch_id: str | None
    consumed_from: str | None
    correlation_id: str | None
    operation_status: str
    created_at: datetime


class ImportedOperationsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Imported operations, newest first. ``next_cursor`` is null on the last page."""

    operations: list[ImportedOperationItem]
    count: int
    next_cursor: str | None
    correlation_id: str


OPERATIONS: Final = Verb(
    "list_operations",
    "GET",
    "/v1/admin/credits/operations",
    OperationsFilter,
    OperationsResponse,
)
OPERATION: Final = Verb(
    "show_operation", "GET", f"{OPERATIONS.path}/{{operation_id}}", None, OperationItem
)
IMPORTED_OPERATIONS: Final = Verb(
    "list_imported_operations",
    "GET",
    "/v1/admin/credits/imported-operations",
    ImportedOperationsFilter,
    ImportedOperationsResponse,
)
