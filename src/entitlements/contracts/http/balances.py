"""Bodies of balances."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Struct

from entitlements.contracts import kinds
from entitlements.contracts.http.fields import SubjectType
from entitlements.contracts.verbs import Verb


class BalanceQuery(Struct, frozen=True, kw_only=True):
    org_id: Annotated[str, kinds.STORED_ID] | None = None


class SoonestExpiry(Struct, frozen=True, gc=False, kw_only=True):
    """The next expiry: the credits that are lost unless they are spent before."""

    at: datetime
    credits: int


class Holding(Struct, frozen=True, gc=False, kw_only=True):
    """A subject's credits of one type; ``soonest_expiry`` is null if nothing expires.

    With ``unlimited``, a grant without a quantity pays any amount; ``available`` is then 10^15.
    """

    balance: int
    held: int
    available: int
    unlimited: bool = False
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


BALANCE: Final = Verb(
    "balance", "GET", "/v1/entitlements/balance/{user_id}", BalanceQuery, BalanceResponse
)
