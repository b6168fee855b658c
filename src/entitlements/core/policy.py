"""The validated policy: costs, attribution, rate limits, signup bonuses and plans."""

from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from entitlements.core.plans import Plan

AMOUNT_MAX: Final = 10**15
"""The upper bound of units, of credits and of their products."""

DEFAULT_CREDIT_TYPE: Final = "credits"


def percent_of(percent: int, amount: int) -> int:
    """Return the percentage of the amount, rounded up."""
    return -(-percent * amount // 100)


class Attribution(StrEnum):
    """The order in which payers are tried; a payer covers the whole requirement or is skipped.

    With ``SPLIT`` the org pays as much as it can, and the user the rest.
    """

    ORG_FIRST = "org_first"
    USER_FIRST = "user_first"
    ORG_ONLY = "org_only"
    SPLIT = "split"


class ShortfallRule(StrEnum):
    """The rule for finished work that no payer covers: record a debt, or overdraw a wallet."""

    RECORD = "record"
    OVERDRAFT = "overdraft"


class BurnOrder(StrEnum):
    """The burn-down order of grants with equal priority: soonest expiry first, or oldest first."""

    EXPIRY = "expiry"
    FIFO = "fifo"


class ReverseExpired(StrEnum):
    """The rule for reversed credits of an ended grant: expire immediately, or get a new grant."""

    LAPSE = "lapse"
    RESTORE = "restore"


class LimiterDown(StrEnum):
    """The rule while the shared limiter is unreachable: each process limits by itself, nothing is
    limited, or every limited metric is denied.
    """

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Memberships(StrEnum):
    """Whether an org pays for its members alone, and for each up to a monthly cap."""

    OFF = "off"
    ENFORCE = "enforce"


class Cost(Struct, frozen=True, gc=False, kw_only=True):
    """A price of ``credits`` of ``credit_type`` per ``per`` units, in proportion."""

    credits: int
    credit_type: str = DEFAULT_CREDIT_TYPE
    per: int = 1


class Limit(Struct, frozen=True, gc=False, kw_only=True):
    """A limit of ``count`` units in any ``window_s`` seconds; None is unlimited.

    ``warn`` is the percentage of the limit from which on use is announced.
    """

    count: int | None
    window_s: int
    per: Literal["user", "org"] = "user"
    warn: int | None = None

    @property
    def warn_at(self) -> int | None:
        """The fewest units that are near the limit, or None."""
        if self.count is None or self.warn is None:
            return None
        return percent_of(self.warn, self.count)


class Threshold(Struct, frozen=True, gc=False, kw_only=True):
    """A level of a balance whose crossings are announced, downward and upward.

    ``percent`` is relative to the balance right after the wallet's last grant; ``below`` is then
    ignored. Without ``subject_type`` it applies to users and orgs.
    """

    below: int = 0
    percent: int | None = None
    credit_type: str = DEFAULT_CREDIT_TYPE
    subject_type: Literal["org", "user"] | None = None


class Requirement(Struct, frozen=True, gc=False, kw_only=True):
    """An entitlement that a metric requires: a feature or a tier."""

    feature: str | None = None
    tier: str | None = None


class Policy(Struct, frozen=True, gc=False, kw_only=True):
    """One version of the policy; ``version`` is the SHA-256, in hex, of the document's text."""

    version: str
    costs: dict[str, Cost]
    limits: dict[str, tuple[Limit, ...]]
    signup_bonuses: dict[str, int]
    attribution: Attribution = Attribution.ORG_FIRST
    memberships: Memberships = Memberships.OFF
    shortfall: ShortfallRule = ShortfallRule.RECORD
    overdraft_limit: int = 0
    settle_debts: bool = False
    debt_gate: int | None = None
    """For checks and holds, a candidate whose debts of a credit type exceed this cannot pay."""
    unknown_metrics_free: bool = False
    requires: dict[str, Requirement] = {}
    """For checks and holds: the entitlement that the user or the org must have, by metric."""
    burn_order: BurnOrder = BurnOrder.EXPIRY
    reverse_expired: ReverseExpired = ReverseExpired.LAPSE
    limiter_down: LimiterDown = LimiterDown.LOCAL
    thresholds: tuple[Threshold, ...] = ()
    plans: dict[str, Plan] = {}
    free_plan: str | None = None
    """The plan after a subscription whose lifecycle is ``freemium``."""
    implicit_idempotency_s: int | None = 86_400
    cache_ttl_s: int = 300
    allowances: frozenset[str] = frozenset()
    """The metrics that allowances were granted for. They are kept in the database and are not part
    of the document.
    """

    def knows(self, metric: str) -> bool:
        """Return whether the metric has a cost or a limit, ignoring ``unknown_metrics_free``."""
        return metric in self.costs or metric in self.limits
