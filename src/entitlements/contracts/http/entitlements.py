"""Bodies of grants, access checks, consumption by type and summaries."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from entitlements.contracts import kinds
from entitlements.contracts.http.fields import (
    INT64_MAX,
    AwareTime,
    CreditTypeName,
    IdFilter,
    Metric,
    Name,
    OptionalReason,
    PageLimit,
    PositiveAmount,
    SubjectId,
    SubjectType,
    Text255,
    TextFilter,
    one_of,
)
from entitlements.contracts.verbs import Verb

CHECKS_MAX = 100

EntitlementType = Literal[
    "subscription",
    "product_access",
    "credit_grant",
    "feature_unlock",
    "tier_access",
    "api_access",
    "usage_allowance",
    "temporary_access",
]
ConsumableType = Literal["credit_grant", "usage_allowance"]
GrantReason = Literal[
    "purchase",
    "subscription",
    "promotion",
    "bonus",
    "trial",
    "manual",
    "enterprise_contract",
    "signup_bonus",
    "refund",
    "subscription_cancelled",
    "manual_adjustment",
]
ConsumptionType = Literal["none", "decremental", "renewable", "accumulative"]
GrantState = Annotated[str, one_of("scheduled", "active", "exhausted", "expired", "revoked")]
StateFilter = Literal["scheduled", "active", "exhausted", "expired", "revoked", "all"]
Json = Annotated[
    dict[str, Any],
    Meta(description="A JSON object of at most 16 KB, nested at most 8 deep, stored as it is."),
    kinds.JSON,
]


class GrantTerms(Struct, frozen=True, gc=False, kw_only=True):
    """What is granted, in a request or by a plan."""

    entitlement_type: EntitlementType
    credit_type: CreditTypeName | None = None
    metric: Metric | None = None
    feature: Name | None = None
    product_id: SubjectId | None = None
    tier_id: SubjectId | None = None
    subscription_id: SubjectId | None = None
    quantity_granted: PositiveAmount | None = None
    consumption_type: ConsumptionType | None = None
    priority: Annotated[
        int, Meta(ge=0, le=100, description="Grants with lower numbers are used first.")
    ] = 50
    cost_microcents: Annotated[int, Meta(ge=0, le=INT64_MAX)] | None = None
    notes: OptionalReason | None = None
    metadata: Json | None = None


class GrantRequest(GrantTerms, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A grant to ``user_id``, or to ``subject_type`` and ``subject_id``.

    Each type has fields of its own: ``credit_type`` of a credit_grant, ``subscription_id`` of a
    subscription, ``product_id`` of a product_access and ``tier_id`` of a tier_access are required,
    ``feature`` of a feature_unlock and ``metric`` of a usage_allowance are not. Only credits and
    allowances have a quantity; without one they are unlimited.

    A renewable grant starts each period at its quantity, an accumulative one adds it to the
    rest. Metadata says when: ``reset_interval`` (hour, day, week, month or year; default: month),
    ``reset_day`` (1 to 31, of a month or year: at midnight; default: periods run from the start),
    ``timezone`` (default: UTC) and, for an accumulative grant, ``rollover_cap``.

    A field that is not known is refused: a misspelt quantity would grant without a limit.
    """

    user_id: SubjectId | None = None
    subject_type: SubjectType | None = None
    subject_id: SubjectId | None = None
    grant_reason: GrantReason
    granted_at: AwareTime | None = None
    expires_at: AwareTime | None = None
    reference_id: Text255 | None = None
    entitlement_metadata: Json | None = None
    correlation_id: Text255 | None = None


class GrantItem(Struct, frozen=True, gc=False, kw_only=True):
    """A grant as of now. ``quantity_granted`` and ``remaining`` are null if it is unlimited or
    cannot be consumed.
    """

    id: str
    subject_type: SubjectType
    subject_id: str
    user_id: str | None
    entitlement_type: EntitlementType
    grant_reason: GrantReason
    status: GrantState
    credit_type: str | None
    metric: str | None
    feature: str | None
    product_id: str | None
    tier_id: str | None
    subscription_id: str | None
    quantity_granted: int | None
    quantity_used: int
    remaining: int | None
    consumption_type: ConsumptionType
    priority: int
    granted_at: datetime
    expires_at: datetime | None
    renews_at: datetime | None
    revoked_at: datetime | None
    revoke_reason: str | None
    reference_id: str | None
    cost_microcents: int | None
    notes: str | None
    metadata: dict[str, Any]
    granted_by: str
    created_at: datetime


class GrantResponse(GrantItem, frozen=True, gc=False, kw_only=True):
    """The new grant. ``operation_id`` is its operation in the ledger."""

    operation_id: str
    correlation_id: str
    replayed: bool


class EntitlementsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of grants, newest first; omitted filters match everything."""

    subject_type: SubjectType | None = None
    subject_id: IdFilter | None = None
    entitlement_type: EntitlementType | None = None
    status: StateFilter = "all"
    reference_id: TextFilter | None = None
    limit: PageLimit = 100
    cursor: str | None = None


class UserEntitlementsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of a user's grants, newest first."""

    entitlement_type: EntitlementType | None = None
    status: StateFilter = "all"
    limit: PageLimit = 100
    cursor: str | None = None


class EntitlementsResponse(Struct, frozen=True, gc=False, kw_only=True):
    entitlements: list[GrantItem]
    count: int
    next_cursor: str | None
    correlation_id: str


class RevokeQuery(Struct, frozen=True, kw_only=True):
    reason: OptionalReason | None = None


class RevokeReferenceRequest(Struct, frozen=True, gc=False, kw_only=True):
    """The revocation of every grant with a reference, such as the id of a payment."""

    reference_id: Annotated[Text255, Meta(min_length=1)]
    reason: OptionalReason | None = None


class RevokedResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The grants that the request revoked; those that had ended before are left out."""

    revoked: list[GrantItem]
    count: int
    correlation_id: str
    replayed: bool


class AccessItem(Struct, frozen=True, gc=False, kw_only=True):
    """What to check: a type, and optionally what exactly; omitted fields match everything.

    ``required_quantity`` is for credits and allowances.
    """

    entitlement_type: EntitlementType
    credit_type: CreditTypeName | None = None
    metric: Metric | None = None
    feature: Name | None = None
    product_id: SubjectId | None = None
    tier_id: SubjectId | None = None
    subscription_id: SubjectId | None = None
    required_quantity: PositiveAmount | None = None


class AccessRequest(AccessItem, frozen=True, gc=False, kw_only=True):
    """A check whether a user has an entitlement, by themselves or by an org."""

    user_id: SubjectId
    org_id: SubjectId | None = None


class SourceItem(Struct, frozen=True, gc=False, kw_only=True):
    """A grant that gives the access. ``remaining`` is null without a quantity."""

    grant_id: str
    subject_type: SubjectType
    subject_id: str
    grant_reason: GrantReason
    remaining: int | None
    expires_at: datetime | None


class AccessResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Whether there is access, and what gives it.

    ``total_available_quantity`` is null without a limit, and for what cannot be consumed.
    ``expires_at`` is the earliest expiry of the sources. ``limitations`` merges their metadata: of
    numbers the largest, of lists the union, else the first in burn order.
    """

    has_access: bool
    total_available_quantity: int | None
    expires_at: datetime | None
    limitations: dict[str, Any]
    sources: list[SourceItem]


class BulkAccessRequest(Struct, frozen=True, gc=False, kw_only=True):
    user_id: SubjectId
    org_id: SubjectId | None = None
    checks: Annotated[list[AccessItem], Meta(min_length=1, max_length=CHECKS_MAX)]


class BulkAccessResponse(Struct, frozen=True, gc=False, kw_only=True):
    """``results`` are in the order of the checks."""

    results: list[AccessResponse]


class FeatureQuery(Struct, frozen=True, kw_only=True):
    user_id: IdFilter
    org_id: IdFilter | None = None


class SpendRequest(Struct, frozen=True, gc=False, kw_only=True):
    """A consumption of credits of a type, or of allowances of a metric, without a price.

    A credit_grant requires ``credit_type``; a usage_allowance without ``metric`` takes from
    allowances without one.
    """

    user_id: SubjectId
    org_id: SubjectId | None = None
    entitlement_type: ConsumableType
    credit_type: CreditTypeName | None = None
    metric: Metric | None = None
    quantity_to_consume: PositiveAmount
    usage_context: Json | None = None
    correlation_id: Text255 | None = None


class UsageRecord(Struct, frozen=True, gc=False, kw_only=True):
    """The quantity that one grant paid."""

    grant_id: str
    quantity: int


class SpendResponse(Struct, frozen=True, gc=False, kw_only=True):
    """The quantity that each grant paid, in burn order. ``remaining`` is null without a limit."""

    usage_records: list[UsageRecord]
    remaining: int | None
    source: SubjectType
    operation_id: str
    correlation_id: str
    replayed: bool


class AllowanceItem(Struct, frozen=True, gc=False, kw_only=True):
    """Units of a metric. ``available`` is null without a limit."""

    available: int | None
    used: int


class ExpiryItem(Struct, frozen=True, gc=False, kw_only=True):
    """A grant that ends. ``remaining`` is null without a quantity."""

    grant_id: str
    entitlement_type: EntitlementType
    at: datetime
    remaining: int | None


class RenewalItem(Struct, frozen=True, gc=False, kw_only=True):
    """A grant whose next period begins."""

    grant_id: str
    entitlement_type: EntitlementType
    at: datetime
    quantity: int


class SummaryResponse(Struct, frozen=True, gc=False, kw_only=True):
    """A summary of a subject. Credits are by credit type, null without a limit; ``allowances`` by
    metric, those without a metric under the empty name; ``next_expiries`` and ``next_renewals`` are
    the next ten.

    ``has_active_subscription`` leaves out trials. ``tier`` is that of the first tier_access in burn
    order. Used quantities are over all time.
    """

    subject_type: SubjectType
    subject_id: str
    active_entitlements: int
    has_active_subscription: bool
    tier: str | None
    features: list[str]
    total_credits_available: dict[str, int | None]
    total_credits_used: dict[str, int]
    allowances: dict[str, AllowanceItem]
    next_expiries: list[ExpiryItem]
    next_renewals: list[RenewalItem]


GRANT: Final = Verb(
    "grant_entitlement",
    "POST",
    "/api/v1/entitlements/grant",
    GrantRequest,
    GrantResponse,
    answers_with=(201,),
)
ENTITLEMENTS_OF_USER: Final = Verb(
    "list_user_entitlements",
    "GET",
    "/api/v1/entitlements/users/{user_id}",
    UserEntitlementsQuery,
    EntitlementsResponse,
)
USER_SUMMARY: Final = Verb(
    "show_user_summary", "GET", f"{ENTITLEMENTS_OF_USER.path}/summary", None, SummaryResponse
)
ENTITLEMENT: Final = Verb(
    "show_entitlement", "GET", "/api/v1/entitlements/{entitlement_id}", None, GrantItem
)
REVOKE: Final = Verb("revoke_entitlement", "DELETE", ENTITLEMENT.path, RevokeQuery, GrantItem)
ENTITLEMENTS: Final = Verb(
    "list_entitlements", "GET", "/v1/admin/entitlements", EntitlementsQuery, EntitlementsResponse
)
REVOKE_REFERENCE: Final = Verb(
    "revoke_entitlements_by_reference",
    "POST",
    f"{ENTITLEMENTS.path}/revoke",
    RevokeReferenceRequest,
    RevokedResponse,
)
SUMMARY: Final = Verb(
    "show_summary",
    "GET",
    "/v1/admin/entitlements/{subject_type}/{subject_id}/summary",
    None,
    SummaryResponse,
)
ACCESS: Final = Verb(
    "check_entitlement", "POST", "/v1/entitlements/check", AccessRequest, AccessResponse
)
ACCESS_ALL: Final = Verb(
    "check_entitlements", "POST", f"{ACCESS.path}/bulk", BulkAccessRequest, BulkAccessResponse
)
FEATURE: Final = Verb(
    "check_feature", "GET", "/v1/entitlements/features/{feature}", FeatureQuery, AccessResponse
)
SPEND: Final = Verb(
    "consume_entitlement", "POST", "/v1/entitlements/consume", SpendRequest, SpendResponse
)
