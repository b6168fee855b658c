"""Bodies of accounts, adjustments and set balances, single and in bulk."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from entitlements.contracts.http.fields import (
    ITEMS_MAX,
    Amount,
    AwareTime,
    CreditType,
    IdempotencyKey,
    OptionalReason,
    Reason,
    SignedAmount,
    StoredId,
    SubjectId,
    SubjectType,
    Text255,
)
from entitlements.contracts.verbs import Verb


class AdjustRequest(Struct, frozen=True, gc=False, kw_only=True):
    """An adjustment: a positive ``amount`` grants credits, a negative one burns them.

    Granted credits can expire (``expires_at``). ``expires_at`` with a negative amount, and amount
    0, are refused.
    """

    subject_type: SubjectType
    subject_id: StoredId
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
    subject_id: StoredId
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


OPEN_ACCOUNT: Final = Verb(
    "open_account",
    "POST",
    "/v1/admin/accounts",
    AccountRequest,
    AccountResponse,
    answers_with=(200, 201),
)
OPEN_ACCOUNTS: Final = Verb(
    "open_accounts", "POST", f"{OPEN_ACCOUNT.path}/bulk", BulkAccountRequest, BulkAccountResponse
)
ADJUST: Final = Verb(
    "adjust_balance", "POST", "/v1/admin/credits/adjust", AdjustRequest, AdjustResponse
)
ADJUST_ALL: Final = Verb(
    "adjust_balances", "POST", f"{ADJUST.path}/bulk", BulkAdjustRequest, BulkAdjustResponse
)
SET_BALANCE: Final = Verb("set_balance", "POST", "/v1/admin/credits/set", SetRequest, SetResponse)
SET_BALANCES: Final = Verb(
    "set_balances", "POST", f"{SET_BALANCE.path}/bulk", BulkSetRequest, BulkSetResponse
)
