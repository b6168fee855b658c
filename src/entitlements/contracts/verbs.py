"""What can be asked, with where it is asked over HTTP: routes, clients and fingerprints agree."""

from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct

from entitlements.contracts import http

T_co = TypeVar("T_co", bound=Struct, covariant=True)


@dataclass(frozen=True, slots=True)
class Verb(Generic[T_co]):
    """One question or order, and what answers it. ``path`` has its parameters in braces.

    ``answers_with`` are the statuses whose body is the answer; all others bring a problem.
    """

    method: Literal["GET", "POST"]
    path: str
    answer: type[T_co]
    answers_with: tuple[int, ...] = (200,)
    is_keyed: bool = True


CHECK: Final = Verb("POST", "/v1/entitlements/check-credits", http.CheckResponse, is_keyed=False)
CHECK_ALL: Final = Verb(
    "POST",
    "/v1/entitlements/check-credits/bulk",
    http.BulkCheckResponse,
    answers_with=(200, 402, 429),
    is_keyed=False,
)
CONSUME: Final = Verb("POST", "/v1/entitlements/consume-credits", http.ConsumeResponse)
CONSUME_ALL: Final = Verb("POST", f"{CONSUME.path}/bulk", http.BulkConsumeResponse)
REVERSE: Final = Verb(
    "POST", "/v1/entitlements/operations/{operation_id}/reverse", http.ReverseResponse
)
HOLD: Final = Verb("POST", "/v1/entitlements/holds", http.HoldResponse, answers_with=(201,))
SHOW_HOLD: Final = Verb("GET", f"{HOLD.path}/{{hold_id}}", http.HoldItem, is_keyed=False)
SETTLE_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/settle", http.HoldChangeResponse)
EXTEND_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/extend", http.HoldChangeResponse)
RELEASE_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/release", http.HoldChangeResponse)
HOLDS: Final = Verb("GET", "/v1/admin/holds", http.HoldsResponse, is_keyed=False)
BALANCE: Final = Verb(
    "GET", "/v1/entitlements/balance/{user_id}", http.BalanceResponse, is_keyed=False
)
OPEN_ACCOUNT: Final = Verb(
    "POST", "/v1/admin/accounts", http.AccountResponse, answers_with=(200, 201)
)
ADJUST: Final = Verb("POST", "/v1/admin/credits/adjust", http.AdjustResponse)
SET_BALANCE: Final = Verb("POST", "/v1/admin/credits/set", http.SetResponse)
AUDIT: Final = Verb("GET", "/v1/admin/audit", http.AuditResponse, is_keyed=False)
DEBTS: Final = Verb("GET", "/v1/admin/credits/debts", http.DebtsResponse, is_keyed=False)
SETTLE_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/settle", http.DebtResponse)
WRITE_OFF_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/write-off", http.DebtResponse)
PRICE_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/price", http.DebtPricedResponse)
RATE_LIMITS: Final = Verb(
    "GET", "/v1/admin/rate-limits/{subject_id}", http.RateLimitsResponse, is_keyed=False
)
RESET_RATE_LIMIT: Final = Verb(
    "POST", "/v1/admin/credits/reset-rate-limit", http.ResetRateLimitResponse
)
POLICIES: Final = Verb("GET", "/v1/admin/policies", http.PoliciesResponse, is_keyed=False)
POLICY: Final = Verb("GET", f"{POLICIES.path}/{{version}}", http.PolicyResponse, is_keyed=False)
DIFF_POLICIES: Final = Verb("GET", f"{POLICIES.path}/diff", http.PolicyDiffResponse, is_keyed=False)
CHECK_POLICY: Final = Verb(
    "POST", f"{POLICIES.path}/check", http.PolicyCheckResponse, is_keyed=False
)
APPLY_POLICY: Final = Verb(
    "POST", POLICIES.path, http.PolicyApplyResponse, answers_with=(200, 201), is_keyed=False
)
OPERATIONS: Final = Verb(
    "GET", "/v1/admin/credits/operations", http.OperationsResponse, is_keyed=False
)
OPERATION: Final = Verb(
    "GET", f"{OPERATIONS.path}/{{operation_id}}", http.OperationItem, is_keyed=False
)
