"""Plans: what a subscription grants, and what its end leaves."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from entitlements.core.reasons import ConsumptionType, EntitlementType
from entitlements.core.renewals import Interval, Period


class Terms(Struct, frozen=True, gc=False, kw_only=True):
    """The validated terms of a grant: what it gives, without its subject, reason and times.

    ``quantity`` is 0 for what cannot be consumed and with ``unlimited``. ``metadata`` is a JSON
    object as text.
    """

    entitlement_type: EntitlementType
    consumption: ConsumptionType = ConsumptionType.NONE
    quantity: int = 0
    unlimited: bool = False
    period: Period | None = None
    priority: int = 50
    credit_type: str | None = None
    metric: str | None = None
    feature: str | None = None
    product_id: str | None = None
    tier_id: str | None = None
    subscription_id: str | None = None
    cost_microcents: int | None = None
    notes: str | None = None
    metadata: str = "{}"


class LifecycleRule(StrEnum):
    """What a subject has after its subscription: nothing (``DEFAULT``), the free plan, temporary
    access, the same for reading only, or for its data only and without an end.
    """

    DEFAULT = "default"
    FREEMIUM = "freemium"
    GRACE_PERIOD = "grace_period"
    READ_ONLY = "read_only"
    KEEP_DATA = "keep_data"


class Lifecycle(Struct, frozen=True, gc=False):
    """The rule for the end of a subscription; ``days`` only where the access that it gives ends."""

    rule: LifecycleRule = LifecycleRule.DEFAULT
    days: int | None = None

    def __str__(self) -> str:
        return self.rule.value if self.days is None else f"{self.rule}(days={self.days})"


class Plan(Struct, frozen=True, gc=False, kw_only=True):
    """The grants of a subscription, the default length of its period, and the rule for its end."""

    grants: tuple[Terms, ...]
    period: Interval = Interval.MONTH
    lifecycle: Lifecycle = Lifecycle()
