"""The validated policy: what things cost, who pays, what is limited and given away."""

from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

AMOUNT_MAX: Final = 10**15
"""The largest units, credits or product of the two that is accepted anywhere."""

DEFAULT_CREDIT_TYPE: Final = "credits"


class Attribution(StrEnum):
    """Who is asked to pay, in order; a payer covers the whole requirement or is passed over."""

    ORG_FIRST = "org_first"
    USER_FIRST = "user_first"
    ORG_ONLY = "org_only"


class Shortfall(StrEnum):
    """What becomes of finished work that nobody can pay: filed as a debt, or drawn below zero."""

    RECORD = "record"
    OVERDRAFT = "overdraft"


class BurnOrder(StrEnum):
    """Which of two grants of equal priority burns first: the sooner to expire, or the older."""

    EXPIRY = "expiry"
    FIFO = "fifo"


class ReverseExpired(StrEnum):
    """Where reversed credits go whose grant has ended: they expire at once, or live on."""

    LAPSE = "lapse"
    RESTORE = "restore"


class LimiterDown(StrEnum):
    """What holds while the shared limiter cannot be reached: each process by itself, nothing is
    limited, or whatever is limited is denied.
    """

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Cost(Struct, frozen=True, gc=False, kw_only=True):
    """``credits`` of ``credit_type`` for every ``per`` units, in proportion."""

    credits: int
    credit_type: str = DEFAULT_CREDIT_TYPE
    per: int = 1


class Limit(Struct, frozen=True, gc=False, kw_only=True):
    """At most ``count`` units in any ``window_s`` seconds; ``None`` is unlimited."""

    count: int | None
    window_s: int
    per: Literal["user", "org"] = "user"


class Threshold(Struct, frozen=True, gc=False, kw_only=True):
    """Told when a balance goes below it, and when it comes back; ``percent`` is of what the wallet
    held right after its last grant, and then ``below`` says nothing. Without ``subject_type`` it
    is everybody's.
    """

    below: int = 0
    percent: int | None = None
    credit_type: str = DEFAULT_CREDIT_TYPE
    subject_type: Literal["org", "user"] | None = None


class Policy(Struct, frozen=True, gc=False, kw_only=True):
    """One version of the rules; ``version`` is the SHA-256, in hex, of the document's text."""

    version: str
    costs: dict[str, Cost]
    limits: dict[str, tuple[Limit, ...]]
    signup_bonuses: dict[str, int]
    attribution: Attribution = Attribution.ORG_FIRST
    shortfall: Shortfall = Shortfall.RECORD
    overdraft_limit: int = 0
    settle_debts: bool = False
    debt_gate: int | None = None
    """Who owes more than this, of a credit type, is no payer for checks and holds."""
    unknown_metrics_free: bool = False
    burn_order: BurnOrder = BurnOrder.EXPIRY
    reverse_expired: ReverseExpired = ReverseExpired.LAPSE
    limiter_down: LimiterDown = LimiterDown.LOCAL
    thresholds: tuple[Threshold, ...] = ()
    implicit_idempotency_s: int | None = 86_400
    cache_ttl_s: int = 300

    def knows(self, metric: str) -> bool:
        """Whether the metric has a cost or a limit; ``unknown_metrics_free`` does not matter."""
        return metric in self.costs or metric in self.limits
