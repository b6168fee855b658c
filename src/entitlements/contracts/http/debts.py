"""Bodies of debts."""

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from entitlements.contracts.http.fields import (
    ConsumedFrom,
    OptionalReason,
    PageLimit,
    PositiveAmount,
    SubjectType,
)
from entitlements.contracts.verbs import Verb


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


DEBTS: Final = Verb("list_debts", "GET", "/v1/admin/credits/debts", DebtsQuery, DebtsResponse)
_ONE: Final = f"{DEBTS.path}/{{operation_id}}"
SETTLE_DEBT: Final = Verb("settle_debt", "POST", f"{_ONE}/settle", SettleDebtRequest, DebtResponse)
WRITE_OFF_DEBT: Final = Verb(
    "write_off_debt", "POST", f"{_ONE}/write-off", DebtRequest, DebtResponse
)
PRICE_DEBT: Final = Verb("price_debt", "POST", f"{_ONE}/price", DebtRequest, DebtPricedResponse)
