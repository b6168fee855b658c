"""The requests of the HTTP interface, shared by routes, clients and fingerprints."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct

from entitlements.contracts import http


class Keying(StrEnum):
    """How a route treats an Idempotency-Key."""

    TAKEN = "taken"
    IGNORED = "ignored"
    REFUSED = "refused"


_READING: Final = frozenset(
    (
        "/v1/entitlements/check-credits",
        "/v1/entitlements/check-credits/bulk",
        "/v1/admin/policies/check",
    )
)
"""POST routes that change nothing."""
_UNKEYED: Final = ("/v1/admin/policies", "/v1/admin/webhooks")
"""Policies are identified by hash and webhooks by URL; secrets are not stored for replays."""


def keying(method: str, path: str) -> Keying:
    """Return how a route treats a key. POST takes one; other methods are repeatable without."""
    if method != "POST" or path in _READING:
        return Keying.IGNORED
    return Keying.REFUSED if path.startswith(_UNKEYED) else Keying.TAKEN


T_co = TypeVar("T_co", bound=Struct, covariant=True)


@dataclass(frozen=True, slots=True)
class Verb(Generic[T_co]):
    """A request and the type of its response. ``path`` has its parameters in braces.

    The body is the response type for the statuses in ``answers_with``, and a problem for others.
    """

    method: Literal["GET", "POST"]
    path: str
    answer: type[T_co]
    answers_with: tuple[int, ...] = (200,)

    @property
    def is_keyed(self) -> bool:
        """Return whether it takes an Idempotency-Key."""
        return keying(self.method, self.path) is Keying.TAKEN


CHECK: Final = Verb("POST", "/v1/entitlements/check-credits", http.CheckResponse)
CHECK_ALL: Final = Verb(
    "POST",
    "/v1/entitlements/check-credits/bulk",
    http.BulkCheckResponse,
    answers_with=(200, 402, 429),
)
CONSUME: Final = Verb("POST", "/v1/entitlements/consume-credits", http.ConsumeResponse)
CONSUME_ALL: Final = Verb("POST", f"{CONSUME.path}/bulk", http.BulkConsumeResponse)
REVERSE: Final = Verb(
    "POST", "/v1/entitlements/operations/{operation_id}/reverse", http.ReverseResponse
)
HOLD: Final = Verb("POST", "/v1/entitlements/holds", http.HoldResponse, answers_with=(201,))
SHOW_HOLD: Final = Verb("GET", f"{HOLD.path}/{{hold_id}}", http.HoldItem)
SETTLE_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/settle", http.HoldChangeResponse)
EXTEND_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/extend", http.HoldChangeResponse)
RELEASE_HOLD: Final = Verb("POST", f"{HOLD.path}/{{hold_id}}/release", http.HoldChangeResponse)
HOLDS: Final = Verb("GET", "/v1/admin/holds", http.HoldsResponse)
BALANCE: Final = Verb("GET", "/v1/entitlements/balance/{user_id}", http.BalanceResponse)
OPEN_ACCOUNT: Final = Verb(
    "POST", "/v1/admin/accounts", http.AccountResponse, answers_with=(200, 201)
)
ADJUST: Final = Verb("POST", "/v1/admin/credits/adjust", http.AdjustResponse)
SET_BALANCE: Final = Verb("POST", "/v1/admin/credits/set", http.SetResponse)
OPEN_ACCOUNTS: Final = Verb("POST", f"{OPEN_ACCOUNT.path}/bulk", http.BulkAccountResponse)
ADJUST_ALL: Final = Verb("POST", f"{ADJUST.path}/bulk", http.BulkAdjustResponse)
SET_BALANCES: Final = Verb("POST", f"{SET_BALANCE.path}/bulk", http.BulkSetResponse)
DEBTS: Final = Verb("GET", "/v1/admin/credits/debts", http.DebtsResponse)
SETTLE_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/settle", http.DebtResponse)
WRITE_OFF_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/write-off", http.DebtResponse)
PRICE_DEBT: Final = Verb("POST", f"{DEBTS.path}/{{operation_id}}/price", http.DebtPricedResponse)
RATE_LIMITS: Final = Verb("GET", "/v1/admin/rate-limits/{subject_id}", http.RateLimitsResponse)
RESET_RATE_LIMIT: Final = Verb(
    "POST", "/v1/admin/credits/reset-rate-limit", http.ResetRateLimitResponse
)
POLICIES: Final = Verb("GET", "/v1/admin/policies", http.PoliciesResponse)
POLICY: Final = Verb("GET", f"{POLICIES.path}/{{version}}", http.PolicyResponse)
DIFF_POLICIES: Final = Verb("GET", f"{POLICIES.path}/diff", http.PolicyDiffResponse)
CHECK_POLICY: Final = Verb("POST", f"{POLICIES.path}/check", http.PolicyCheckResponse)
APPLY_POLICY: Final = Verb("POST", POLICIES.path, http.PolicyApplyResponse, answers_with=(200, 201))
OPERATIONS: Final = Verb("GET", "/v1/admin/credits/operations", http.OperationsResponse)
OPERATION: Final = Verb("GET", f"{OPERATIONS.path}/{{operation_id}}", http.OperationItem)
