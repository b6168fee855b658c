"""Bodies of holds."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from entitlements.contracts.http.fields import (
    METRICS_MAX,
    Amount,
    ConsumedFrom,
    CreditTypeName,
    IdFilter,
    Metric,
    OptionalReason,
    PageLimit,
    PositiveAmount,
    Requirements,
    SubjectId,
    SubjectType,
    Text255,
)
from entitlements.contracts.http.ledger import DrawItem
from entitlements.contracts.verbs import Verb

HoldState = Literal["open", "settled", "released", "lapsed"]
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
    credit_type: CreditTypeName | None = None
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
    allowance_units: dict[str, int] | UnsetType = UNSET
    correlation_id: str
    replayed: bool


class SettleHoldRequest(Struct, frozen=True, gc=False, kw_only=True):
    """The actual usage: units by metric in ``requirements``, or ``credits``.

    ``credit_type`` defaults to the hold's first type. ``final`` false settles a part and keeps the
    rest held.
    """

    requirements: Requirements | None = None
    credits: Amount | None = None
    credit_type: CreditTypeName | None = None
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


class AllowanceNumbersItem(Struct, frozen=True, gc=False, kw_only=True):
    """The effect of a request on the allowances of one metric, in units."""

    charged: int
    returned: int
    held: int


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
    allowances: dict[str, AllowanceNumbersItem] | UnsetType = UNSET
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
    allowances: dict[str, HoldPartItem] | UnsetType = UNSET
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
    subject_id: IdFilter | None = None
    status: Literal["open", "settled", "released", "lapsed", "all"] = "open"
    limit: PageLimit = 100
    cursor: str | None = None


class HoldsResponse(Struct, frozen=True, gc=False, kw_only=True):
    """Holds, newest first. ``next_cursor`` is null on the last page."""

    holds: list[HoldItem]
    count: int
    next_cursor: str | None
    correlation_id: str


HOLD: Final = Verb(
    "take_hold",
    "POST",
    "/v1/entitlements/holds",
    HoldRequest,
    HoldResponse,
    answers_with=(201,),
)
_ONE: Final = f"{HOLD.path}/{{hold_id}}"
SHOW_HOLD: Final = Verb("show_hold", "GET", _ONE, None, HoldItem)
SETTLE_HOLD: Final = Verb(
    "settle_hold", "POST", f"{_ONE}/settle", SettleHoldRequest, HoldChangeResponse
)
EXTEND_HOLD: Final = Verb(
    "extend_hold", "POST", f"{_ONE}/extend", ExtendHoldRequest, HoldChangeResponse
)
RELEASE_HOLD: Final = Verb(
    "release_hold", "POST", f"{_ONE}/release", ReleaseHoldRequest, HoldChangeResponse
)
HOLDS: Final = Verb("list_holds", "GET", "/v1/admin/holds", HoldsFilter, HoldsResponse)
