"""The closed sets of the ledger: kinds, statuses and reasons, as they are stored and answered."""

from enum import StrEnum
from typing import Literal

SubjectType = Literal["org", "user"]
ConsumedFrom = Literal["org", "user", "none"]
"""The type of the subject that paid."""


class GrantReason(StrEnum):
    """The reason of a grant."""

    PURCHASE = "purchase"
    SUBSCRIPTION = "subscription"
    PROMOTION = "promotion"
    BONUS = "bonus"
    TRIAL = "trial"
    MANUAL = "manual"
    ENTERPRISE_CONTRACT = "enterprise_contract"
    SIGNUP_BONUS = "signup_bonus"
    REFUND = "refund"
    SUBSCRIPTION_CANCELLED = "subscription_cancelled"
    MANUAL_ADJUSTMENT = "manual_adjustment"


class EntitlementType(StrEnum):
    """What a grant gives. Only credits and allowances can be consumed; the others are either there
    or not.
    """

    SUBSCRIPTION = "subscription"
    PRODUCT_ACCESS = "product_access"
    CREDIT_GRANT = "credit_grant"
    FEATURE_UNLOCK = "feature_unlock"
    TIER_ACCESS = "tier_access"
    API_ACCESS = "api_access"
    USAGE_ALLOWANCE = "usage_allowance"
    TEMPORARY_ACCESS = "temporary_access"

    @property
    def is_consumable(self) -> bool:
        return self in {EntitlementType.CREDIT_GRANT, EntitlementType.USAGE_ALLOWANCE}


class ConsumptionType(StrEnum):
    """How a grant is used: not at all (``NONE``), or up (``DECREMENTAL``); starting again in each
    period (``RENEWABLE``), or growing in each period (``ACCUMULATIVE``).
    """

    NONE = "none"
    DECREMENTAL = "decremental"
    RENEWABLE = "renewable"
    ACCUMULATIVE = "accumulative"


class GrantStatus(StrEnum):
    """The status of a grant at a time."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    REVOKED = "revoked"


class OperationKind(StrEnum):
    CONSUME = "consume"
    GRANT = "grant"
    ACTIVATION = "activation"
    EXPIRY = "expiry"
    RENEWAL = "renewal"
    REVOCATION = "revocation"
    ADJUSTMENT = "manual_adjustment"
    REVERSAL = "reversal"
    SETTLEMENT = "settlement"
    WRITE_OFF = "write_off"
    HOLD = "hold"
    EXTENSION = "extension"
    RELEASE = "release"
    LAPSE = "lapse"
    SUBSCRIPTION = "subscription"


class OperationStatus(StrEnum):
    """The status of an operation."""

    COMPLETED = "completed"
    FAILED = "failed"
    PENDING = "pending"


class HoldStatus(StrEnum):
    """The status of a hold. A lapsed hold can still be settled for a day."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    LAPSED = "lapsed"


class DenialReason(StrEnum):
    """Why work may not run, in descending precedence: the caller gets the first that applies.

    Finished work that fails has one of these reasons too.
    """

    POLICY_DENIED = "policy_denied"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INSUFFICIENT_CREDITS = "insufficient_credits"


class ConsumptionOutcome(StrEnum):
    """The result of a usage report."""

    CHARGED = "charged"
    FREE = "free"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SETTLED = "settled"


class RefusalCode(StrEnum):
    """The reason for a refusal; nothing was written."""

    KEY_REUSED = "idempotency_key_reused"
    JOB_CONFLICT = "job_conflict"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    POLICY_DENIED = "policy_denied"
    BELOW_ZERO = "below_zero"
    HELD = "held"
    AMOUNT_TOO_LARGE = "amount_too_large"
    NOT_REVERSIBLE = "not_reversible"
    REVERSED_ALREADY = "reversed_already"
    NOTHING_LEFT = "nothing_left"
    DEBT_CLOSED = "debt_closed"
    UNPRICED = "unpriced"
    PRICED = "priced"
    HOLD_CLOSED = "hold_closed"
    HOLD_UNKNOWN = "hold_unknown"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    INVALID_GRANT = "invalid_grant"
    UNKNOWN_PLAN = "unknown_plan"
    INVALID_PERIOD = "invalid_period"
    SUBSCRIPTION_EXISTS = "subscription_exists"
    SUBSCRIPTION_ENDED = "subscription_ended"
